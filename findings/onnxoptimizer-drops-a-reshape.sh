#!/usr/bin/env bash
# onnxoptimizer 0.4.2 (PyPI): `optimize()` with its default passes changes the answer of a valid graph with two Reshapes in a row.
#
# The pass eliminate_consecutive_idempotent_ops drops the first Reshape. But a 0 in the second one's shape means "as long as this axis
# was before", and before is now another tensor. Group normalisation, as ONNX itself expands it, has this pair.
#
# Seen here, on [[0..5],[6..11]] reshaped to [3,2,2], then to [0,-1], then summed over axis 1, with onnx 1.23.2 and onnxruntime 1.32.0:
#   before ['Reshape', 'Reshape', 'ReduceSum']: [6.0, 22.0, 38.0]
#   after ['ReduceSum']: [15.0, 51.0]
# Do this: name the passes, without eliminate_consecutive_idempotent_ops, or use onnxslim 0.1.98 or onnxsim 0.8.1, which are right here.
#
# Exits 0 while the behaviour is as told, 1 when it has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: \
    onnxoptimizer==0.4.2 onnxslim==0.1.98 onnxsim==0.8.1 onnx==1.23.2 onnxruntime==1.32.0
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnxoptimizer
import onnxruntime
import onnxsim
import onnxslim
from onnx import TensorProto, helper

x = np.arange(12, dtype=np.float32).reshape(2, 6)
numbers = lambda name, values: helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
nodes = [
    helper.make_node("Reshape", ["x", "first"], ["a"]),
    helper.make_node("Reshape", ["a", "second"], ["b"]),
    helper.make_node("ReduceSum", ["b", "axis"], ["y"], keepdims=0),
]
graph = helper.make_graph(
    nodes,
    "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])],
    initializer=[numbers("first", [3, 2, 2]), numbers("second", [0, -1]), numbers("axis", [1])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0].tolist()


def told(when, model):
    return f"{when} {[node.op_type for node in model.graph.node]}: {run(model)}"


optimized = onnxoptimizer.optimize(model)
others = [pas for pas in onnxoptimizer.get_fuse_and_elimination_passes() if pas != "eliminate_consecutive_idempotent_ops"]
remedies = {
    "without the pass": onnxoptimizer.optimize(model, others),
    "onnxslim": onnxslim.slim(model),
    "onnxsim": onnxsim.simplify(model)[0],
}
seen = [told("before", model), told("after", optimized)]
print("\n".join(seen))
for name, other in remedies.items():
    print(f"{name}: {run(other)}")
sys.exit(
    seen
    != [
        "before ['Reshape', 'Reshape', 'ReduceSum']: [6.0, 22.0, 38.0]",
        "after ['ReduceSum']: [15.0, 51.0]",
    ]
    or any(run(other) != [6.0, 22.0, 38.0] for other in remedies.values())
)
PY
