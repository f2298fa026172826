"""Facts that Schemathesis cannot know from a schema."""

import uuid

import schemathesis
from hypothesis.internal import lambda_sources

describe = lambda_sources.lambda_description


def describe_what_can_be_parsed(function):
    # Hypothesis parses the source of a lambda to print it. Deep inside a recursive strategy Python 3.11 then raises
    # SystemError ("AST constructor recursion depth mismatch"), which ends the run and says nothing of the server.
    try:
        return describe(function)
    except SystemError:
        return "lambda"


lambda_sources.lambda_description = describe_what_can_be_parsed


@schemathesis.hook
def before_call(context, case, kwargs):
    # A key stands for one call, so one that is used for two is refused; each call gets one of its own.
    headers = case.headers or {}
    if "Idempotency-Key" in headers and case.meta and case.meta.generation.mode.is_positive:
        headers["Idempotency-Key"] = str(uuid.uuid4())


@schemathesis.check
def a_batch_counts_what_failed(ctx, response, case):
    if not case.operation.path.endswith(":batchPredict") or response.status_code not in (200, 207):
        return
    said = response.json()
    failed = [one for one in said["results"] if one["status"] != 200]
    assert len(failed) == said["failed"] and len(said["results"]) == said["failed"] + said["succeeded"]
    assert (response.status_code == 207) == bool(failed), "207 where some failed, 200 where none did"
    assert all(one["error"]["message"] for one in failed)
