#!/usr/bin/env bash
# onnx 1.23.2 (PyPI): `onnx.reference.ReferenceEvaluator` answers otherwise than ONNX's own operator texts, without a word. It is the
# implementation that a runtime gets compared with.
#
# - LRN normalises only as many channels as the batch has rows. The other channels come out as they went in.
# - LpNormalization with p=1 divides by the sum of the elements; the L1 norm is the sum of their absolute values.
# - RNN, GRU and LSTM ignore `sequence_lens` and `clip`; GRU and LSTM ignore `activations`.
# - Unique sorts the values although sorted=0, where they are its only output.
# ONNX's operator tests pass: their LRN has as many rows as channels, and these forms are missing.
#
# Seen here, beside onnxruntime 1.32.0, which is right:
#   LRN of the channels [1, 2, 3, 4], one row: [0.5, 2.0, 3.0, 4.0] in place of [0.5, 0.4, 0.3, 0.235]
#   LpNormalization, p=1, of [-1, 3]: [-0.5, 1.5] in place of [-0.25, 0.75]
#   RNN, three ones, sequence_lens=[1]: [0.96] in place of [0.762]
#   RNN, three ones, clip=0.5: [0.96] in place of [0.462]
#   LSTM, three ones, activations Sigmoid, Relu, Relu: [0.789] in place of [3.774]
#   Unique, sorted=0, of [3, 1, 2]: [1.0, 2.0, 3.0] in place of [3.0, 1.0, 2.0]
# Do this: compare two runtimes, or a runtime and numbers worked out by hand.
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
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator


def answers(operator, x, shape, outputs=("y",), constants=None, inputs=(), **attributes):
    """The answers of ONNX Runtime and of the reference to one operator."""
    x, constants = np.array(x, dtype=np.float32), constants or {}
    node = helper.make_node(operator, ["x", *(inputs or constants)], outputs, **attributes)
    port = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph([node], "g", [port("x", x.shape)], [port("y", shape)], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    runtime = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    both = runtime.run(None, {"x": x})[0], ReferenceEvaluator(model).run(None, {"x": x})[0]
    return [[round(value, 3) for value in y.ravel().tolist()] for y in both]


one = lambda gates: {name: np.ones((1, gates, 1), dtype=np.float32) for name in ("w", "r")}
ones, last = [[[1]]] * 3, {"shape": [1, 1, 1], "outputs": ["", "y"], "hidden_size": 1}
lengths = {**one(1), "lengths": np.array([1], dtype=np.int32)}
channels = [[[[1]], [[2]], [[3]], [[4]]]]
as_told = True
for name, (runtime, reference), right, wrong in [
    ("LRN of the channels [1, 2, 3, 4], one row",
     answers("LRN", channels, [1, 4, 1, 1], size=1, alpha=1.0, beta=1.0, bias=1.0), [0.5, 0.4, 0.3, 0.235], [0.5, 2.0, 3.0, 4.0]),
    ("LpNormalization, p=1, of [-1, 3]",
     answers("LpNormalization", [[-1, 3]], [1, 2], axis=1, p=1), [-0.25, 0.75], [-0.5, 1.5]),
    ("RNN, three ones, sequence_lens=[1]",
     answers("RNN", ones, constants=lengths, inputs=["w", "r", "", "lengths"], **last), [0.762], [0.96]),
    ("RNN, three ones, clip=0.5", answers("RNN", ones, constants=one(1), clip=0.5, **last), [0.462], [0.96]),
    ("LSTM, three ones, activations Sigmoid, Relu, Relu",
     answers("LSTM", ones, constants=one(4), activations=["Sigmoid", "Relu", "Relu"], **last), [3.774], [0.789]),
    ("Unique, sorted=0, of [3, 1, 2]", answers("Unique", [3, 1, 2], ["n"], sorted=0), [3.0, 1.0, 2.0], [1.0, 2.0, 3.0]),
]:
    print(f"{name}: {reference} in place of {runtime}")
    as_told &= runtime == right and reference == wrong
sys.exit(not as_told)
PY
