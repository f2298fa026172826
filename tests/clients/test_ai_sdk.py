"""Vercel's AI SDK on Node.js, with its provider for servers that speak OpenAI's API."""

import json
import pathlib
import shutil
import subprocess

import pytest

HERE = pathlib.Path(__file__).resolve().parent / "node"

pytestmark = pytest.mark.all


def test_texts_become_vectors_and_an_error_is_the_sdks_own(demo):
    if shutil.which("node") is None or not (HERE / "node_modules/ai").exists():
        pytest.skip("needs Node.js and `scripts/clients --install --group node`")
    command = ["node", "ai-sdk.mjs", f"{demo.url}/v1", "none"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    cat, dog, tax = answer["many"]
    assert len(cat) == 384
    dot = lambda a, b: sum(x * y for x, y in zip(a, b))
    assert dot(cat, dog) > dot(cat, tax) + 0.2
    assert dot(answer["one"], cat) > 0.99
    assert answer["tokens"] > 10
    refused = answer["refused"]
    assert (refused["name"], refused["status"]) == ("AI_APICallError", 404)
    assert "nothing" in refused["message"]
