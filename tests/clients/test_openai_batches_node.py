"""OpenAI's client on Node.js: files and batches."""

import json
import pathlib
import shutil
import subprocess

import pytest

HERE = pathlib.Path(__file__).resolve().parent / "node"

pytestmark = pytest.mark.all


def test_a_batch_runs_and_its_objects_are_those_that_the_client_knows(demo):
    if shutil.which("node") is None or not (HERE / "node_modules/openai").exists():
        pytest.skip("needs Node.js and `scripts/clients --install --group node`")
    command = ["node", "openai-batches.mjs", f"{demo.url}/v1", "none"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["file"]["purpose"], answer["file"]["object"]) == ("batch", "file")
    assert answer["states"][-1] == "completed"
    assert answer["batch"]["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    assert [line["custom_id"] for line in answer["lines"]] == ["text-0", "text-1"]
    assert len(answer["lines"][0]["response"]["body"]["data"][0]["embedding"]) == 384
    assert answer["cancelled"] == "completed", "a batch that is over stays as it is"
    assert answer["deleted"]["deleted"] is True
    assert answer["refused"] == {"name": "NotFoundError", "status": 404, "code": "unknown_batch"}
