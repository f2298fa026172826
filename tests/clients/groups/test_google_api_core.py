"""Google's client library waits for our operations: its REST client, and its futures."""

import pytest
import requests
from google.api_core import exceptions, operation, operations_v1
from google.auth.credentials import AnonymousCredentials
from google.longrunning import operations_pb2
from google.protobuf import json_format, struct_pb2

PREDICT = "/v1/models/identity:predictAsync"
ONE_ITEM = {"inputs": {"a": [[1, 2, 3, 4]]}}


@pytest.fixture
def operations(server):
    transport = operations_v1.OperationsRestTransport(host=server.url, credentials=AnonymousCredentials())
    return operations_v1.AbstractOperationsClient(transport=transport)


def begin(server):
    answer = requests.post(server.url + PREDICT, json=ONE_ITEM, timeout=30)
    assert answer.status_code == 202, answer.text
    return answer.json()["name"]


def future_of(name, operations):
    return operation.from_gapic(
        operations_pb2.Operation(name=name), operations, struct_pb2.Struct, metadata_type=struct_pb2.Struct
    )


def test_a_future_has_the_result_of_the_call(server, operations):
    future = future_of(begin(server), operations)
    result = json_format.MessageToDict(future.result(timeout=30))
    synchronous = requests.post(server.url + "/v1/models/identity:predict", json=ONE_ITEM, timeout=30).json()
    assert result["predictions"] == synchronous["predictions"]
    assert json_format.MessageToDict(future.metadata)["state"] == "succeeded"
    assert future.done() and not future.cancelled()


def test_a_cancel_after_the_end_changes_nothing(server, operations):
    name = begin(server)
    future = future_of(name, operations)
    result = future.result(timeout=30)
    ended = json_format.MessageToDict(operations.get_operation(name))
    # A future that knows the end does not ask the server.
    assert future.cancel() is False
    operations.cancel_operation(name)
    assert json_format.MessageToDict(operations.get_operation(name)) == ended
    assert ended["done"] is True and "response" in ended
    again = future_of(name, operations)
    assert again.result(timeout=30) == result and not again.cancelled()
    assert json_format.MessageToDict(again.metadata)["state"] == "succeeded"
    # The answer to a cancel has the state as well.
    answer = requests.post(f"{server.url}/v1/{name}:cancel", json={}, timeout=30)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["done"] is True and "error" not in told
    assert told["metadata"]["value"]["state"] == "succeeded"
    assert told["metadata"]["value"]["cancel_requested"] is False
    synchronous = requests.post(server.url + "/v1/models/identity:predict", json=ONE_ITEM, timeout=30).json()
    kept = requests.get(f"{server.url}/v1/{name}/response", timeout=30)
    assert kept.status_code == 200 and kept.json()["predictions"] == synchronous["predictions"]


def test_operations_are_listed_cancelled_and_deleted(server, operations):
    name = begin(server)
    tenant = name.partition("/operations/")[0]
    assert name in [one.name for one in operations.list_operations(tenant, "")]
    # It may end before the request arrives.
    operations.cancel_operation(name)
    done = requests.post(f"{server.url}/v1/{name}:wait", json={"timeout": "20s"}, timeout=30).json()
    assert done["done"] is True
    assert done["metadata"]["value"]["state"] in ("cancelled", "succeeded")
    operations.delete_operation(name)
    with pytest.raises(exceptions.NotFound):
        operations.get_operation(name)
