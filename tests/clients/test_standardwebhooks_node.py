"""The JavaScript library of Standard Webhooks verifies our messages."""

import json
import pathlib
import shutil
import subprocess

import pytest

HERE = pathlib.Path(__file__).resolve().parent / "node"

pytestmark = pytest.mark.all


def test_a_message_verifies_and_one_that_somebody_changed_is_refused(announced):
    if shutil.which("node") is None or not (HERE / "node_modules/standardwebhooks").exists():
        pytest.skip("needs Node.js and `scripts/clients --install --group node`")
    message = {"secret": announced.secret, "headers": announced.headers, "body": announced.body.decode()}
    changed = {**message, "body": message["body"].replace("operation.succeeded", "operation.failed")}
    done = subprocess.run(
        ["node", "standardwebhooks.mjs"],
        cwd=HERE,
        input=json.dumps([message, changed]),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    right, wrong = json.loads(done.stdout)
    assert right["verified"]["type"] == "operation.succeeded"
    assert right["verified"]["data"]["metadata"]["id"] == announced.operation_id
    assert list(wrong) == ["refused"]
