#!/usr/bin/env bash
# openvino 2026.4.1 (PyPI): NonMaxSuppression without a threshold keeps one box and drops those that touch nothing.
#
# ONNX suppresses a box whose overlap with a better one is greater than iou_threshold, which is 0 where it is left out. Boxes that do
# not touch overlap by 0, so they stay. OpenVINO suppresses where the overlap is equal, too: of boxes far apart only the best is left.
# A detector that was exported without a threshold finds one object.
#
# Seen here, beside onnxruntime 1.32.0, with four boxes of which two overlap:
#   ONNX Runtime keeps [0, 1, 3]
#   OpenVINO keeps [0]
#   with a threshold of 0.3 both keep [0, 1, 3]
# Do this: give the operator a threshold above 0.
#
# Exits 0 while the behaviour is as told, 1 when it has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: \
    openvino==2026.4.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper

onnxruntime.set_default_logger_severity(3)


def answers(node, inputs, outputs, opset, initializers=()):
    """The outputs of one operator by ONNX Runtime and by OpenVINO, the latter in its most exact mode."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in inputs.items()]
    results = [helper.make_tensor_value_info(name, element, None) for name, element in outputs.items()]
    graph = helper.make_graph([node], "graph", ports, results, list(initializers))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    file = model.SerializeToString()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    expected = session.run(None, inputs)
    core = openvino.Core()
    hints = {"EXECUTION_MODE_HINT": "ACCURACY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(file), "CPU", hints)
    found = compiled(inputs)
    return expected, [found[port] for port in compiled.outputs]


def constant(name, value):
    return onnx.numpy_helper.from_array(np.asarray(value), name)


boxes = np.array([[[0, 0, 1, 1], [5, 5, 6, 6], [0, 0, 1, 0.5], [10, 10, 11, 11]]], np.float32)
scores = np.array([[[0.9, 0.8, 0.7, 0.6]]], np.float32)


def kept(threshold):
    most = constant("most", np.array([10], np.int64))
    names, more = ["boxes", "scores", "most"], [most]
    if threshold is not None:
        names.append("threshold")
        more.append(constant("threshold", np.array([threshold], np.float32)))
    node = helper.make_node("NonMaxSuppression", names, ["kept"])
    both = answers(node, {"boxes": boxes, "scores": scores}, {"kept": TensorProto.INT64}, 17, more)
    return [[int(row[2]) for row in found[0] if row[2] >= 0] for found in both]


(runtime, vino), with_threshold = kept(None), kept(0.3)
print(f"ONNX Runtime keeps {runtime}")
print(f"OpenVINO keeps {vino}")
print(f"with a threshold of 0.3 both keep {with_threshold[0]}")
sys.exit((runtime, vino, with_threshold) != ([0, 1, 3], [0], [[0, 1, 3], [0, 1, 3]]))
PY
