#!/usr/bin/env bash
# onnxmltools 1.16.0 with XGBoost 3.2.0 and LightGBM 4.7.0, and CatBoost 1.2.10's own export (PyPI): eight settings are converted
# without a word, and the graph answers something else.
#
# - XGBoost: objective="reg:logistic" answers without the logistic function; num_parallel_tree > 1 with several classes gives trees to
#   the wrong classes; a regressor of two targets mixes them.
# - LightGBM: objective="multiclassova" answers a softmax in place of logistic scores; sigmoid=2.0 is left out; reg_sqrt=True answers
#   the square root.
# - CatBoost: MultiClassOneVsAll answers a softmax; labels -1 and 1 come out as 0 and 1.
#
# Seen here on the 150 rows of iris, with onnxruntime 1.32.0: elements of labels or predictions that differ, then of probabilities:
#   XGBoost reg:logistic 149 of 150; num_parallel_tree=3 100 of 150, 450 of 450; two targets 270 of 300
#   LightGBM multiclassova 0 of 150, 450 of 450; sigmoid=2.0 0 of 150, 300 of 300; reg_sqrt 150 of 150
#   CatBoost MultiClassOneVsAll 0 of 150, 441 of 450; labels -1 and 1 50 of 150, 0 of 300
# Do this: train with the plain objectives (binary:logistic, multi:softprob, multiclass, MultiClass, one tree a round, one model for
# each target, classes that count from 0), or apply the missing function to the answer. Compare the graph with the model.
#
# Exits 0 while the behaviour is as told, 1 when it has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: onnxmltools==1.16.0 skl2onnx==1.20.0 \
    onnx==1.23.2 onnxruntime==1.32.0 scikit-learn==1.9.1 numpy==2.4.6 xgboost-cpu==3.2.0 lightgbm==4.7.0 catboost==1.2.10
"$folder/venv/bin/python" -W ignore - <<'PY'
import os
import sys
import tempfile

import catboost
import lightgbm
import numpy as np
import onnxruntime
import xgboost
from onnxmltools import convert_lightgbm, convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from sklearn.datasets import load_iris

x, y = load_iris(return_X_y=True)
x = x.astype(np.float32)
TYPES = [("input", FloatTensorType([None, 4]))]


def exported(model):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.onnx")
        model.save_model(path, format="onnx")
        return open(path, "rb").read()


def compare(name, model, target):
    model.fit(x, target)
    if isinstance(model, xgboost.XGBModel):
        graph = convert_xgboost(model, initial_types=TYPES).SerializeToString()
    elif isinstance(model, lightgbm.LGBMModel):
        graph = convert_lightgbm(model, initial_types=TYPES, zipmap=False).SerializeToString()
    else:
        graph = exported(model)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    answers = session.run(None, {session.get_inputs()[0].name: x})
    wanted = [model.predict(x)] + ([model.predict_proba(x)] if hasattr(model, "predict_proba") else [])
    said = []
    for answer, want in zip(answers, wanted):
        if isinstance(answer, list):
            answer = [[row[key] for key in sorted(row)] for row in answer]
        answer, want = np.asarray(answer, float).reshape(-1), np.asarray(want, float).reshape(-1)
        said.append(f"{(np.abs(answer - want) > 1e-3).sum()} of {want.size}")
    return f"{name}: {', '.join(said)}"


trees, quiet = dict(n_estimators=20, n_jobs=1), dict(iterations=20, depth=4, verbose=False, allow_writing_files=False, thread_count=1)
light = dict(trees, verbose=-1)
seen = [
    compare("XGBoost reg:logistic", xgboost.XGBRegressor(objective="reg:logistic", **trees), y / 2),
    compare("XGBoost num_parallel_tree=3", xgboost.XGBClassifier(num_parallel_tree=3, **trees), y),
    compare("XGBoost two targets", xgboost.XGBRegressor(**trees), np.c_[y, y * 2 + 1.0]),
    compare("XGBoost", xgboost.XGBClassifier(**trees), y),
    compare("LightGBM multiclassova", lightgbm.LGBMClassifier(objective="multiclassova", **light), y),
    compare("LightGBM sigmoid=2.0", lightgbm.LGBMClassifier(objective="binary", sigmoid=2.0, **light), (y > 0).astype(int)),
    compare("LightGBM reg_sqrt", lightgbm.LGBMRegressor(reg_sqrt=True, **light), y + 1.0),
    compare("LightGBM", lightgbm.LGBMClassifier(**light), y),
    compare("CatBoost MultiClassOneVsAll", catboost.CatBoostClassifier(loss_function="MultiClassOneVsAll", **quiet), y),
    compare("CatBoost labels -1 and 1", catboost.CatBoostClassifier(**quiet), np.where(y > 0, 1, -1)),
    compare("CatBoost", catboost.CatBoostClassifier(**quiet), y),
]
print("\n".join(seen))
sys.exit(
    seen
    != [
        "XGBoost reg:logistic: 149 of 150",
        "XGBoost num_parallel_tree=3: 100 of 150, 450 of 450",
        "XGBoost two targets: 270 of 300",
        "XGBoost: 0 of 150, 0 of 450",
        "LightGBM multiclassova: 0 of 150, 450 of 450",
        "LightGBM sigmoid=2.0: 0 of 150, 300 of 300",
        "LightGBM reg_sqrt: 150 of 150",
        "LightGBM: 0 of 150, 0 of 450",
        "CatBoost MultiClassOneVsAll: 0 of 150, 441 of 450",
        "CatBoost labels -1 and 1: 50 of 150, 0 of 300",
        "CatBoost: 0 of 150, 0 of 450",
    ]
)
PY
