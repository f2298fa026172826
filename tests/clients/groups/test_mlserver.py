"""Requests that MLServer's codecs build, and answers that they read."""

import numpy
import pytest
import requests
from mlserver.codecs import NumpyCodec, NumpyRequestCodec
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, RequestInput, RequestOutput

FOUR = numpy.array([[1, 2, 3, 4], [5.5, -6.25, 0.125, 8]], dtype=numpy.float32)

pytestmark = pytest.mark.all


def ask(server, model, request, **how):
    answer = requests.post(
        f"{server.url}/v2/models/{model}/infer",
        data=request.model_dump_json(**how),
        headers={"content-type": "application/json"},
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    return InferenceResponse.model_validate(answer.json())


@pytest.mark.parametrize("how", [{}, {"exclude_none": True}], ids=["with nulls", "without"])
def test_a_numpy_codec_encodes_an_input_and_decodes_the_output(server, how):
    tensor = NumpyCodec.encode_input("a", FOUR)
    assert tensor.parameters.content_type == "np"
    answer = ask(server, "identity", InferenceRequest(inputs=[tensor]), **how)
    assert numpy.array_equal(NumpyCodec.decode_output(answer.outputs[0]), FOUR)
    assert answer.model_name == "identity"


@pytest.mark.parametrize("how", [{}, {"exclude_none": True}], ids=["with nulls", "without"])
def test_a_request_codec_marks_the_request_and_is_taken(server, how):
    request = NumpyRequestCodec.encode_request(FOUR)
    assert request.parameters.content_type == "np"
    request.inputs[0].name = "a"
    assert numpy.array_equal(NumpyCodec.decode_output(ask(server, "identity", request, **how).outputs[0]), FOUR)


def test_headers_and_outputs_in_parameters_are_passed_over(server):
    request = InferenceRequest(
        id="mine",
        parameters=Parameters(content_type="np", headers={"x-mine": "1"}),
        inputs=[RequestInput(name="a", shape=[1, 4], datatype="FP32", data=[1, 2, 3, 4], parameters=Parameters())],
        outputs=[RequestOutput(name="b", parameters=Parameters(content_type="np"))],
    )
    answer = ask(server, "identity", request)
    assert answer.id == "mine"
    assert numpy.array_equal(NumpyCodec.decode_output(answer.outputs[0]), [[1, 2, 3, 4]])


def test_a_wrong_value_stays_an_error(server):
    request = InferenceRequest(inputs=[NumpyCodec.encode_input("a", FOUR[:, :3])])
    answer = requests.post(f"{server.url}/v2/models/identity/infer", json=request.model_dump(), timeout=30)
    assert answer.status_code == 422, answer.text
