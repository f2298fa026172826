#!/usr/bin/env python3
"""Makes the models with strings, sequences and maps that tests/types.rs serves: tests/data/types/<name>/.

    forest-zipmap     scikit-learn's random forest on iris, labels as strings, probabilities as a sequence of maps
    forest-integers   the same with integer labels
    lightgbm-zipmap   LightGBM with string labels, probabilities as a sequence of maps
    columns           a pipeline on a table: a string and a number as columns of their own, string labels
    encoder           scikit-learn's OrdinalEncoder on strings
    texts             TF-IDF and logistic regression on texts, string labels
    sequence          ONNX's SplitToSequence and SequenceAt: a sequence of tensors goes out, and one comes in

Each has cases.json: what is sent, and what ONNX Runtime for Python answers.

Made with these versions (any Python that runs them will do):

    numpy==2.4.6  scikit-learn==1.9.1  onnx==1.23.2  onnxruntime==1.29.0  skl2onnx==1.20.0  lightgbm==4.7.0  onnxmltools==1.16.0

Usage: python3 scripts/make_type_models.py
"""

import json
import pathlib
import shutil

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from lightgbm import LGBMClassifier
from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
from skl2onnx import to_onnx, update_registered_converter
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "types"
OPSET = {"": 17, "ai.onnx.ml": 3}


def plain(value):
    """A value of ONNX Runtime as JSON."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {str(key): float(one) for key, one in value.items()}
    return value


def save(name, model, contract, feeds):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "1").mkdir(parents=True)
    model.doc_string = ""
    onnx.save(model, folder / "1" / "model.onnx")
    (folder / "model.toml").write_text(f'description = "{name}, for tests"\n{contract}')
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    cases = [
        {
            "inputs": {key: plain(value) for key, value in feed.items()},
            "outputs": dict(zip(names, (plain(value) for value in session.run(None, feed)))),
        }
        for feed in feeds
    ]
    (folder / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")


def tensor(side, name, datatype, shape, more=""):
    axes = ", ".join(f'"{axis}"' if isinstance(axis, str) else str(axis) for axis in shape)
    return f'[[{side}]]\nname = "{name}"\ndatatype = "{datatype}"\nshape = [{axes}]\n{more}'


def classified(label, datatype, probability, labels):
    names = ", ".join(json.dumps(str(one)) for one in labels)
    # A contract with labels has no output called "label": `:predict` has a member of that name.
    more = "" if label == "label" else f"labels = [{names}]\n"
    return tensor("outputs", label, datatype, ["N"]) + tensor("outputs", probability, "FP32", ["N", len(labels)], more)


iris = load_iris()
x, y = iris.data.astype(np.float32), iris.target
species = iris.target_names[y]
rows = [x[[0, 60, 149]], x[[75]]]

forest = RandomForestClassifier(3, max_depth=3, random_state=0)
for name, target, datatype in (("forest-zipmap", species, "BYTES"), ("forest-integers", y * 10, "INT64")):
    forest.fit(x, target)
    model = to_onnx(forest, x[:1], target_opset=OPSET)
    contract = tensor("inputs", "X", "FP32", ["N", 4])
    contract += classified("output_label", datatype, "output_probability", forest.classes_)
    save(name, model, contract, [{"X": one} for one in rows])

boosted = LGBMClassifier(n_estimators=3, num_leaves=4, random_state=0, verbose=-1).fit(x, species)
update_registered_converter(
    LGBMClassifier, "LightGbmLGBMClassifier", calculate_linear_classifier_output_shapes, convert_lightgbm,
    options={"zipmap": [True, False], "nocl": [True, False]},
)
model = to_onnx(boosted, x[:1], target_opset=OPSET)
names = [output.name for output in model.graph.output]
contract = tensor("inputs", "X", "FP32", ["N", 4]) + classified(names[0], "BYTES", names[1], boosted.classes_)
save("lightgbm-zipmap", model, contract, [{"X": one} for one in rows])

# Passengers of a ship with their fares: the label is survival.
rng = np.random.default_rng(0)
sexes = rng.choice(["female", "male"], 200).reshape(-1, 1).astype(object)
fares = rng.uniform(5, 80, (200, 1)).astype(np.float32)
survived = np.where((sexes[:, 0] == "female") ^ (fares[:, 0] > 60), "yes", "no")
table = np.concatenate([sexes, fares.astype(object)], axis=1)
columns = make_pipeline(
    ColumnTransformer([("sex", OneHotEncoder(handle_unknown="ignore"), [0]), ("fare", "passthrough", [1])]),
    LogisticRegression(random_state=0),
).fit(table, survived)
model = to_onnx(
    columns,
    initial_types=[("sex", StringTensorType([None, 1])), ("fare", FloatTensorType([None, 1]))],
    target_opset=OPSET,
    options={"zipmap": False},
)
contract = tensor("inputs", "sex", "BYTES", ["N", 1]) + tensor("inputs", "fare", "FP32", ["N", 1])
contract += classified("label", "BYTES", "probabilities", columns.classes_)
save("columns", model, contract, [
    {"sex": np.array([["female"], ["male"], ["another"]], object), "fare": np.array([[7], [70], [30]], np.float32)},
])

colours = np.array([["red"], ["grün"], ["blau"], [""]], object)
encoder = OrdinalEncoder(dtype=np.int64).fit(colours)
model = to_onnx(encoder, initial_types=[("colour", StringTensorType([None, 1]))], target_opset=OPSET)
output = model.graph.output[0].name
contract = tensor("inputs", "colour", "BYTES", ["N", 1]) + tensor("outputs", output, "INT64", ["N", 1])
save("encoder", model, contract, [{"colour": colours}])

good = ["a fine day", "very fine and good", "good wine, good food", "we like it"]
bad = ["a bad day", "very bad and wet", "bad wine, bad food", "we hate it"]
# ONNX Runtime lowers letters with the locale en_US.UTF-8, and does not load the graph where the system has none.
texts = make_pipeline(TfidfVectorizer(lowercase=False), LogisticRegression(random_state=0)).fit(good + bad, ["good"] * 4 + ["bad"] * 4)
model = to_onnx(
    texts,
    initial_types=[("text", StringTensorType([None, 1]))],
    target_opset=OPSET,
    options={"zipmap": False},
)
contract = tensor("inputs", "text", "BYTES", ["N", 1]) + classified("label", "BYTES", "probabilities", texts.classes_)
save("texts", model, contract, [{"text": np.array([["good food"], ["a very wet day"], [""]], object)}])

split = helper.make_node("SplitToSequence", ["x"], ["parts"], axis=0)
second = helper.make_node("SequenceAt", ["given", "place"], ["second"])
graph = helper.make_graph(
    [split, second],
    "sequence",
    [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2]),
        helper.make_tensor_sequence_value_info("given", TensorProto.INT64, None),
        helper.make_tensor_value_info("place", TensorProto.INT64, []),
    ],
    [
        helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None),
        helper.make_tensor_value_info("second", TensorProto.INT64, None),
    ],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
contract = (
    tensor("inputs", "x", "FP32", ["n", 2])
    + tensor("inputs", "given", "INT64", ["elements"])
    + tensor("inputs", "given.shapes", "INT64", ["tensors", "axes"])
    + tensor("inputs", "place", "INT64", [])
    + tensor("outputs", "parts", "FP32", ["values"])
    + tensor("outputs", "parts.shapes", "INT64", ["parts", 2])
    + tensor("outputs", "second", "INT64", ["k"])
    # A made-up sequence has one part that is not empty, so the second says nothing of the shape.
    + '[engine]\nfirst_run = "skip"\n'
)
save("sequence", model, contract, [])
