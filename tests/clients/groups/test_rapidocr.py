"""RapidOCR's models behind the adapters `ocr` and `ocr-recognition`, compared with RapidOCR's own results."""

import importlib.util
import io
import json
import pathlib
import shutil
import urllib.request

import numpy
import onnxruntime
import pytest
import rapidocr_onnxruntime
from conftest import ROOT, Server
from PIL import Image, ImageDraw, ImageFont

MODELS = pathlib.Path(rapidocr_onnxruntime.__file__).parent / "models"
# The package is a folder of fonts. It cannot be imported, because it asks for a typesetter.
FONTS = importlib.util.find_spec("rinoh_typeface_dejavusans").submodule_search_locations[0]
FONT = pathlib.Path(FONTS) / "DejaVuSans.ttf"
LINES = ["Invoice 2024-117", "Total amount: 1,284.50 EUR", "Paid by bank transfer", "Thank you for your order!"]

DETECTOR = """description = "Finds lines of text and has them read"
[[inputs]]
name = "x"
datatype = "FP32"
shape = ["N", 3, "H", "W"]
[[outputs]]
name = "sigmoid_0.tmp_0"
datatype = "FP32"
shape = ["N", 1, "H", "W"]
[axes]
H = { min = 32, max = 2016 }
W = { min = 32, max = 2016 }
[adapter]
name = "ocr"
config = "ocr.json"
[pipeline]
recognise = "ocr-lines@1"
"""
RECOGNISER = """description = "Reads a line of text"
[[inputs]]
name = "x"
datatype = "FP32"
shape = ["N", 3, 48, "W"]
[[outputs]]
name = "softmax_11.tmp_0"
datatype = "FP32"
shape = ["N", "T", 6625]
[axes]
W = { min = 320, max = 3200 }
[adapter]
name = "ocr-recognition"
config = "lines.json"
"""


@pytest.fixture(scope="module")
def ocr(tmp_path_factory):
    models = tmp_path_factory.mktemp("ocr-models")
    metadata = onnxruntime.InferenceSession(str(MODELS / "ch_PP-OCRv4_rec_infer.onnx")).get_modelmeta()
    characters = metadata.custom_metadata_map["character"].splitlines() + [" "]
    lines = {"input": "x", "height": 48, "min_width": 320, "max_width": 3200, "step": 8, "characters": characters}
    detect = {"input": "x", "min_side": 736, "max_side": 1984, "threshold": 0.3, "min_score": 0.5, "unclip": 1.6}
    for name, contract, config, file in (
        ("ocr", DETECTOR, ("ocr.json", {"detect": detect, "recognise": lines}), "ch_PP-OCRv4_det_infer.onnx"),
        ("ocr-lines", RECOGNISER, ("lines.json", lines), "ch_PP-OCRv4_rec_infer.onnx"),
    ):
        (models / name / "1").mkdir(parents=True)
        (models / name / "model.toml").write_text(contract)
        (models / name / config[0]).write_text(json.dumps(config[1]))
        shutil.copy(MODELS / file, models / name / "1" / "model.onnx")
    policy = (ROOT / "penstock.toml").read_text()
    started = Server(tmp_path_factory.mktemp("ocr"), policy, ["acme"], str(models))
    yield started
    started.stop()


def page(lines=LINES, size=28, angle=0):
    image = Image.new("RGB", (640, 70 + 60 * len(lines)), "white")
    draw = ImageDraw.Draw(image)
    for at, line in enumerate(lines):
        draw.text((30, 30 + 60 * at), line, fill=(20, 20, 60), font=ImageFont.truetype(FONT, size))
    return image.rotate(angle, fillcolor="white", resample=Image.BICUBIC) if angle else image


def sent(server, model, image):
    body = io.BytesIO()
    image.save(body, "PNG")
    request = urllib.request.Request(
        f"{server.url}/v1/models/{model}:predict", body.getvalue(), {"content-type": "image/png"}
    )
    return json.load(urllib.request.urlopen(request, timeout=120))["predictions"][0]


def read(image):
    found, _ = rapidocr_onnxruntime.RapidOCR()(numpy.array(image)[:, :, ::-1].copy())
    return found or []


@pytest.mark.parametrize("angle", [0, 4])
def test_a_page_is_read_as_rapidocr_reads_it(ocr, angle):
    image = page(angle=angle)
    answer, expected = sent(ocr, "ocr", image), read(image)
    assert [line["text"] for line in answer["lines"]] == [text for _, text, _ in expected]
    for line, (box, _, confidence) in zip(answer["lines"], expected, strict=True):
        assert numpy.abs(numpy.array(line["box"]) - numpy.array(box)).max() <= 6
        assert abs(line["confidence"] - float(confidence)) < 0.05


def test_a_line_is_read_alone(ocr):
    image = page(LINES[1:2]).crop((20, 20, 500, 80))
    answer = sent(ocr, "ocr-lines", image)
    assert answer["text"].replace(" ", "") == LINES[1].replace(" ", "")
    assert answer["confidence"] > 0.9


def test_a_blank_page_has_no_lines(ocr):
    assert sent(ocr, "ocr", Image.new("RGB", (200, 100), "white")) == {"text": "", "lines": []}
