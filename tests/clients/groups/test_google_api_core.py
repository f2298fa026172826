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


def test_a_future_has_the_result_of_the_call(server, operations):
    name = begin(server)
    future = operation.from_gapic(
        operations_pb2.Operation(name=name), operations, struct_pb2.Struct, metadata_type=struct_pb2.Struct
    )
    result = json_format.MessageToDict(future.result(timeout=30))
    synchronous = requests.post(server.url + "/v1/models/identity:predict", json=ONE_ITEM, timeout=30).json()
    assert result["predictions"] == synchronous["predictions"]
    assert json_format.MessageToDict(future.metadata)["state"] == "succeeded"
    assert future.done() and not future.cancelled()


def test_operations_are_listed_cancelled_and_deleted(server, operations):
    name = begin(server)
    tenant = name.partition("/operations/")[0]
    assert name in [one.name for one in operations.list_operations(tenant, "")]
    # A finished operation stays as it is.
    operations.cancel_operation(name)
    done = requests.post(f"{server.url}/v1/{name}:wait", json={"timeout": "20s"}, timeout=30).json()
    assert done["done"] is True
    operations.delete_operation(name)
    with pytest.raises(exceptions.NotFound):
        operations.get_operation(name)
