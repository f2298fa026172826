"""A model behind FastAPI as people write it: a request model, numpy, one session a worker.

Started by the benchmark with `uvicorn --workers`; MODELS names the models directory. The session's threads are
those Penstock's lanes have: one inside a run, no spinning.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


def load(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


models = {name: load(Path(os.environ["MODELS"]) / name / "1" / "model.onnx") for name in ("identity", "cls", "minilm")}
app = FastAPI()


class Request(BaseModel):
    inputs: dict[str, Any]


@app.get("/ready")
def ready():
    return {}


@app.post("/v1/models/{name}:predict")
def predict(name: str, request: Request):
    session = models.get(name)
    if session is None:
        raise HTTPException(404, "no such model")
    feeds = {i.name: np.asarray(request.inputs[i.name], dtype=TYPES[i.type]) for i in session.get_inputs()}
    outputs = session.run(None, feeds)
    return {"outputs": {o.name: value.tolist() for o, value in zip(session.get_outputs(), outputs)}}
