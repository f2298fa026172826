"""The models of datamodel-code-generator: they write the request and read the answer."""

import json
import sys

import httpx

sys.path.insert(0, "generated")

import datamodel_code_generator_made as made  # noqa: E402


def call(method, path, body=None):
    content = None if body is None else body.model_dump_json(exclude_none=True)
    return httpx.request(method, sys.argv[1] + path, content=content, headers={"content-type": "application/json"}).text


request = made.PredictRequestForIdentity(inputs=made.InputsForIdentity(a=[[1, 2, 3, 4]]))
predicted = made.PredictResponseForIdentity.model_validate_json(call("POST", "/v1/models/identity:predict", request))
tensor = made.InferInputForIdentity(name="a", datatype="FP32", shape=[1, 4], data=[1, 2, 3, 4])
request = made.InferRequestForIdentity(inputs=[tensor])
inferred = made.InferResponse.model_validate_json(call("POST", "/v2/models/identity/infer", request))
missing = made.Error.model_validate_json(call("GET", "/v1/models/nothing"))
print(json.dumps({
    "predicted": predicted.predictions[0].b,
    "inferred": inferred.outputs[0].data,
    "missing": missing.error.code,
}))  # fmt: skip
