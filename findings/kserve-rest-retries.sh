#!/usr/bin/env bash
# kserve 0.21.0 (PyPI), with httpx 0.28.1: the REST client does not retry, although its `retries` is documented as the number of
# retries after a ConnectError and is 3 by default.
#
# RESTConfig builds an httpx.AsyncHTTPTransport with `retries`, `cert`, `verify` and `http2`, and drops it: the constructor lacks the
# assignment. So the client gets no transport. `retries` and `cert` have no effect; the other two are given to httpx a second time.
#
# Seen here: a server starts to listen 0.7 s after the first call.
#   retries=3, its own transport: ConnectError after 0.1 s
#   a transport of the caller with retries=3: live after 1.5 s
# Do this: pass a transport, which is used as it is.
#
# Exits 0 while the behaviour is as told, 1 when it has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: kserve==0.21.0 httpx==0.28.1
"$folder/venv/bin/python" - <<'PY'
import asyncio, logging, socket, sys, time

import httpx
from kserve import InferenceRESTClient, RESTConfig

logging.disable(logging.CRITICAL)
ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 14\r\nConnection: close\r\n\r\n{"live": true}'


async def answer(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(ANSWER)
    await writer.drain()
    writer.close()


async def call(config):
    """What the client says of a server that begins to listen after 0.7 s, and when."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]

    async def serve_later():
        await asyncio.sleep(0.7)
        return await asyncio.start_server(answer, "127.0.0.1", port)

    server = asyncio.create_task(serve_later())
    began = time.monotonic()
    try:
        async with InferenceRESTClient(config) as client:
            outcome = "live" if await client.is_server_live(f"http://127.0.0.1:{port}") else "not live"
    except httpx.ConnectError:
        outcome = "ConnectError"
    took = time.monotonic() - began
    (await server).close()
    return outcome, took


async def main():
    default = RESTConfig(protocol="v2")
    outcome, took = await call(default)
    print(f"retries={default.retries}, its own transport: {outcome} after {took:.1f} s")
    mended, waited = await call(RESTConfig(protocol="v2", transport=httpx.AsyncHTTPTransport(retries=3)))
    print(f"a transport of the caller with retries=3: {mended} after {waited:.1f} s")
    same = default.retries == 3 and default.transport is None and outcome == "ConnectError" and took < 0.5 and mended == "live"
    sys.exit(0 if same else 1)


asyncio.run(main())
PY
