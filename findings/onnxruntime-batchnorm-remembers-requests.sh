#!/usr/bin/env bash
# onnxruntime 1.32.0 (PyPI): a session over a graph with BatchNormalization in training mode answers the same request with other
# numbers each time, where the running mean starts like the bias, or the running variance like the scale.
#
# ONNX's BatchNormalization with training_mode=1 normalises by the mean and variance of the input. Running mean and variance are inputs
# and outputs of their own, so y does not depend on them, and a session has no state. Two features of ONNX Runtime meet here: its
# optimizer keeps equal constants once, and the operator writes the new running values over the old ones where the graph does not
# return them. Then that write also changes scale and bias: for this call, and for all later ones. A layer that was never trained has
# scale 1, variance 1, bias 0 and mean 0, so it is the first graph with which one tries training mode that shows this.
#
# Seen here, the row [1, 2, 3] three times, with onnx 1.23.2:
#   scale 1, bias 0, mean 0, variance 1: [-0.984, 0.2, 1.384], [-0.767, 0.38, 1.527], [-0.572, 0.542, 1.656]
#   the same without optimization: [-1.225, 0.0, 1.225], [-1.225, 0.0, 1.225], [-1.225, 0.0, 1.225]
#   scale 1, bias 0, mean 0.5, variance 2: [-1.225, 0.0, 1.225], [-1.225, 0.0, 1.225], [-1.225, 0.0, 1.225]
# Do this: export in inference mode, or make the running values outputs of the graph, or switch ConstantSharing off
# (InferenceSession(..., disabled_optimizers=["ConstantSharing"])).
#
# Exits 0 while the behaviour is as told, 1 when it has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: onnx==1.23.2 onnxruntime==1.32.0
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper


def answers(mean, variance, outputs=("y",), disabled=(), level=onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL):
    """What one session answers to the same row three times."""
    values = {"scale": 1, "bias": 0, "mean": mean, "variance": variance}
    constants = [helper.make_tensor(name, TensorProto.FLOAT, [1], [value]) for name, value in values.items()]
    node = helper.make_node("BatchNormalization", ["x", *values], ["y", "new_mean", "new_variance"], training_mode=1)
    port = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    shapes = {"y": [1, 1, 3], "new_mean": [1], "new_variance": [1]}
    graph = helper.make_graph([node], "g", [port("x", [1, 1, 3])], [port(o, shapes[o]) for o in outputs], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled))
    row = np.array([[[1, 2, 3]]], dtype=np.float32)
    return [[round(v, 3) for v in session.run(["y"], {"x": row})[0].ravel().tolist()] for _ in range(3)]


told = lambda rows: ", ".join(map(str, rows))
drift = answers(0, 1)
plain = answers(0, 1, level=onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
apart = answers(0.5, 2)
print(f"scale 1, bias 0, mean 0, variance 1: {told(drift)}")
print(f"the same without optimization: {told(plain)}")
print(f"scale 1, bias 0, mean 0.5, variance 2: {told(apart)}")
right = [[-1.225, 0.0, 1.225]] * 3
remedies = [answers(0, 1, outputs=("y", "new_mean", "new_variance")), answers(0, 1, disabled=["ConstantSharing"])]
moves = drift[0] != drift[1] and drift[1] != drift[2] and drift[0] != right[0]
as_told = moves and plain == apart == right and remedies == [right, right]
sys.exit(not as_told)
PY
