"""NudeNet's detector behind the adapter `object-detection`, compared with NudeNet's own results on scikit-image's pictures."""

import io
import json
import pathlib
import shutil
import urllib.error
import urllib.request

import numpy
import nudenet
import pytest
import skimage
from conftest import ROOT, Server
from nudenet import nudenet as source
from PIL import Image

GRAPH = pathlib.Path(nudenet.__file__).parent / "320n.onnx"
PICTURES = pathlib.Path(skimage.__file__).parent / "data"
# The package keeps its classes in a private list.
LABELS = getattr(source, "__labels")
SIDE = 320

CONTRACT = f"""description = "Finds faces and parts of bodies"
[[inputs]]
name = "images"
datatype = "FP32"
shape = ["N", 3, {SIDE}, {SIDE}]
[[outputs]]
name = "output0"
datatype = "FP32"
shape = ["N", {4 + len(LABELS)}, "B"]
[adapter]
name = "object-detection"
config = "boxes.json"
"""


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    (models / "bodies" / "1").mkdir(parents=True)
    (models / "bodies" / "model.toml").write_text(CONTRACT)
    config = {"input": "images", "width": SIDE, "height": SIDE, "form": "yolov8", "place": "top-left", "border": 0}
    config |= {"labels": LABELS, "min_score": 0.25, "max_overlap": 0.45, "across_classes": True}
    (models / "bodies" / "boxes.json").write_text(json.dumps(config))
    shutil.copy(GRAPH, models / "bodies" / "1" / "model.onnx")
    started = Server(tmp_path_factory.mktemp("server"), (ROOT / "penstock.toml").read_text(), ["acme"], str(models))
    yield started
    started.stop()


def png(image):
    body = io.BytesIO()
    image.save(body, "PNG")
    return body.getvalue()


def sent(server, body, kind="image/png"):
    request = urllib.request.Request(f"{server.url}/v1/models/bodies:predict", body, {"content-type": kind})
    return json.load(urllib.request.urlopen(request, timeout=120))["predictions"][0]


def expected(image):
    # In RGB, though it reads files as BGR: it swaps the colours twice, and its network would see blue in place of red.
    found = nudenet.NudeDetector().detect(numpy.array(image.convert("RGB")))
    return sorted(found, key=lambda one: -one["score"])


def picture(name):
    return Image.open(PICTURES / name).convert("RGB")


def beside(left, right):
    both = Image.new("RGB", (left.width + right.width, max(left.height, right.height)))
    both.paste(left, (0, 0))
    both.paste(right, (left.width, 0))
    return both


IMAGES = {
    "a face": picture("astronaut.png"),
    "a wide part of it": picture("astronaut.png").crop((0, 0, 512, 300)),
    "another face": picture("camera.png"),
    "two faces": beside(picture("astronaut.png"), picture("astronaut.png")),
    "a cat": picture("chelsea.png"),
    "a cup": picture("coffee.png"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_what_nudenet_finds_is_found(detector, name):
    image = IMAGES[name]
    answer, wanted = sent(detector, png(image)), expected(image)
    assert (answer["width"], answer["height"]) == image.size
    assert [one["label"] for one in answer["objects"]] == [one["class"] for one in wanted]
    for one, other in zip(answer["objects"], wanted, strict=True):
        assert abs(one["score"] - other["score"]) < 0.03
        left, top, width, height = other["box"]
        box = numpy.array([one["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")])
        # NudeNet scales with another filter and cuts to whole pixels.
        assert numpy.abs(box - numpy.array([left, top, left + width, top + height])).max() <= 0.02 * max(image.size)


def test_some_face_is_found_at_all():
    assert expected(IMAGES["a face"])[0]["class"] == "FACE_FEMALE"


def test_a_picture_that_is_cut_short_is_refused(detector):
    with pytest.raises(urllib.error.HTTPError) as raised:
        sent(detector, png(IMAGES["a face"])[:20_000])
    assert raised.value.code == 422
