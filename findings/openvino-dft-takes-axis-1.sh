#!/usr/bin/env bash
# openvino 2026.4.1 (PyPI): a DFT of opset 20 is taken along axis 1, whatever its input `axis` says.
#
# Up to opset 19 the axis of ONNX's DFT is an attribute, from opset 20 on an input. OpenVINO reads the first and not the second: it
# transforms axis 1 and answers other numbers in the right shape. A graph that was raised to opset 20 changes its answers.
#
# Seen here, beside onnxruntime 1.32.0, a signal of [1, 6, 8, 1] along axis 2:
#   opset 17: apart by 0.00
#   opset 20: apart by 9.58; from the transform along axis 1: 0.00
# Do this: stay below opset 20, or transpose so that axis 1 is meant.
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


signal = np.random.default_rng(7).normal(size=(1, 6, 8, 1)).astype(np.float32)


def dft(opset, axis):
    names, more, options = ["x"], [], {"axis": axis}
    if opset >= 20:
        names, more, options = ["x", "", "axis"], [constant("axis", np.array(axis, np.int64))], {}
    node = helper.make_node("DFT", names, ["y"], **options)
    expected, found = answers(node, {"x": signal}, {"y": TensorProto.FLOAT}, opset, more)
    return expected[0], found[0]


apart = lambda a, b: float(np.abs(a - b).max()) if a.shape == b.shape else float("inf")
old, new, (along_1, _) = apart(*dft(17, 2)), dft(20, 2), dft(20, 1)
print(f"opset 17: apart by {old:.2f}")
print(f"opset 20: apart by {apart(*new):.2f}; from the transform along axis 1: {apart(along_1, new[1]):.2f}")
sys.exit(not (old < 1e-3 and apart(*new) > 1 and apart(along_1, new[1]) < 1e-3))
PY
