#!/usr/bin/env bash
# openvino 2026.4.1 (PyPI): an LSTM with peephole weights is computed without them, and nothing says so.
#
# ONNX's LSTM takes the peephole weights as its eighth input, P. OpenVINO reads the graph, compiles it and answers as if P were
# not there: to the last bit the answer of the same operator without P. ONNX Runtime uses P.
#
# Seen here, beside onnxruntime 1.32.0 (graph of opset 17, 3 steps, 4 inputs, 3 hidden numbers):
#   ONNX Runtime, with P and without: apart by 0.11
#   OpenVINO, with P and without: apart by 0
# Do this: run the model elsewhere, or unroll the cell into plain operators before the conversion.
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


rng = np.random.default_rng(7)
numbers = lambda *shape: rng.normal(size=shape).astype(np.float32)
x, w, r, b, p = numbers(3, 2, 4), numbers(1, 12, 4), numbers(1, 12, 3), numbers(1, 24), numbers(1, 9)
weights = [constant(name, value) for name, value in (("w", w), ("r", r), ("b", b))]


def lstm(with_peepholes):
    names = ["x", "w", "r", "b", *(["", "", "", "p"] if with_peepholes else [])]
    node = helper.make_node("LSTM", names, ["y"], hidden_size=3)
    more = [constant("p", p)] if with_peepholes else []
    expected, found = answers(node, {"x": x}, {"y": TensorProto.FLOAT}, 17, weights + more)
    return expected[0], found[0]


(with_ort, with_ov), (without_ort, without_ov) = lstm(True), lstm(False)
runtime, vino = (float(np.abs(a - b).max()) for a, b in ((with_ort, without_ort), (with_ov, without_ov)))
print(f"ONNX Runtime, with P and without: apart by {runtime:.2f}")
print(f"OpenVINO, with P and without: apart by {vino:.2g}")
same_without = np.abs(without_ort - without_ov).max() < 1e-5
sys.exit(not (runtime > 0.05 and vino == 0 and same_without))
PY
