#!/usr/bin/env bash
# openvino 2026.4.1 (PyPI): Unique with sorted=0 answers zeros in place of values, unless the graph also asks for the inverse indices.
#
# ONNX's Unique has four outputs, of which three are optional: the values, their first places, the inverse indices and the counts.
# sorted=0 keeps the order of the first appearance. Whether an optional output is asked for must not change the others. In OpenVINO
# only the first value is right without the inverse indices; the rest is 0, and so are their places and counts. ONNX's own tests ask
# for all four outputs, so they pass.
#
# Seen here, for [3, 1, 2, 1, 3], beside onnxruntime 1.32.0 (right in all cases: 3, 1, 2), with onnx 1.23.2:
#   values alone: 3, 0, 0
#   values and counts: 3, 0, 0; counts 1, 1, 1 in place of 2, 2, 1
#   values and inverse indices: 3, 1, 2
#   values alone, sorted=1: 1, 2, 3
# Do this: ask for the inverse indices as well, or use sorted=1.
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
from onnx import TensorProto, helper

x = np.array([3, 1, 2, 1, 3], dtype=np.float32)


def answers(outputs, sorted):
    """What ONNX Runtime and OpenVINO answer, as lists of whole numbers."""
    kind = lambda name: TensorProto.FLOAT if name == "values" else TensorProto.INT64
    port = lambda name: helper.make_tensor_value_info(name, kind(name), [5 if name == "inverse" else "n"])
    node = helper.make_node("Unique", ["x"], outputs, sorted=sorted)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5])]
    graph = helper.make_graph([node], "g", inputs, [port(name) for name in outputs if name])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    one = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(data), "CPU")
    other = compiled([x])
    whole = lambda values: [int(v) for v in values]
    return [whole(v) for v in one], [whole(other[port]) for port in compiled.outputs]


as_told = True
for name, outputs, sorted, right, wrong in [
    ("values alone", ["values"], 0, [[3, 1, 2]], [[3, 0, 0]]),
    ("values and counts", ["values", "", "", "counts"], 0, [[3, 1, 2], [2, 2, 1]], [[3, 0, 0], [1, 1, 1]]),
    ("values and inverse indices", ["values", "", "inverse"], 0, [[3, 1, 2], [0, 1, 2, 1, 0]], None),
    ("values alone, sorted=1", ["values"], 1, [[1, 2, 3]], None),
]:
    runtime, vino = answers(outputs, sorted)
    print(f"{name}: onnxruntime {runtime}, openvino {vino}")
    as_told &= runtime == right and vino == (wrong or right)
sys.exit(not as_told)
PY
