"""Clients with a proxy between them and the server: nginx, HAProxy and Envoy."""

import numpy
import openai
import pytest
import tritonclient.grpc
import tritonclient.http

from fronts import Front

KINDS = ["nginx", "haproxy", pytest.param("envoy", marks=pytest.mark.all)]
FOUR = numpy.array([[1, 2, 3, 4], [5.5, -6.25, 7e-8, 3.4e38]], dtype=numpy.float32)


@pytest.fixture(scope="module", params=KINDS)
def front(request, server, tmp_path_factory):
    started = Front(request.param, server.address, tmp_path_factory.mktemp(request.param))
    yield started
    started.stop()


@pytest.fixture(scope="module", params=KINDS)
def guarded_front(request, guarded, tmp_path_factory):
    started = Front(request.param, guarded.address, tmp_path_factory.mktemp(request.param))
    yield started
    started.stop()


def tensor(module, values):
    one = module.InferInput("a", list(values.shape), "FP32")
    one.set_data_from_numpy(values)
    return one


@pytest.mark.parametrize("algorithm", [None, "gzip"])
def test_a_call_over_http_comes_through_with_every_bit(front, algorithm):
    http = tritonclient.http
    many = numpy.tile(FOUR, (100, 1))
    with http.InferenceServerClient(front.address) as client:
        result = client.infer(
            "identity",
            [tensor(http, many)],
            outputs=[http.InferRequestedOutput("b", binary_data=True)],
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        )
    assert numpy.array_equal(result.as_numpy("b"), many)


def test_a_call_over_grpc_comes_through_with_every_bit(front):
    grpc = tritonclient.grpc
    many = numpy.tile(FOUR, (100, 1))
    with grpc.InferenceServerClient(front.grpc) as client:
        assert client.is_server_ready()
        for _ in range(20):
            assert numpy.array_equal(client.infer("identity", [tensor(grpc, many)]).as_numpy("b"), many)


def test_a_stream_over_grpc_answers_in_order(front):
    import queue

    grpc = tritonclient.grpc
    answers = queue.Queue()
    with grpc.InferenceServerClient(front.grpc) as client:
        client.start_stream(callback=lambda result, error: answers.put((result, error)))
        for i in range(10):
            client.async_stream_infer(
                "identity", [tensor(grpc, numpy.full((1, 4), i, numpy.float32))], request_id=str(i)
            )
            # Each answer comes before the stream ends: the proxy passes messages on as they are.
            result, error = answers.get(timeout=30)
            assert error is None
            assert (result.get_response().id, result.as_numpy("b")[0, 0]) == (str(i), i)
        client.stop_stream()


def test_a_refusal_over_grpc_keeps_its_status(front):
    grpc = tritonclient.grpc
    with grpc.InferenceServerClient(front.grpc) as client:
        with pytest.raises(tritonclient.utils.InferenceServerException) as refused:
            client.infer("nothing", [tensor(grpc, FOUR)])
        assert refused.value.status() == "StatusCode.NOT_FOUND"
        assert "nothing" in refused.value.message()


def test_embeddings_come_through_with_headers(front):
    client = openai.OpenAI(base_url=f"{front.url}/v1", api_key="none", max_retries=0)
    answer = client.embeddings.with_raw_response.create(
        model="minilm", input="A cat sat on the mat.", extra_headers={"Authorization": openai.omit}
    )
    assert len(answer.parse().data[0].embedding) == 384
    assert answer.headers["x-request-id"]


def test_credentials_and_limits_come_through(guarded, guarded_front):
    client = openai.OpenAI(base_url=f"{guarded_front.url}/v1", api_key="pnst_wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        client.embeddings.create(model="minilm", input="a")
    answer = client.with_options(api_key=guarded.api_key).embeddings.with_raw_response.create(model="minilm", input="a")
    assert answer.headers["ratelimit"]
    grpc = tritonclient.grpc
    with grpc.InferenceServerClient(guarded_front.grpc) as client:
        headers = {"authorization": f"Bearer {guarded.api_key}"}
        assert numpy.array_equal(client.infer("identity", [tensor(grpc, FOUR)], headers=headers).as_numpy("b"), FOUR)
