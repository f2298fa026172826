#!/usr/bin/env bash
# onnx_graphsurgeon 0.6.1 (PyPI, NVIDIA): `fold_constants()` replaces a Shape operator that takes part of a shape by the whole shape.
#
# Since opset 15 Shape has `start` and `end`: Shape(x, start=1, end=3) of [2,3,4] is [3,4]. Folding knows the input's shape and puts
# [2,3,4] there. Exporters write such operators for `x.shape[1:]` and `x.size(0)`. Where the result is used as a shape the graph mostly
# fails to load; where it is a number in a calculation the answer is silently another one.
#
# Seen here, for the product of the last two of [2,3,4], with onnx 1.23.2 and onnxruntime 1.32.0:
#   opset 18, start=1 end=3: 12 before, 24 after folding
#   opset 18, no start and end: 24 before, 24 after folding
# Do this: fold with ONNX Runtime's or onnxsim's passes, which look at both attributes, or with
# fold_constants(fold_shapes=False).
#
# Exits 0 while the behaviour is as told, 1 when it has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: \
    onnx_graphsurgeon==0.6.1 onnx==1.23.2 onnxruntime==1.32.0
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnx_graphsurgeon
import onnxruntime
from onnx import TensorProto, helper

x = np.zeros((2, 3, 4), dtype=np.float32)


def graph(**part):
    nodes = [helper.make_node("Shape", ["x"], ["s"], **part), helper.make_node("ReduceProd", ["s"], ["y"], keepdims=0)]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.INT64, [])]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return int(session.run(None, {"x": x})[0])


def folded(model, **options):
    surgeon = onnx_graphsurgeon.import_onnx(model)
    folded = onnx_graphsurgeon.export_onnx(surgeon.fold_constants(**options).cleanup())
    folded.ir_version = 9
    return folded


part, whole = graph(start=1, end=3), graph()
seen = [
    f"opset 18, start=1 end=3: {run(part)} before, {run(folded(part))} after folding",
    f"opset 18, no start and end: {run(whole)} before, {run(folded(whole))} after folding",
]
print("\n".join(seen))
remedy = run(folded(part, fold_shapes=False))
print(f"with fold_shapes=False: {remedy}")
sys.exit(
    seen
    != [
        "opset 18, start=1 end=3: 12 before, 24 after folding",
        "opset 18, no start and end: 24 before, 24 after folding",
    ]
    or remedy != 12
)
PY
