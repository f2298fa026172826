#!/usr/bin/env bash
# treelite 4.8.1 (PyPI), the exchange format of tree models that Triton's FIL backend reads: two settings are imported without a word
# and answer other probabilities.
#
# - scikit-learn's GradientBoostingClassifier(loss="exponential") answers the logistic function of twice the sum of the trees, as the
#   exponential loss has it. Treelite answers the logistic function of the sum, as for loss="log_loss": less sure, the same label.
# - LightGBM's zero_as_missing=True sends a 0 where missing values go. Treelite compares the 0 with the threshold, and takes NaN for 0.
# Both keep the meaning of everything else: other losses, missing values of scikit-learn's trees and categories are right.
#
# Seen here, with scikit-learn 1.9.1 and lightgbm 4.7.0; the model's answer, then treelite's:
#   exponential loss: 0.774 and 0.649, log_loss: 0.757 and 0.757 (row 50 of iris, class 1 against the rest)
#   zero_as_missing=True, for 0, NaN, 1, 3: 0.998 0.998 0.002 0.998 and 0.002 0.002 0.002 0.998
#   zero_as_missing=False, for 0, NaN, 1, 3: 0.998 0.998 0.002 0.998 and 0.998 0.998 0.002 0.998
# Do this: train with log_loss; take pred_margin=True and apply the function to twice the margin; mark missing values as NaN.
#
# Exits 0 while the behaviour is as told, 1 when it has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: \
    treelite==4.8.1 lightgbm==4.7.0 scikit-learn==1.9.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PY'
import sys

import lightgbm
import numpy as np
import treelite
from sklearn.datasets import load_iris
from sklearn.ensemble import GradientBoostingClassifier

as_told = True

x, y = load_iris(return_X_y=True)
x, y = x.astype(np.float32), (y == 1).astype(int)
for loss in ["exponential", "log_loss"]:
    model = GradientBoostingClassifier(loss=loss, n_estimators=10, random_state=0).fit(x, y)
    imported = treelite.sklearn.import_model(model)
    right, other = model.predict_proba(x)[:, 1], treelite.gtil.predict(imported, x).ravel()
    margin = treelite.gtil.predict(imported, x, pred_margin=True).ravel()
    print(f"{loss}: {right[50]:.3f} and {other[50]:.3f}")
    if loss == "exponential":
        as_told &= np.abs(right - other).max() > 0.1 and np.allclose(right, 1 / (1 + np.exp(-2 * margin)), atol=1e-5)
        as_told &= np.allclose(other, 1 / (1 + np.exp(-margin)), atol=1e-5)
    else:
        as_told &= np.allclose(right, other, atol=1e-5)

rows = np.array([[0], [1], [2], [3]] * 20, dtype=np.float32)
labels = np.array([1, 0, 0, 1] * 20)
asked = np.array([[0], [np.nan], [1], [3]], dtype=np.float32)
for zero in [True, False]:
    settings = {"objective": "binary", "zero_as_missing": zero, "min_data_in_leaf": 1, "learning_rate": 1, "num_threads": 1, "verbose": -1}
    model = lightgbm.train(settings, lightgbm.Dataset(rows, labels), 5)
    right = model.predict(asked)
    other = treelite.gtil.predict(treelite.frontend.from_lightgbm(model), asked).ravel()
    print(f"zero_as_missing={zero}: {right.round(3)} and {other.round(3)}")
    same = (np.abs(right - other) < 1e-5).tolist()
    as_told &= same == ([False, False, True, True] if zero else [True] * 4)
sys.exit(not as_told)
PY
