#!/usr/bin/env bash
# openai 3.54.0 (PyPI) and httpx-sse 0.4.3 (PyPI): a block of an event stream without data becomes an event with empty data. In openai
# that ends the stream with a JSONDecodeError, and a byte order mark at the start makes it lose the first chunk.
#
# The HTML standard, "Interpreting an event stream": a block whose data buffer is empty is dropped, and only its `id` and `retry` are
# kept; one leading byte order mark is taken off. Servers and proxies rely on that to set the time to reconnect ("retry: 3000", then an
# empty line) or to hand out an id. Both packages ask whether the block had any field, in place of data. A comment is dropped
# rightly. The same `retry:` line within the first event's block does no harm.
#
# Seen here, the text of a stream of two chunks, "a" and "b":
#   plain: openai ['a', 'b'], httpx-sse 3 events
#   a comment first: openai ['a', 'b'], httpx-sse 3 events
#   retry in the first block: openai ['a', 'b'], httpx-sse 3 events
#   retry in a block of its own: openai JSONDecodeError, httpx-sse 4 events
#   id in a block of its own: openai JSONDecodeError, httpx-sse 4 events
#   byte order mark: openai ['b'], httpx-sse 2 events
# Do this: a server writes `retry:` and `id:` into the block of an event, and comments to keep the connection alive. A client with
# httpx-sse skips events whose data is empty.
#
# Exits 0 while the behaviour is as told, 1 when it has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: openai==3.54.0 httpx-sse==0.4.3 httpx==0.28.1
"$folder/venv/bin/python" - <<'PY'
import json
import logging
import sys

import httpx
import httpx_sse
import openai

logging.disable(logging.CRITICAL)


def event(text):
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
    return f"data: {json.dumps(chunk)}\n\n"


a, b, end = event("a"), event("b"), "data: [DONE]\n\n"
as_told = True
for name, stream, chunks, events in [
    ("plain", a + b + end, ["a", "b"], 3),
    ("a comment first", ": hello\n\n" + a + b + end, ["a", "b"], 3),
    ("retry in the first block", "retry: 3000\n" + a + b + end, ["a", "b"], 3),
    ("retry in a block of its own", "retry: 3000\n\n" + a + b + end, "JSONDecodeError", 4),
    ("id in a block of its own", a + "id: 7\n\n" + b + end, "JSONDecodeError", 4),
    ("byte order mark", "\ufeff" + a + b + end, ["b"], 2),
]:
    answer = lambda _: httpx.Response(200, headers={"content-type": "text/event-stream"}, content=stream.encode())
    http = httpx.Client(transport=httpx.MockTransport(answer))
    client = openai.OpenAI(api_key="k", base_url="http://server/v1", http_client=http, max_retries=0)
    try:
        read = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], stream=True)
        seen = [chunk.choices[0].delta.content for chunk in read]
    except ValueError as error:
        seen = type(error).__name__
    with httpx_sse.connect_sse(http, "GET", "http://server/") as source:
        count = len(list(source.iter_sse()))
    print(f"{name}: openai {seen}, httpx-sse {count} events")
    as_told &= seen == chunks and count == events
sys.exit(not as_told)
PY
