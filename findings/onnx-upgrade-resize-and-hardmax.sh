#!/usr/bin/env bash
# onnx 1.23.2 (PyPI): `onnx.version_converter.convert_version` raises graphs with a linear Resize or Upsample to opset 11, and graphs with
# Hardmax to opset 13, into graphs that answer other numbers. The converter says nothing.
#
# Opset 11 gave Resize the attribute coordinate_transformation_mode, whose default is half_pixel. The way of opset 10 is now called
# asymmetric. The converter adds the new input `roi` and leaves the attribute out. With mode=nearest and a whole factor the two agree,
# so a test with these sees nothing. Opset 13 changed Softmax, LogSoftmax and Hardmax alike: they worked on all axes from `axis` on,
# and now on `axis` alone. The converter inserts Flatten and Reshape for the first two. For Hardmax it changes only the opset.
#
# Seen here, with onnxruntime 1.32.0 (openvino 2026.4.1 answers the same before the upgrade):
#   Resize 10 to 11, [0, 4] by 2: [0, 2, 4, 4] before, [0, 1, 3, 4] after
#   Upsample 9 to 11, [0, 4] by 2: [0, 2, 4, 4] before, [0, 1, 3, 4] after
#   Hardmax 11 to 13, axis 1 of [[[1, 4], [3, 2]]]: [0, 1, 0, 0] before, [0, 1, 1, 0] after
#   Softmax 11 to 13, axis 1 of the same: sum 1 before, 1 after
# Do this: set coordinate_transformation_mode="asymmetric" after the upgrade, put Flatten before Hardmax, and compare answers.
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
from onnx import TensorProto, helper, version_converter


def graph(operator, opset, x, shape, scales=None, **attributes):
    port = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    constants = [helper.make_tensor("scales", TensorProto.FLOAT, [len(scales)], scales)] if scales else []
    node = helper.make_node(operator, ["x"] + [c.name for c in constants], ["y"], **attributes)
    graph = helper.make_graph([node], "g", [port("x", x.shape)], [port("y", shape)], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=5)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


row = np.array([[[[0, 4]]]], dtype=np.float32)
square = np.array([[[1, 4], [3, 2]]], dtype=np.float32)
as_told = True
for operator, opset, target, x, attributes, right, wrong in [
    ("Resize", 10, 11, row, {"scales": [1.0, 1.0, 1.0, 2.0], "mode": "linear"}, [0, 2, 4, 4], [0, 1, 3, 4]),
    ("Upsample", 9, 11, row, {"scales": [1.0, 1.0, 1.0, 2.0], "mode": "linear"}, [0, 2, 4, 4], [0, 1, 3, 4]),
    ("Hardmax", 11, 13, square, {"axis": 1}, [0, 1, 0, 0], [0, 1, 1, 0]),
    ("Softmax", 11, 13, square, {"axis": 1}, None, None),
]:
    model = graph(operator, opset, x, [1, 1, 1, 4] if x is row else x.shape, **attributes)
    upgraded = version_converter.convert_version(model, target)
    onnx.checker.check_model(upgraded, full_check=True)
    before, after = run(model, x), run(upgraded, x)
    if right:
        told = [[int(v) for v in y.ravel()] for y in (before, after)]
        as_told &= told == [right, wrong] and np.array_equal(before.ravel(), right) and np.array_equal(after.ravel(), wrong)
    else:
        told = [f"sum {y.sum():.0f}" for y in (before, after)]
        as_told &= np.allclose(before, after)
    print(f"{operator} {opset} to {target}: {told[0]} before, {told[1]} after, {[node.op_type for node in upgraded.graph.node]}")
sys.exit(not as_told)
PY
