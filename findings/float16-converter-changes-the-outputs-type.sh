#!/usr/bin/env bash
# onnxconverter-common 1.16.0 (PyPI): `convert_float_to_float16(model, keep_io_types=True)` turns an FP32 output into FP16 where the
# last operator is one that it leaves in FP32, such as Max, Min, Range or Resize.
#
# Such an operator gets a cast to FP16 behind it, and at the end of the graph that cast makes the output. The graph says FP16 for the
# output as well, so it loads. onnxruntime carries a copy of this converter that is right.
#
# Seen here, one operator each, FP32 in and out, with onnx 1.23.2 and onnxruntime 1.32.0:
#   Add: float32
#   Max: float16
#   Min: float16
#   Max with the copy in onnxruntime.transformers.float16: float32
# Do this: use the copy in onnxruntime, or look at the outputs' types after converting.
#
# Exits 0 while the behaviour is as told, 1 when it has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: \
    onnxconverter-common==1.16.0 onnx==1.23.2 onnxruntime==1.32.0
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from onnxconverter_common import float16
from onnxruntime.transformers import float16 as copy


def graph(operator):
    port = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [3])
    constant = helper.make_tensor("c", TensorProto.FLOAT, [3], [2, 2, 0.5])
    node = helper.make_node(operator, ["x", "c"], ["y"])
    graph = helper.make_graph([node], "g", [port("x")], [port("y")], initializer=[constant])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def answered(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.array([1, 5, 3], dtype=np.float32)})[0].dtype


seen = [
    f"{operator}: {answered(float16.convert_float_to_float16(graph(operator), keep_io_types=True))}"
    for operator in ("Add", "Max", "Min")
]
right = answered(copy.convert_float_to_float16(graph("Max"), keep_io_types=True))
seen.append(f"Max with the copy in onnxruntime.transformers.float16: {right}")
print("\n".join(seen))
sys.exit(
    seen
    != [
        "Add: float32",
        "Max: float16",
        "Min: float16",
        "Max with the copy in onnxruntime.transformers.float16: float32",
    ]
)
PY
