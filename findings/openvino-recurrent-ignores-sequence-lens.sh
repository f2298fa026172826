#!/usr/bin/env bash
# openvino 2026.4.1 (PyPI): where an axis is dynamic, RNN, GRU and LSTM run over all steps, whatever sequence_lens says, and nothing
# says so.
#
# ONNX's recurrent operators take the number of steps of each row as their fifth input, sequence_lens. Outputs after it are 0, and the
# last state is that of the last step within it. OpenVINO reads the graph, compiles it and answers as if every row had all steps.
# This holds in all directions, and for lengths that are an input as for those that are constant, as soon as the number of steps or of
# rows is not fixed. With fixed shapes the answer is right. Exports of PyTorch's packed sequences
# have such lengths: piper-tts 1.8.0 carries one (piper/tashkeel/model.onnx).
#
# Seen here, beside onnxruntime 1.32.0 (graph of opset 14, 5 steps, a length of 3, forward), with a dynamic number of steps:
#   the last state is apart by 1.97 (RNN), 1.08 (GRU), 0.25 (LSTM), and is to the last bit the one of all 5 steps
# Do this: run the model elsewhere, or send every row at its full length.
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


def answers(node, inputs, outputs, opset, initializers=(), shape=None):
    """The outputs of one operator by ONNX Runtime and by OpenVINO, the latter in its most exact mode."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape or value.shape) for name, value in inputs.items()]
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
lengths = constant("lengths", np.array([3], np.int32))
as_told = True
for operator, gates in (("RNN", 1), ("GRU", 3), ("LSTM", 4)):
    x = numbers(5, 1, 4)
    weights = [constant(name, numbers(*shape)) for name, shape in
               (("w", (1, gates * 3, 4)), ("r", (1, gates * 3, 3)), ("b", (1, 2 * gates * 3)))]
    whole, told = (helper.make_node(operator, ["x", "w", "r", "b", *more], ["", "last"], hidden_size=3)
                   for more in ([], ["lengths"]))
    outputs = {"last": TensorProto.FLOAT}
    (all_ort,), (all_ov,) = answers(whole, {"x": x}, outputs, 14, weights)
    more = [*weights, lengths]
    (ort,), (fixed,) = answers(told, {"x": x}, outputs, 14, more)
    _, (dynamic,) = answers(told, {"x": x}, outputs, 14, more, ["steps", 1, 4])
    apart = lambda a, b: float(np.abs(a - b).max())
    print(f"{operator}, of 5 steps with a length of 3: the last state is apart by {apart(ort, fixed):.2g} with a fixed shape and by "
          f"{apart(ort, dynamic):.2f} with a dynamic one; from the one of all 5 steps, this is apart by {apart(all_ov, dynamic):.2g}")
    as_told &= apart(ort, dynamic) > 0.05 and apart(all_ov, dynamic) < 1e-5 and apart(ort, fixed) < 1e-5
sys.exit(not as_told)
PY
