"""The identity model behind BentoML's task endpoint, as its documentation shows it: POST /predict/submit accepts a task.

scripts/bench-bentoml starts it with `bentoml serve`; MODELS names the models directory. Its workers are one per core, and the
session's threads are those that Penstock's have.
"""

import os
from pathlib import Path

import bentoml
import numpy as np
import onnxruntime as ort


@bentoml.service(workers="cpu_count", traffic={"timeout": 300}, logging={"access": {"enabled": False}})
class Identity:
    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        path = Path(os.environ["MODELS"]) / "identity" / "1" / "model.onnx"
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    @bentoml.task
    def predict(self, a: list[list[float]]) -> list[list[float]]:
        return self.session.run(None, {"a": np.asarray(a, dtype=np.float32)})[0].tolist()
