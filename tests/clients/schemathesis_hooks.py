"""What Schemathesis cannot know from a schema."""

import uuid

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    # A key stands for one call, so one that is used for two is refused; each call gets one of its own.
    headers = case.headers or {}
    if "Idempotency-Key" in headers and case.meta and case.meta.generation.mode.is_positive:
        headers["Idempotency-Key"] = str(uuid.uuid4())
