#!/usr/bin/env bash
# skl2onnx 1.20.0 (PyPI): five estimators of scikit-learn are converted without a word and answer something else.
#
# - OneVsRestClassifier(SVC()): every label is another one. With LinearSVC inside it is right.
# - SGDClassifier(loss="modified_huber"): probabilities are right, and labels are not those of the largest.
# - Normalizer("max") divides by the largest element in place of the largest absolute one, so that rows with a large negative element
#   come out larger than 1 and, if nothing is positive, with another sign.
# - KNeighborsClassifier(weights="distance"): a row that was seen in training does not decide alone, as scikit-learn has it.
# - KNNImputer fills in other values.
#
# Seen here on the 150 rows of iris, with scikit-learn 1.9.1 and onnxruntime 1.32.0:
#   one against the rest of SVC: 150 labels differ; of LinearSVC: 0
#   modified_huber: 18 labels differ, 0 rows of probabilities
#   Normalizer("max") of [-4, 1, 2, 0]: [-2, 0.5, 1, 0] in place of [-1, 0.25, 0.5, 0]
#   neighbours by distance: 14 rows with other probabilities, 5 with another label
#   KNNImputer: 31 of 115 values differ
# Do this: SVC alone is converted right; take the label from the probabilities; use MaxAbsScaler-like scaling of your own; use
# weights="uniform"; impute with SimpleImputer. Compare each converted graph with its model on the training rows.
#
# Exits 0 while the behaviour is as told, 1 when it has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: \
    skl2onnx==1.20.0 scikit-learn==1.9.1 onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 protobuf==6.33.6
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.impute import KNNImputer
from sklearn.linear_model import SGDClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import Normalizer
from sklearn.svm import SVC, LinearSVC

x, y = load_iris(return_X_y=True)
x = x.astype(np.float32)


def run(model, rows, **options):
    graph = to_onnx(model, x[:1], options={id(model): options} if options else None)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"X": rows.astype(np.float32)})


def of_classifier(name, model):
    model.fit(x, y)
    label, scores = run(model, x, zipmap=False)
    said = f"{name}: {(label != model.predict(x)).sum()} labels"
    if hasattr(model, "predict_proba"):
        apart = np.abs(scores - model.predict_proba(x)).max(axis=1) > 1e-3
        said += f", {apart.sum()} rows of probabilities"
    return said


seen = [
    of_classifier("one against the rest of SVC", OneVsRestClassifier(SVC())),
    of_classifier("of LinearSVC", OneVsRestClassifier(LinearSVC(random_state=0))),
    of_classifier("modified_huber", SGDClassifier(loss="modified_huber", random_state=0)),
    of_classifier("neighbours by distance", KNeighborsClassifier(weights="distance")),
]
row = np.array([[-4, 1, 2, 0]])
model = Normalizer("max").fit(x)
seen.append(f"Normalizer: {run(model, row)[0][0].tolist()} in place of {model.transform(row)[0].tolist()}")
missing = x.copy()
missing[np.random.default_rng(0).random(x.shape) < 0.2] = np.nan
model = KNNImputer().fit(missing)
apart = np.abs(run(model, missing)[0] - model.transform(missing)) > 1e-3
seen.append(f"KNNImputer: {apart.sum()} of {np.isnan(missing).sum()} values differ")
print("\n".join(seen))
sys.exit(
    seen
    != [
        "one against the rest of SVC: 150 labels",
        "of LinearSVC: 0 labels",
        "modified_huber: 18 labels, 0 rows of probabilities",
        "neighbours by distance: 5 labels, 14 rows of probabilities",
        "Normalizer: [-2.0, 0.5, 1.0, 0.0] in place of [-1.0, 0.25, 0.5, 0.0]",
        "KNNImputer: 31 of 115 values differ",
    ]
)
PY
