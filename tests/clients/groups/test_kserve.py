"""KServe's own clients, unchanged: REST with and without binary tensors, and gRPC."""

import asyncio
import uuid

import grpc
import httpx
import numpy
import pytest
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

FOUR = numpy.array([[1, 2, 3, 4], [5.5, -6.25, 7e-8, 3.4e38]], dtype=numpy.float32)


def request(model, name, values, binary, **more):
    one = InferInput(name, list(values.shape), "FP32")
    one.set_data_from_numpy(values, binary_data=binary)
    return InferRequest(model, [one], **more)


def rest(server, model, asked, **config):
    async def ask():
        async with InferenceRESTClient(RESTConfig(protocol="v2", **config)) as client:
            return await client.infer(server.url, asked, model_name=model)

    return asyncio.run(ask())


def over_grpc(server, asked, **more):
    async def ask():
        async with InferenceGRPCClient(server.address) as client:
            return await client.infer(asked, **more)

    return asyncio.run(ask())


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("named", [None, False, True], ids=["all outputs", "as JSON", "as bytes"])
def test_identity_hands_back_every_bit_over_rest(server, binary, named):
    more = {}
    if named is not None:
        more["request_outputs"] = [RequestedOutput("b", {"binary_data": named})]
    answer = rest(server, "identity", request("identity", "a", FOUR, binary, request_id="mine", **more))
    assert numpy.array_equal(answer.outputs[0].as_numpy(), FOUR)
    # The client drops the version of answers over REST.
    assert (answer.id, answer.model_name) == ("mine", "identity")


def test_the_client_makes_an_id_where_the_caller_gives_none(server):
    answer = rest(server, "identity", request("identity", "a", FOUR, True))
    assert uuid.UUID(answer.id)


def test_identity_hands_back_every_bit_over_grpc(server):
    for binary in [False, True]:
        answer = over_grpc(server, request("identity", "a", FOUR, binary, request_id="mine"))
        assert numpy.array_equal(answer.outputs[0].as_numpy(), FOUR)
        assert (answer.id, answer.model_name, answer.model_version) == ("mine", "identity", "1")


@pytest.mark.parametrize("ask", [lambda s, r: rest(s, "digits", r), over_grpc], ids=["rest", "grpc"])
def test_digits_are_read_right(server, digits, ask):
    pixels, labels = digits
    scores = ask(server, request("digits", "pixels", pixels[:90], True)).outputs[0].as_numpy()
    assert scores.shape == (90, 10)
    assert (scores.argmax(axis=1) == labels[:90]).sum() >= 85


def test_a_model_that_keeps_a_state_takes_all_its_inputs(server):
    inputs = []
    for name, shape in [("input", (1, 576)), ("state", (2, 1, 128))]:
        one = InferInput(name, list(shape), "FP32")
        one.set_data_from_numpy(numpy.zeros(shape, numpy.float32))
        inputs.append(one)
    rate = InferInput("sr", [], "INT64")
    rate.set_data_from_numpy(numpy.array(16_000, numpy.int64))
    for answer in [
        rest(server, "silero-vad", InferRequest("silero-vad", [*inputs, rate])),
        over_grpc(server, InferRequest("silero-vad", [*inputs, rate])),
    ]:
        assert {one.name: tuple(one.shape) for one in answer.outputs} == {"output": (1, 1), "stateN": (2, 1, 128)}


def test_the_server_and_its_models_are_live_and_ready(server):
    async def ask():
        async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
            assert await client.is_server_live(server.url)
            assert await client.is_server_ready(server.url)
            assert await client.is_model_ready(server.url, "identity")
            assert not await client.is_model_ready(server.url, "nothing")
        async with InferenceGRPCClient(server.address) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("identity")
            assert not await client.is_model_ready("nothing")

    asyncio.run(ask())


def test_kserves_first_protocol_is_refused_in_words(server):
    async def ask():
        async with InferenceRESTClient(RESTConfig(protocol="v1")) as client:
            return await client.infer(server.url, {"instances": [[1, 2, 3, 4]]}, model_name="identity")

    # KServe's V1 protocol is not served. The refusal is a clear one, not a page of HTML or a 500.
    with pytest.raises(httpx.HTTPStatusError) as refused:
        asyncio.run(ask())
    assert refused.value.response.status_code in (400, 422)
    assert "instances" in refused.value.response.text


@pytest.mark.parametrize(
    ("model", "name", "values", "status", "code"),
    [
        ("nothing", "a", FOUR, 404, grpc.StatusCode.NOT_FOUND),
        ("identity", "x", FOUR, 422, grpc.StatusCode.INVALID_ARGUMENT),
        ("identity", "a", FOUR[:, :3], 422, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_a_refusal_has_its_status_and_message(server, model, name, values, status, code):
    with pytest.raises(httpx.HTTPStatusError) as refused:
        rest(server, model, request(model, name, values, True))
    assert refused.value.response.status_code == status
    assert refused.value.response.json()["error"]
    with pytest.raises(grpc.RpcError) as refused:
        over_grpc(server, request(model, name, values, True))
    assert refused.value.code() == code


def test_the_model_in_the_body_must_be_the_one_of_the_path(server):
    with pytest.raises(httpx.HTTPStatusError) as refused:
        rest(server, "identity", request("digits", "a", FOUR, False))
    assert 400 <= refused.value.response.status_code < 500


def test_credentials_go_along_as_headers(guarded):
    asked = request("identity", "a", FOUR, True)
    with pytest.raises(grpc.RpcError) as refused:
        over_grpc(guarded, asked)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    answer = over_grpc(guarded, asked, headers=(("authorization", f"Bearer {guarded.api_key}"),))
    assert numpy.array_equal(answer.outputs[0].as_numpy(), FOUR)
