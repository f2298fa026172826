"""The Python library of Standard Webhooks verifies our messages."""

import base64

import pytest
from standardwebhooks import Webhook, WebhookVerificationError


def test_a_message_verifies_with_the_secret_of_its_tenant(announced):
    message = Webhook(announced.secret).verify(announced.body, announced.headers)
    assert message["type"] == "operation.succeeded"
    assert message["data"]["metadata"]["id"] == announced.operation_id
    assert announced.headers["webhook-id"] == "msg_" + announced.operation_id.removeprefix("op_")


def test_a_message_that_somebody_changed_or_signed_without_the_secret_is_refused(announced):
    webhook = Webhook(announced.secret)
    other = Webhook("whsec_" + base64.b64encode(bytes(32)).decode())
    late = str(int(announced.headers["webhook-timestamp"]) + 1)
    changed = announced.body.replace(b"operation.succeeded", b"operation.failed")
    assert changed != announced.body
    for verifier, body, headers in [
        (other, announced.body, announced.headers),
        (webhook, changed, announced.headers),
        (webhook, announced.body, {**announced.headers, "webhook-id": "msg_1"}),
        (webhook, announced.body, {**announced.headers, "webhook-timestamp": late}),
    ]:
        with pytest.raises(WebhookVerificationError):
            verifier.verify(body, headers)
    webhook.verify(announced.body, announced.headers)
