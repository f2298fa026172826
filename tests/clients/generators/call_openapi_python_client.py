"""The client of openapi-python-client."""

import json
import sys

sys.path.insert(0, "generated")

from openapi_python_client_made import Client, models  # noqa: E402
from openapi_python_client_made.api.models import get_model  # noqa: E402
from openapi_python_client_made.api.oip import infer_identity  # noqa: E402
from openapi_python_client_made.api.predict import predict_identity  # noqa: E402

client = Client(base_url=sys.argv[1])
rows = models.InputsForIdentity(a=[[1, 2, 3, 4]])
predicted = predict_identity.sync(client=client, body=models.PredictRequestForIdentity(inputs=rows))
tensor = models.InferInputForIdentity(name="a", datatype="FP32", shape=[1, 4], data=[1, 2, 3, 4])
inferred = infer_identity.sync(client=client, body=models.InferRequestForIdentity(inputs=[tensor]))
missing = get_model.sync("nothing", client=client)
print(json.dumps({
    "predicted": predicted.predictions[0].b,
    "inferred": inferred.outputs[0].data,
    "missing": missing.error.code,
}))  # fmt: skip
