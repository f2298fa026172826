"""Triton's own HTTP client, unchanged, against the Open Inference Protocol with Triton's extensions."""

import concurrent.futures
import json

import numpy
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException


@pytest.fixture(scope="module")
def client(server):
    client = triton.InferenceServerClient(server.address, concurrency=8)
    yield client
    client.close()


def tensor(name, values, binary, datatype="FP32"):
    one = triton.InferInput(name, list(values.shape), datatype)
    one.set_data_from_numpy(values, binary_data=binary)
    return one


def wanted(name, binary, **more):
    return triton.InferRequestedOutput(name, binary_data=binary, **more)


FOUR = numpy.array([[1, 2, 3, 4], [5.5, -6.25, 7e-8, 3.4e38]], dtype=numpy.float32)


def test_the_server_is_live_ready_and_says_what_it_is(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    about = client.get_server_metadata()
    assert about["name"] == "penstock"
    assert about["version"]
    for extension in ["binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"]:
        assert extension in about["extensions"], extension


def test_a_model_says_what_it_takes_and_gives(client):
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "1")
    assert not client.is_model_ready("nothing")
    assert not client.is_model_ready("digits", "99")
    about = client.get_model_metadata("digits")
    assert about["name"] == "digits"
    assert about["versions"] == ["1"]
    assert about["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}]
    assert about["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}]
    assert client.get_model_metadata("digits", "1")["name"] == "digits"


def test_a_models_configuration_has_tritons_form(client):
    config = client.get_model_config("digits")
    assert config["name"] == "digits"
    assert config["max_batch_size"] > 0
    # With a batch size, the axis of items is not among the dimensions.
    (one,) = config["input"]
    assert (one["name"], one["data_type"], one["dims"]) == ("pixels", "TYPE_FP32", ["64"]) or one["dims"] == [64]
    assert config["output"][0]["name"] == "probabilities"


@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize("answered", [False, True])
def test_identity_hands_back_every_bit_as_json_and_as_bytes(client, sent, answered):
    result = client.infer("identity", [tensor("a", FOUR, sent)], outputs=[wanted("b", answered)], request_id="mine")
    assert numpy.array_equal(result.as_numpy("b"), FOUR)
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("mine", "identity", "1")
    assert ("data" in response["outputs"][0]) != answered


def test_outputs_that_nobody_names_come_as_the_request_says(client):
    # Without outputs the client asks for all of them as bytes.
    assert numpy.array_equal(client.infer("identity", [tensor("a", FOUR, True)]).as_numpy("b"), FOUR)


@pytest.mark.parametrize("binary", [False, True])
def test_digits_are_read_right(client, digits, binary):
    pixels, labels = digits
    right = 0
    for start in range(0, len(pixels), 90):
        result = client.infer("digits", [tensor("pixels", pixels[start : start + 90], binary)])
        scores = result.as_numpy("probabilities")
        assert scores.shape == (90, 10)
        assert numpy.allclose(scores.sum(axis=1), 1, atol=1e-4)
        right += int((scores.argmax(axis=1) == labels[start : start + 90]).sum())
    assert right == 354, "as many as the contract says"


def test_an_image_gives_the_same_scores_as_json_and_as_bytes(client):
    rng = numpy.random.default_rng(7)
    image = rng.uniform(-1, 1, (1, 3, 48, 192)).astype(numpy.float32)
    name = "save_infer_model/scale_0.tmp_1"
    answers = [client.infer("cls", [tensor("x", image, binary)]).as_numpy(name) for binary in [False, True]]
    assert answers[0].shape == (1, 2)
    assert numpy.array_equal(*answers)


@pytest.mark.parametrize("binary", [False, True])
def test_classification_names_the_likeliest_classes(client, digits, binary):
    pixels, labels = digits
    outputs = [wanted("probabilities", binary, class_count=3)]
    result = client.infer("digits", [tensor("pixels", pixels[:20], True)], outputs=outputs)
    classes = result.as_numpy("probabilities")
    assert classes.shape == (20, 3)
    right = 0
    for row, label in zip(classes, labels):
        texts = [one.decode() if isinstance(one, bytes) else one for one in row]
        scores = [float(one.split(":")[0]) for one in texts]
        assert scores == sorted(scores, reverse=True)
        for one in texts:
            _, index, name = one.split(":")
            assert index == name, "the labels of this model are its indexes"
        right += texts[0].split(":")[1] == str(label)
    assert right >= 18


def test_only_the_outputs_that_are_asked_for_come(client):
    chunk = {
        "input": numpy.zeros((1, 576), numpy.float32),
        "state": numpy.zeros((2, 1, 128), numpy.float32),
    }
    inputs = [tensor(name, values, True) for name, values in chunk.items()]
    rate = triton.InferInput("sr", [], "INT64")
    rate.set_data_from_numpy(numpy.array(16000, dtype=numpy.int64), binary_data=True)
    result = client.infer("silero-vad", [*inputs, rate], outputs=[wanted("output", True)])
    assert [one["name"] for one in result.get_response()["outputs"]] == ["output"]
    assert result.as_numpy("output").shape == (1, 1)
    both = client.infer("silero-vad", [*inputs, rate])
    assert {one["name"] for one in both.get_response()["outputs"]} == {"output", "stateN"}


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_bodies_are_compressed_both_ways(client, algorithm):
    many = numpy.tile(FOUR, (100, 1))
    result = client.infer(
        "identity",
        [tensor("a", many, True)],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    assert numpy.array_equal(result.as_numpy("b"), many)


def test_priority_and_timeout_are_taken(client):
    result = client.infer("identity", [tensor("a", FOUR, True)], priority=1, timeout=5_000_000)
    assert numpy.array_equal(result.as_numpy("b"), FOUR)


def test_a_version_is_pinned_by_the_path_and_one_there_is_not_is_named(client):
    result = client.infer("identity", [tensor("a", FOUR, True)], model_version="1")
    assert result.get_response()["model_version"] == "1"
    with pytest.raises(InferenceServerException) as refused:
        client.infer("identity", [tensor("a", FOUR, True)], model_version="77")
    assert refused.value.status() == "404"


def test_one_client_is_shared_by_many_threads(client):
    def one(i):
        values = numpy.full((1 + i % 3, 4), i, numpy.float32)
        result = client.infer("identity", [tensor("a", values, i % 2 == 0)], request_id=str(i))
        assert result.get_response()["id"] == str(i)
        assert numpy.array_equal(result.as_numpy("b"), values)

    # The client's coroutines belong to one thread, so each worker has a client of its own beside the shared pool.
    pending = [
        client.async_infer("identity", [tensor("a", numpy.full((1, 4), i, numpy.float32), True)]) for i in range(40)
    ]
    for i, waiting in enumerate(pending):
        assert numpy.array_equal(waiting.get_result().as_numpy("b"), numpy.full((1, 4), i, numpy.float32))
    for i in range(6):
        one(i)


def test_many_clients_at_once_are_answered_each_with_its_own(server):
    def worker(number):
        with triton.InferenceServerClient(server.address) as own:
            for i in range(20):
                values = numpy.full((2, 4), number * 100 + i, numpy.float32)
                result = own.infer("identity", [tensor("a", values, True)])
                assert numpy.array_equal(result.as_numpy("b"), values)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(worker, range(8)))


@pytest.mark.parametrize(
    ("model", "name", "values", "datatype", "status", "word"),
    [
        ("nothing", "a", FOUR, "FP32", "404", "nothing"),
        ("identity", "x", FOUR, "FP32", "422", "no input"),
        ("identity", "a", FOUR[:, :3], "FP32", "422", "shape"),
        ("identity", "a", numpy.ones((2, 4), numpy.int32), "INT32", "422", "datatype"),
        ("digits", "pixels", numpy.full((1, 64), 17, numpy.float32), "FP32", "422", "17"),
        ("identity", "a", numpy.zeros((0, 4), numpy.float32), "FP32", "422", "empty"),
    ],
)
@pytest.mark.parametrize("binary", [False, True])
def test_a_request_that_is_wrong_is_told_what_is(client, binary, model, name, values, datatype, status, word):
    with pytest.raises(InferenceServerException) as refused:
        client.infer(model, [tensor(name, values, binary, datatype)])
    assert refused.value.status() == status
    assert word in refused.value.message()


def test_statistics_count_what_was_run(client):
    def count():
        (one,) = client.get_inference_statistics("identity", "1")["model_stats"]
        assert (one["name"], one["version"]) == ("identity", "1")
        for part in ["success", "fail", "queue", "compute_input", "compute_infer", "compute_output"]:
            assert set(one["inference_stats"][part]) >= {"count", "ns"}, part
        return one["inference_count"], one["execution_count"]

    before = count()
    client.infer("identity", [tensor("a", FOUR, True)])
    after = count()
    assert after[0] - before[0] >= 2, "items"
    assert after[1] - before[1] >= 1, "runs"
    names = {one["name"] for one in client.get_inference_statistics()["model_stats"]}
    assert {"identity", "digits"} <= names


def test_the_repository_lists_unloads_and_loads_models(client):
    def state():
        return {one["name"]: one["state"] for one in client.get_model_repository_index()}

    assert state()["identity"] == "READY"
    client.unload_model("identity")
    try:
        assert state()["identity"] == "UNAVAILABLE"
        assert not client.is_model_ready("identity")
        with pytest.raises(InferenceServerException) as refused:
            client.infer("identity", [tensor("a", FOUR, True)])
        assert refused.value.status() == "503"
    finally:
        client.load_model("identity")
    assert state()["identity"] == "READY"
    assert numpy.array_equal(client.infer("identity", [tensor("a", FOUR, True)]).as_numpy("b"), FOUR)
    with pytest.raises(InferenceServerException):
        client.load_model("nothing")


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.get_system_shared_memory_status(),
        lambda client: client.register_system_shared_memory("r", "/r", 64),
        lambda client: client.get_cuda_shared_memory_status(),
        lambda client: client.get_trace_settings(),
        lambda client: client.get_log_settings(),
    ],
)
def test_extensions_that_reach_into_the_servers_machine_are_not_there(client, ask):
    with pytest.raises(InferenceServerException) as refused:
        ask(client)
    assert refused.value.status() == "501"


def test_generate_is_refused_in_words_by_a_model_that_takes_no_text(client):
    answer = client._post("v2/models/identity/generate", json.dumps({"text_input": "hello"}), {}, {})
    assert 400 <= answer.status_code < 500
    assert json.loads(answer.read())["error"]
