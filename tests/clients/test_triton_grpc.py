"""Triton's own gRPC client, unchanged, on the same port as everything else."""

import queue

import grpc
import numpy
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException


@pytest.fixture(scope="module")
def client(server):
    client = triton.InferenceServerClient(server.address)
    yield client
    client.close()


def tensor(name, values, datatype="FP32"):
    one = triton.InferInput(name, list(values.shape), datatype)
    one.set_data_from_numpy(values)
    return one


FOUR = numpy.array([[1, 2, 3, 4], [5.5, -6.25, 7e-8, 3.4e38]], dtype=numpy.float32)


def test_the_server_is_live_ready_and_says_what_it_is(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    about = client.get_server_metadata()
    assert about.name == "penstock"


def test_a_model_says_what_it_takes_and_gives(client):
    assert client.is_model_ready("digits")
    assert not client.is_model_ready("nothing")
    about = client.get_model_metadata("digits", "1")
    assert list(about.inputs[0].shape) == [-1, 64]
    assert (about.inputs[0].name, about.inputs[0].datatype) == ("pixels", "FP32")


def test_a_models_configuration_has_tritons_form(client):
    config = client.get_model_config("digits").config
    assert config.name == "digits"
    assert config.max_batch_size > 0
    assert list(config.input[0].dims) == [64]


def test_identity_hands_back_every_bit(client):
    result = client.infer("identity", [tensor("a", FOUR)], request_id="mine")
    assert numpy.array_equal(result.as_numpy("b"), FOUR)
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("mine", "identity", "1")


def test_digits_are_read_right(client, digits):
    pixels, labels = digits
    right = 0
    for start in range(0, len(pixels), 90):
        result = client.infer("digits", [tensor("pixels", pixels[start : start + 90])])
        right += int((result.as_numpy("probabilities").argmax(axis=1) == labels[start : start + 90]).sum())
    assert right == 354


def test_an_image_gives_scores(client):
    image = numpy.random.default_rng(7).uniform(-1, 1, (1, 3, 48, 192)).astype(numpy.float32)
    scores = client.infer("cls", [tensor("x", image)]).as_numpy("save_infer_model/scale_0.tmp_1")
    assert scores.shape == (1, 2)


def test_classification_names_the_likeliest_classes(client, digits):
    pixels, labels = digits
    outputs = [triton.InferRequestedOutput("probabilities", class_count=2)]
    classes = client.infer("digits", [tensor("pixels", pixels[:10])], outputs=outputs).as_numpy("probabilities")
    assert classes.shape == (10, 2)
    right = sum(row[0].decode().split(":")[1] == str(label) for row, label in zip(classes, labels))
    assert right >= 9


def test_many_calls_at_once_are_answered_each_with_its_own(client):
    answers = queue.Queue()
    for i in range(50):
        values = numpy.full((1, 4), i, numpy.float32)
        done = lambda result, error: answers.put((result, error))
        client.async_infer("identity", [tensor("a", values)], callback=done, request_id=str(i))
    for _ in range(50):
        result, error = answers.get(timeout=30)
        assert error is None
        assert numpy.all(result.as_numpy("b") == float(result.get_response().id))


def test_a_stream_answers_each_request_and_goes_on_after_an_error(server):
    answers = queue.Queue()
    with triton.InferenceServerClient(server.address) as own:
        own.start_stream(callback=lambda result, error: answers.put((result, error)))
        for i in range(10):
            own.async_stream_infer("identity", [tensor("a", numpy.full((1, 4), i, numpy.float32))], request_id=str(i))
        for i in range(10):
            result, error = answers.get(timeout=30)
            assert error is None
            assert result.get_response().id == str(i), "in order"
            assert numpy.all(result.as_numpy("b") == i)
        own.async_stream_infer("nothing", [tensor("a", FOUR)])
        result, error = answers.get(timeout=30)
        assert result is None
        assert "nothing" in error.message()
        own.async_stream_infer("identity", [tensor("a", FOUR)])
        result, error = answers.get(timeout=30)
        assert error is None
        assert numpy.array_equal(result.as_numpy("b"), FOUR)
        own.stop_stream()


@pytest.mark.parametrize("algorithm", ["gzip", "deflate", None])
def test_messages_may_be_compressed(client, algorithm):
    many = numpy.tile(FOUR, (100, 1))
    result = client.infer("identity", [tensor("a", many)], compression_algorithm=algorithm)
    assert numpy.array_equal(result.as_numpy("b"), many)


def test_priority_timeout_and_deadline_are_taken(client):
    result = client.infer("identity", [tensor("a", FOUR)], priority=1, timeout=5_000_000, client_timeout=10.0)
    assert numpy.array_equal(result.as_numpy("b"), FOUR)


@pytest.mark.parametrize(
    ("model", "name", "values", "datatype", "status"),
    [
        ("nothing", "a", FOUR, "FP32", grpc.StatusCode.NOT_FOUND),
        ("identity", "x", FOUR, "FP32", grpc.StatusCode.INVALID_ARGUMENT),
        ("identity", "a", FOUR[:, :3], "FP32", grpc.StatusCode.INVALID_ARGUMENT),
        ("identity", "a", numpy.ones((2, 4), numpy.int32), "INT32", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_a_refusal_has_its_status(client, model, name, values, datatype, status):
    with pytest.raises(InferenceServerException) as refused:
        client.infer(model, [tensor(name, values, datatype)])
    assert refused.value.status() == str(status)


def test_statistics_and_the_repository_are_there(client):
    (one,) = client.get_inference_statistics("identity", "1").model_stats
    assert one.name == "identity"
    index = {one.name: one.state for one in client.get_model_repository_index().models}
    assert index["digits"] == "READY"
    client.unload_model("digits")
    try:
        assert not client.is_model_ready("digits")
    finally:
        client.load_model("digits")
    assert client.is_model_ready("digits")


def test_a_call_needs_credentials_where_the_server_wants_them(guarded):
    with triton.InferenceServerClient(guarded.address) as own:
        with pytest.raises(InferenceServerException) as refused:
            own.infer("identity", [tensor("a", FOUR)])
        assert refused.value.status() == str(grpc.StatusCode.UNAUTHENTICATED)
        headers = {"authorization": f"Bearer {guarded.api_key}"}
        result = own.infer("identity", [tensor("a", FOUR)], headers=headers)
        assert numpy.array_equal(result.as_numpy("b"), FOUR)


def test_health_and_reflection_answer(server):
    """By hand, because the packages for them are more than the few bytes they send."""
    with grpc.insecure_channel(server.address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"", timeout=10) == b"\x08\x01", "SERVING"
        reflect = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        # ServerReflectionRequest{list_services: "*"}
        (answer,) = list(reflect(iter([b"\x3a\x01*"]), timeout=10))
        assert b"inference.GRPCInferenceService" in answer
