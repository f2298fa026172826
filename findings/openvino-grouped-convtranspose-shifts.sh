#!/usr/bin/env bash
# openvino 2026.4.1 (PyPI): a ConvTranspose with output_shape answers another part of the picture as soon as it has groups.
#
# ONNX derives the padding from output_shape: what is too much is cut off at both ends, half at the start. OpenVINO does so with
# group=1. With more groups it cuts off the end alone, so the answer has the right shape and is shifted. A convolution with two groups
# is the same as one with a single group whose weights between the groups are 0: these two differ here.
#
# Seen here, [1..6] in two channels, kernel [1, 10, 100], strides of 2, output_shape 11 of 13, beside onnxruntime 1.32.0, with
# onnx 1.23.2; the first channel of the answer:
#   ONNX Runtime, one group or two: 10 102 20 203 30 304 40 405 50 506 60
#   OpenVINO, one group:            10 102 20 203 30 304 40 405 50 506 60
#   OpenVINO, two groups:           1 10 102 20 203 30 304 40 405 50 506
#   OpenVINO, two groups, pads=[1, 1] in place of output_shape: 10 102 20 203 30 304 40 405 50 506 60
# Do this: replace output_shape by the pads that it stands for.
#
# Exits 0 while the behaviour is as told, 1 when it has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: \
    openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

x = np.array([[[1, 2, 3, 4, 5, 6]] * 2], dtype=np.float32)
grouped = np.array([[[1, 10, 100]], [[1, 10, 100]]], dtype=np.float32)  # one output channel for each of two groups
single = np.zeros((2, 2, 3), dtype=np.float32)
single[0, 0] = single[1, 1] = [1, 10, 100]


def answers(weights, group, **attributes):
    """The first channel as ONNX Runtime and as OpenVINO compute it; both channels must be equal."""
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2], group=group, **attributes)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 6])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 11])]
    graph = helper.make_graph([node], "g", inputs, outputs, [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    one = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    core = openvino.Core()
    other = core.compile_model(core.read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([x])[0]
    assert (one[0, 0] == one[0, 1]).all() and (other[0, 0] == other[0, 1]).all()
    return [" ".join(str(int(v)) for v in y[0, 0]) for y in (one, other)]


right, shifted = "10 102 20 203 30 304 40 405 50 506 60", "1 10 102 20 203 30 304 40 405 50 506"
as_told = True
for name, weights, group, attributes, expected in [
    ("one group, output_shape", single, 1, {"output_shape": [11]}, right),
    ("two groups, output_shape", grouped, 2, {"output_shape": [11]}, shifted),
    ("two groups, pads", grouped, 2, {"pads": [1, 1]}, right),
]:
    runtime, vino = answers(weights, group, **attributes)
    print(f"{name}\n  ONNX Runtime {runtime}\n  OpenVINO     {vino}")
    as_told &= runtime == right and vino == expected
sys.exit(not as_told)
PY
