#!/usr/bin/env bash
# onnxruntime 1.32.0 (PyPI): tensors of 2 and 4 bits can be transposed, but not reshaped; FP8 can be reshaped, but not squeezed.
#
# ONNX lets Identity, Reshape, Squeeze, Unsqueeze, Flatten and Transpose take integers of 2 and 4 bits and FP8. The first five move no
# element, so they look like the easy ones. On the CPU, ONNX Runtime has Transpose for all of these types, Identity and Reshape for FP8
# alone, and Squeeze, Unsqueeze and Flatten for none of them: the session fails with NOT_IMPLEMENTED.
#
# Seen here, opset 25, each graph accepted by onnx.checker:
#   INT4, UINT4, INT2, UINT2: Cast, Transpose
#   FLOAT8E4M3FN, FLOAT8E5M2: Cast, Identity, Reshape, Transpose
# Do this: cast to INT8 or FLOAT16 before such an operator, or give the graph inputs in the shape that it needs.
#
# Exits 0 while the behaviour is as told, 1 when it has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: \
    onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import sys

import onnx
import onnxruntime
from onnx import TensorProto, helper

onnxruntime.set_default_logger_severity(4)
AXIS = [helper.make_tensor("axes", TensorProto.INT64, [1], [0])]
# Operator: its attributes, its second input, and the shapes of input and output.
OPERATORS = {
    "Cast": ({"to": TensorProto.FLOAT}, [], [2, 2], [2, 2]),
    "Identity": ({}, [], [2, 2], [2, 2]),
    "Reshape": ({}, [helper.make_tensor("shape", TensorProto.INT64, [1], [4])], [2, 2], [4]),
    "Squeeze": ({}, AXIS, [1, 2], [2]),
    "Unsqueeze": ({}, AXIS, [2, 2], [1, 2, 2]),
    "Flatten": ({"axis": 1}, [], [2, 2], [2, 2]),
    "Transpose": ({"perm": [1, 0]}, [], [2, 2], [2, 2]),
}


def runs(operator, element):
    attributes, second, before, after = OPERATORS[operator]
    given = TensorProto.FLOAT if operator == "Cast" else element
    node = helper.make_node(operator, ["x"] + [tensor.name for tensor in second], ["y"], **attributes)
    graph = helper.make_graph([node], "graph", [helper.make_tensor_value_info("x", element, before)],
                              [helper.make_tensor_value_info("y", given, after)], second)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)
    onnx.checker.check_model(model, full_check=True)
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        return False
    return True


packed, fp8 = ["Cast", "Transpose"], ["Cast", "Identity", "Reshape", "Transpose"]
expected = {"INT4": packed, "UINT4": packed, "INT2": packed, "UINT2": packed, "FLOAT8E4M3FN": fp8, "FLOAT8E5M2": fp8}
changed = False
for name, wanted in expected.items():
    found = [operator for operator in OPERATORS if runs(operator, getattr(TensorProto, name))]
    print(f"{name}: {', '.join(found)}")
    changed |= found != wanted
sys.exit(changed)
PY
