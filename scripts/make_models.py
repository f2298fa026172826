#!/usr/bin/env python3
"""Makes the models that are small enough to live in the repository.

    models/identity/1/model.onnx   hands its input back: for tests and for measuring everything but the model
    models/digits/1/model.onnx     reads a handwritten digit: 64-64-10 perceptron, trained here in seconds
    tests/data/slow/1/model.onnx   computes for some hundred milliseconds: for tests of calls that meet
    tests/data/digits-failing/model.onnx  a version of digits that loads and then fails on ink: for tests of rollouts
    tests/data/digits-heldout.csv  the digits it was not trained on, one a line: label, then 64 pixels

Made with these versions (any Python that runs them will do):

    numpy==2.4.6  scikit-learn==1.9.1  onnx==1.23.2  onnxruntime==1.31.1

The same versions give the same bytes on every machine: training uses only element-wise arithmetic in a fixed
order, never a matrix product or a sum whose order, and so rounding, a library picks by processor.

Usage: python3 scripts/make_models.py [--check]     --check compares with the files in place, writes nothing
"""

import argparse
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Old enough for ONNX Runtime 1.17 and for tract.
OPSET = 13
IR_VERSION = 8

SEED = 20250101
HELD_OUT = 360
HIDDEN = 64
EPOCHS = 60
BATCH = 48
LEARNING_RATE = 0.004
DECAY = 2e-4


def ordered_sum(values):
    """The sum over the first axis, first to last."""
    total = values[0].copy()
    for value in values[1:]:
        total += value
    return total


def product(a, b):
    """The matrix product, added up in the order of the inner index."""
    total = a[:, 0, None] * b[0]
    for k in range(1, a.shape[1]):
        total += a[:, k, None] * b[k]
    return total


def exp(x):
    """e to the power of x for x <= 0, by squaring: off by less than 1e-6, and the same everywhere."""
    y = 1.0 + np.maximum(x, -60.0) / 2.0**32
    for _ in range(32):
        y = y * y
    return y


def softmax(logits):
    """The probabilities of each row."""
    powers = exp(logits - logits.max(axis=1, keepdims=True))
    return powers / ordered_sum(powers.T)[:, None]


def train(pixels, labels):
    """Adam on the cross-entropy of a perceptron with one hidden layer; returns its weights."""
    rng = np.random.default_rng(SEED)

    def start(rows, columns):
        bound = np.sqrt(6.0 / (rows + columns))
        return rng.uniform(-bound, bound, (rows, columns))

    weights = [start(64, HIDDEN), np.zeros(HIDDEN), start(HIDDEN, 10), np.zeros(10)]
    first = [np.zeros_like(w) for w in weights]
    second = [np.zeros_like(w) for w in weights]
    wanted = np.eye(10)[labels]
    power1 = power2 = 1.0
    for epoch in range(EPOCHS):
        rate = LEARNING_RATE * (1.0 - epoch / EPOCHS)
        order = rng.permutation(len(pixels))
        for begin in range(0, len(order), BATCH):
            rows = order[begin : begin + BATCH]
            w1, b1, w2, b2 = weights
            x = pixels[rows]
            hidden = np.maximum(product(x, w1) + b1, 0.0)
            error = (softmax(product(hidden, w2) + b2) - wanted[rows]) / len(rows)
            back = product(error, w2.T) * (hidden > 0.0)
            slopes = [product(x.T, back), ordered_sum(back), product(hidden.T, error), ordered_sum(error)]
            power1 *= 0.9
            power2 *= 0.999
            for w, m, v, slope in zip(weights, first, second, slopes):
                if w.ndim == 2:
                    slope = slope + DECAY * w
                m += 0.1 * (slope - m)
                v += 0.001 * (slope * slope - v)
                w -= rate * (m / (1.0 - power1)) / (np.sqrt(v / (1.0 - power2)) + 1e-8)
    return weights


def model(graph, text):
    """A serialised model of the graph."""
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="penstock")
    made.ir_version = IR_VERSION
    made.doc_string = text
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString(deterministic=True)


def identity():
    """b = a."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["a"], ["b"])],
        "identity",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, ["N", 4])],
    )
    return model(graph, "Hands its input back.")


def slow():
    """b = the mean of a matrix multiplied with itself again and again, beginning with a everywhere."""
    side, products = 1536, 12
    size = numpy_helper.from_array(np.array([side, side], dtype=np.int64), "size")
    nodes = [helper.make_node("Expand", ["a", "size"], ["m0"])]
    for k in range(products):
        nodes.append(helper.make_node("MatMul", [f"m{k}", "m0"], [f"p{k}"]))
        nodes.append(helper.make_node("Tanh", [f"p{k}"], [f"m{k + 1}"]))
    nodes.append(helper.make_node("ReduceMean", [f"m{products}"], ["b"], axes=[0, 1], keepdims=1))
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 1])],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, 1])],
        [size],
    )
    return model(graph, "Multiplies large matrices for a while.")


def failing():
    """A version of digits that answers a blank sheet and fails on any other: it gives one number the shape of as many as the
    darkest pixel is dark, and one."""
    constants = {
        "weight": np.zeros((64, 10), dtype=np.float32),
        "number": np.zeros(1, dtype=np.float32),
        "one": np.ones(1, dtype=np.int64),
    }
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["pixels"], ["darkest"], axes=[0, 1], keepdims=0),
            helper.make_node("Cast", ["darkest"], ["dark"], to=TensorProto.INT64),
            helper.make_node("Add", ["dark", "one"], ["size"]),
            helper.make_node("Reshape", ["number", "size"], ["bias"]),
            helper.make_node("MatMul", ["pixels", "weight"], ["products"]),
            helper.make_node("Add", ["products", "bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "failing",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return model(graph, "Fails on any sheet that is not blank.")


def digits():
    """The trained perceptron, the accuracy of the exported graph, and the held-out digits as text."""
    data = load_digits()
    pixels, labels = data.data, data.target
    order = np.random.default_rng(SEED).permutation(len(pixels))
    held_out, known = order[:HELD_OUT], order[HELD_OUT:]

    # Pixels are 0 to 16; dividing the first weights by a power of two is exact and saves the graph a step.
    w1, b1, w2, b2 = train(pixels[known] / 16.0, labels[known])
    constants = {"hidden_weight": w1 / 16.0, "hidden_bias": b1, "output_weight": w2, "output_bias": b2}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["pixels", "hidden_weight", "hidden_bias"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["active"]),
            helper.make_node("Gemm", ["active", "output_weight", "output_bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    text = f"Reads an 8x8 handwritten digit. Trained on {len(known)} of scikit-learn's digits."
    made = model(graph, text)

    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    (answers,) = session.run(None, {"pixels": pixels[held_out].astype(np.float32)})
    right = int((answers.argmax(axis=1) == labels[held_out]).sum())
    # Stated in the file itself, of the very graph that was measured.
    made = model(graph, f"{text} Right on {right} of the {HELD_OUT} held out ({right / HELD_OUT:.1%}).")

    lines = [
        ",".join(str(int(value)) for value in [labels[index], *pixels[index]])
        for index in held_out
    ]
    return made, right, "\n".join(lines).encode() + b"\n"


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--check", action="store_true", help="compare with the files in place, write nothing")
    check = arguments.parse_args().check

    made, right, held_out = digits()
    files = {
        "models/identity/1/model.onnx": identity(),
        "models/digits/1/model.onnx": made,
        "tests/data/slow/1/model.onnx": slow(),
        "tests/data/digits-failing/model.onnx": failing(),
        "tests/data/digits-heldout.csv": held_out,
    }
    different = 0
    for name, content in files.items():
        path = ROOT / name
        same = path.is_file() and path.read_bytes() == content
        if not same:
            different += 1
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        state = "unchanged" if same else "DIFFERENT" if check else "written"
        print(f"{name}: {len(content)} bytes, {state}")
    print(f"digits: right on {right} of {HELD_OUT} held out ({right / HELD_OUT:.1%})")
    return 1 if check and different else 0


if __name__ == "__main__":
    sys.exit(main())
