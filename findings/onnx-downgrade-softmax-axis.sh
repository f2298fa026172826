#!/usr/bin/env bash
# onnx 1.23.2 (PyPI): `onnx.version_converter.convert_version` from opset 13 to 12 keeps a Softmax or LogSoftmax along a middle axis
# as it is, without a word, and the graph then answers other numbers.
#
# Up to opset 12 these operators flatten everything from `axis` on into one row; since opset 13 they work along `axis` alone. The two
# are the same only for the last axis. The way up (12 to 13) inserts Flatten and Reshape. The way down only changes the number of the
# opset. Hardmax, which changed in the same way, has no adapter and raises.
#
# Seen here, on numbers of shape [2,3,4] along axis 1, with onnxruntime 1.32.0:
#   Softmax: nodes ['Softmax'], opset 12, sum along axis 1 is 1.000 before and 0.199 after
#   LogSoftmax: nodes ['LogSoftmax'], opset 12, largest difference 1.613
#   Hardmax: RuntimeError
# Do this: move the axis to the end with Transpose before a downgrade, and compare answers before and after any conversion.
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
import onnxruntime
from onnx import TensorProto, helper, version_converter

x = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7


def graph(operator):
    port = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3, 4])
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], axis=1)], "g", [port("x")], [port("y")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def run(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def convert(operator):
    model = graph(operator)
    lower = version_converter.convert_version(model, 12)
    nodes, opset = [node.op_type for node in lower.graph.node], lower.opset_import[0].version
    return run(model), run(lower), f"{operator}: nodes {nodes}, opset {opset}"


before, after, softmax = convert("Softmax")
seen = [f"{softmax}, sum along axis 1 is {before.sum(1)[0, 0]:.3f} before and {after.sum(1)[0, 0]:.3f} after"]
before, after, log_softmax = convert("LogSoftmax")
seen.append(f"{log_softmax}, largest difference {abs(before - after).max():.3f}")
try:
    seen.append(convert("Hardmax")[2])
except RuntimeError:
    seen.append("Hardmax: RuntimeError")
print("\n".join(seen))
sys.exit(
    seen
    != [
        "Softmax: nodes ['Softmax'], opset 12, sum along axis 1 is 1.000 before and 0.199 after",
        "LogSoftmax: nodes ['LogSoftmax'], opset 12, largest difference 1.613",
        "Hardmax: RuntimeError",
    ]
)
PY
