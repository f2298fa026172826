#!/usr/bin/env bash
# rapidocr-onnxruntime 1.4.4 (PyPI): the text that is read from a line depends on the other lines of the page.
#
# The recogniser reads lines in batches of six, sorted by width, and fills each line with zeros on the right up to the widest of its
# batch. The model was not trained to ignore that, so a short line that shares a batch with a long one loses its spaces, and its
# confidence moves. The same happens inside the package's own pipeline, which sends it all lines of a page.
#
# Seen here, black text on white, with onnxruntime 1.32.0, numpy 2.4.6, opencv-python 5.0.0.93 and Pillow 13.0.0:
#   alone: 'hello world', 'Nov 29'
#   beside a line of 101 letters: 'helloworld', 'Nov29'
#   with rec_batch_num=1: 'hello world', 'Nov 29'
# Do this: rec_batch_num=1, or batch only lines of one width.
#
# Exits 0 while the behaviour is as told, 1 when it has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: \
    rapidocr-onnxruntime==1.4.4 onnxruntime==1.32.0 numpy==2.4.6 opencv-python==5.0.0.93 pillow==13.0.0
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rapidocr_onnxruntime import RapidOCR


def line(text):
    font = ImageFont.load_default(26)
    image = Image.new("RGB", (font.getbbox(text)[2] + 12, 40), "white")
    ImageDraw.Draw(image).text((6, 4), text, fill="black", font=font)
    return np.array(image)


def read(recogniser, *texts):
    """The text read from the first line, when it comes with the others."""
    return recogniser([line(text) for text in texts])[0][0][0]


WORDS = ["hello world", "Nov 29"]
LONG = "A very long line of text that makes the whole batch much wider than the others are, really quite wide"
batches, single = RapidOCR().text_rec, RapidOCR(rec_batch_num=1).text_rec
seen = [
    ("alone", [read(batches, word) for word in WORDS]),
    ("beside a line of 101 letters", [read(batches, word, LONG) for word in WORDS]),
    ("with rec_batch_num=1", [read(single, word, LONG) for word in WORDS]),
]
for how, texts in seen:
    print(f"{how}: {str(texts)[1:-1]}")
sys.exit([texts for _, texts in seen] != [WORDS, ["helloworld", "Nov29"], WORDS])
PY
