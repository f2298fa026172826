"""Triton's load generator on every demo model, over HTTP and gRPC."""

import json
import pathlib
import re
import subprocess

import pytest

PROGRAM = pathlib.Path(__file__).resolve().parents[2] / ".venv-clients/perf-analyzer/run"

# One request for each model, without the axis of items. By default perf_analyzer sends random letters as the bytes of any data
# type, which contracts with a range refuse.
DATA = {
    "identity": {"a": ([1.5, 2.5, 3.5, 4.5], [4])},
    "digits": {"pixels": ([8.0] * 64, [64])},
    "cls": {"x": ([0.1] * (3 * 48 * 192), [3, 48, 192])},
    "magika": {"bytes": ([7] * 2048, [2048])},
    "minilm": {
        "input_ids": ([101, 1037, 4937, 2938, 2006, 1996, 13523, 102], [8]),
        "attention_mask": ([1] * 8, [8]),
        "token_type_ids": ([0] * 8, [8]),
    },
    # perf_analyzer cannot send a shape of no axes, so the scalar goes by its shape in Triton's configuration.
    "silero-vad": {
        "input": ([0.0] * 576, [1, 576]),
        "state": ([0.0] * 256, [2, 1, 128]),
        "sr": ([16_000], [1]),
    },
}
REQUESTS = 10
CONCURRENCY = 2

pytestmark = pytest.mark.all


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("model", DATA)
def test_every_request_succeeds(server, tmp_path, model, protocol):
    if not PROGRAM.exists():
        pytest.skip("needs `scripts/clients --install --group perf-analyzer`")
    inputs = {name: {"content": content, "shape": shape} for name, (content, shape) in DATA[model].items()}
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"data": [inputs]}))
    command = [str(PROGRAM), "-m", model, "-u", server.address, "-i", protocol, "--input-data", str(data)]
    command += ["--request-count", str(REQUESTS), "--concurrency-range", str(CONCURRENCY)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    # The client reads the server's statistics while its first requests are on their way, so those may be missing.
    client, on_server = re.search(r"Request count: (\d+)", output), re.search(r"Successful request count: (\d+)", output)
    assert client and int(client[1]) >= REQUESTS, output
    assert on_server and int(on_server[1]) >= REQUESTS - CONCURRENCY, output
