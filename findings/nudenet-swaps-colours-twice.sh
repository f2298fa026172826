#!/usr/bin/env bash
# nudenet 3.4.2 (PyPI): the detector's network is given blue in place of red, and finds less for it.
#
# NudeDetector reads a file with OpenCV, which gives blue, green, red. It turns that around once with
# cvtColor(COLOR_RGBA2BGR) and once more with blobFromImage(swapRB=True), so that the network sees blue first. Its weights want
# red first: with the colours in that order faces get higher scores, and the same face twice gets the same class twice.
# A port of the package that hands over RGB, as YOLOv8 is served everywhere else, therefore answers other scores and classes.
#
# Seen here, with onnxruntime 1.32.0, numpy 2.4.6, opencv-python-headless 5.0.0.93 and the picture astronaut of scikit-image 0.26.0:
#   a red image: the network's first channel 0.0, its third 1.0
#   from the file: FACE_FEMALE 0.72; twice side by side: FACE_FEMALE 0.37, FACE_MALE 0.34
#   as an RGB array: FACE_FEMALE 0.81; twice side by side: FACE_FEMALE 0.53, FACE_FEMALE 0.53
# Do this: give detect() an array in RGB, not a path or bytes.
#
# Exits 0 while the behaviour is as told, 1 when it has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: \
    nudenet==3.4.2 scikit-image==0.26.0 onnxruntime==1.32.0 numpy==2.4.6 opencv-python-headless==5.0.0.93
"$folder/venv/bin/python" - "$folder" <<'PY'
import pathlib
import sys

import cv2
import numpy as np
import skimage
from nudenet import NudeDetector
from nudenet.nudenet import _read_image

red = np.zeros((320, 320, 3), np.uint8)
red[:, :, 2] = 255
blob = _read_image(cv2.imencode(".png", red)[1].tobytes())[0]
first, third = float(blob[0, 0].mean()), float(blob[0, 2].mean())
print(f"a red image: the network's first channel {first}, its third {third}")

face = cv2.imread(str(pathlib.Path(skimage.__file__).parent / "data" / "astronaut.png"))
twice = np.hstack([face, face])
detector = NudeDetector()


def found(image, as_file):
    if as_file:
        path = f"{sys.argv[1]}/image.png"
        cv2.imwrite(path, image)
        return detector.detect(path)
    return detector.detect(image[:, :, ::-1].copy())


def told(boxes):
    return ", ".join(f"{box['class']} {box['score']:.2f}" for box in boxes)


seen = {}
for how, as_file in (("from the file", True), ("as an RGB array", False)):
    seen[as_file] = found(face, as_file), found(twice, as_file)
    print(f"{how}: {told(seen[as_file][0])}; twice side by side: {told(seen[as_file][1])}")
classes = {as_file: sorted(box["class"] for box in both[1]) for as_file, both in seen.items()}
as_told = (
    (first, third) == (0.0, 1.0)
    and seen[False][0][0]["score"] > seen[True][0][0]["score"] + 0.05
    and classes == {True: ["FACE_FEMALE", "FACE_MALE"], False: ["FACE_FEMALE", "FACE_FEMALE"]}
)
sys.exit(not as_told)
PY
