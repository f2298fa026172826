"""Google's client library waits for our operations: its clients of REST and of gRPC, and its futures."""

import struct

import grpc
import pytest
import requests
from google.api_core import exceptions, operation, operations_v1
from google.auth.credentials import AnonymousCredentials
from google.longrunning import operations_pb2
from google.protobuf import descriptor_pool, duration_pb2, json_format, message_factory, struct_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

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


class OverGrpc:
    """The clients of one channel, with the messages that the server's reflection describes."""

    def __init__(self, channel):
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))

        def message(name):
            return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))

        self.request = message("inference.ModelInferRequest")
        self.response = message("inference.ModelInferResponse")
        assert [method.name for method in pool.FindServiceByName("penstock.v1.Operations").methods] == ["ModelInferAsync"]
        self.client = operations_v1.OperationsClient(channel)
        self.stub = operations_pb2.OperationsStub(channel)
        self.infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=self.request.SerializeToString,
            response_deserializer=self.response.FromString,
        )
        self.infer_async = channel.unary_unary(
            "/penstock.v1.Operations/ModelInferAsync",
            request_serializer=self.request.SerializeToString,
            response_deserializer=operations_pb2.Operation.FromString,
        )

    def one_item(self, shape=(1, 4)):
        request = self.request(model_name="identity", id="mine")
        request.inputs.add(name="a", datatype="FP32", shape=shape)
        request.raw_input_contents.append(struct.pack("<4f", 1, 2, 3, 4))
        return request

    def begin(self, metadata=()):
        return self.infer_async(self.one_item(), timeout=30, metadata=metadata)

    def future(self, accepted):
        # `operation.from_grpc` of 2.44.0 passes its own function an argument that this does not take, and fails at the first poll.
        return operation.from_gapic(accepted, self.client, self.response, metadata_type=struct_pb2.Struct)


@pytest.fixture
def over_grpc(server):
    with grpc.insecure_channel(server.address) as channel:
        yield OverGrpc(channel)


def test_a_future_over_grpc_has_the_message_of_a_synchronous_call(over_grpc):
    future = over_grpc.future(over_grpc.begin())
    result = future.result(timeout=30)
    synchronous = over_grpc.infer(over_grpc.one_item(), timeout=30)
    assert result.raw_output_contents == synchronous.raw_output_contents
    assert (result.model_name, result.id) == ("identity", "mine")
    assert json_format.MessageToDict(future.metadata)["state"] == "succeeded"
    assert future.done() and not future.cancelled()


def test_an_operation_of_rest_is_read_over_grpc(server, over_grpc):
    name = begin(server)
    waited = over_grpc.stub.WaitOperation(
        operations_pb2.WaitOperationRequest(name=name, timeout=duration_pb2.Duration(seconds=20)), timeout=30
    )
    assert waited.done
    result = struct_pb2.Struct()
    assert waited.response.Unpack(result)
    synchronous = requests.post(server.url + "/v1/models/identity:predict", json=ONE_ITEM, timeout=30).json()
    assert json_format.MessageToDict(result)["predictions"] == synchronous["predictions"]


def test_operations_are_listed_cancelled_and_deleted_over_grpc(over_grpc):
    name = over_grpc.begin().name
    tenant = name.partition("/operations/")[0]
    assert name in [one.name for one in over_grpc.client.list_operations(tenant, "")]
    # It may end before the request arrives.
    over_grpc.client.cancel_operation(name)
    waited = over_grpc.stub.WaitOperation(operations_pb2.WaitOperationRequest(name=name), timeout=60)
    assert waited.done and waited.WhichOneof("result") in ("error", "response")
    assert name in [one.name for one in over_grpc.client.list_operations(tenant, "")]
    over_grpc.client.delete_operation(name)
    with pytest.raises(exceptions.NotFound):
        over_grpc.client.get_operation(name)
    with pytest.raises(exceptions.InvalidArgument):
        over_grpc.client.get_operation("operations/op_1")


def test_a_retry_over_grpc_gets_the_same_operation_and_a_wrong_call_gets_none(over_grpc):
    key = (("idempotency-key", "google-api-core-once"),)
    assert over_grpc.begin(metadata=key).name == over_grpc.begin(metadata=key).name
    with pytest.raises(grpc.RpcError) as refused:
        over_grpc.infer_async(over_grpc.one_item(shape=(2, 3)), timeout=30)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
