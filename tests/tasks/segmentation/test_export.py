"""Segmentation models as files of other runtimes: they answer as the model, and predict and eval take them for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import convneur
from convneur.data.semantic import MaskEncoding
from convneur.export import FORMATS, formats, load_exported
from convneur.tasks.segmentation import create_segmenter, save_segmenter
from convneur_options.segmentation import Inference
from tests.cli.test_cli import call
from tests.data.semantic.builders import CLASSES, COLOURS, write_scenes

TINY = {"dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "memory_width": 16}
ARGUMENTS = {
    "decoder": "semantic_fpn",
    "backbone": "convneur_m1",
    "num_classes": 3,
    "backbone_args": TINY,
    "pyramid_channels": 32,
    "channels": 32,
}
SUFFIXES = [".pt2", *(pytest.param(suffix, marks=pytest.mark.slow) for suffix in (".onnx", ".xml"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model none of whose weights is what a new one has."""
    torch.manual_seed(0)
    model = create_segmenter(**ARGUMENTS).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    made = tmp_path_factory.mktemp("segmenter")
    save_segmenter(model, made, ARGUMENTS, MaskEncoding(CLASSES, COLOURS), Inference(), "")
    return made


@pytest.fixture(scope="module")
def street(tmp_path_factory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("street") / "street")


@pytest.fixture(scope="module")
def files(folder, tmp_path_factory) -> Callable[[str], Path]:
    """The exported file of a suffix, written when it is first asked for."""
    made: dict[str, Path] = {}

    def file_of(suffix: str) -> Path:
        if suffix not in made:
            try:
                next(each for each in FORMATS.values() if each.suffix == suffix).require()
            except ImportError as error:
                pytest.skip(str(error))
            made[suffix] = convneur.load(folder).export(tmp_path_factory.mktemp("file") / f"model{suffix}")
        return made[suffix]

    return file_of


@pytest.fixture(params=SUFFIXES)
def file(request, files) -> Path:
    return files(request.param)


@pytest.mark.slow
def test_it_answers_as_the_model_at_any_size(file, folder):
    model, runtime = convneur.load(folder).model, load_exported(file, trust=True).model
    for size in ((320, 320), (64, 96), (50, 77), (33, 200)):
        images = torch.randn(2, 3, *size)
        with torch.inference_mode():
            expected = model(images)
        assert runtime(images).shape == (2, 3, *size)
        torch.testing.assert_close(runtime(images), expected, rtol=1e-4, atol=1e-4)


def test_predict_and_evaluate_take_it_for_the_model(file, folder, street):
    model, exported = convneur.load(folder), convneur.load(file, trust=True)
    assert exported.classes == model.classes
    image = street / "val" / "images" / "0.png"
    for options in ({}, {"flip": True, "scales": (0.75, 1.0)}, {"window": 64}):
        one, other = (each.predict(image, progress=False, **options)[0] for each in (model, exported))
        np.testing.assert_array_equal(one.mask, other.mask)
    assert np.array_equal(np.asarray(one.plot()), np.asarray(other.plot())), "colours are kept"
    one, other = (each.evaluate(street, progress=False).numbers for each in (model, exported))
    assert other | {"ms_per_image": None} == one | {"ms_per_image": None}
    with pytest.raises(ValueError, match="answers and has no features"):
        exported.embed(image, progress=False)


@pytest.mark.slow
def test_other_programs_get_classes(files):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(files(".onnx"), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).standard_normal((2, 3, 47, 70), np.float32)
    logits, classes = session.run(["logits", "classes"], {"images": images})
    assert classes.dtype == np.uint8
    np.testing.assert_array_equal(classes, logits.argmax(1))


@pytest.mark.slow
def test_the_command_exports_it_and_takes_the_file(folder, street, tmp_path):
    pytest.importorskip("onnxruntime")
    file = tmp_path / "street.onnx"
    code, _, err = call("export", str(folder), "--out", str(file), "--rounds", "0")
    assert code == 0, err
    assert "carries 3 labels" in err
    images = str(street / "val" / "images")
    for model, out in ((folder, "a"), (file, "b")):
        assert call("predict", images, "--model", str(model), "--out", str(tmp_path / out))[0] == 0
    for mask in (tmp_path / "a").glob("?.png"):
        assert np.array_equal(Image.open(mask), Image.open(tmp_path / "b" / mask.name))
    code, _, err = call("eval", "--model", str(file), "--data", str(street), "--out", str(tmp_path / "judged"))
    assert code == 0, err
    assert json.loads((tmp_path / "judged" / "metrics.json").read_text())["miou"] >= 0


@pytest.mark.slow
def test_a_file_for_one_size_says_so(folder, tmp_path):
    pytest.importorskip("onnxruntime")
    file = convneur.load(folder).export(tmp_path / "model.onnx", dynamic=False)
    with pytest.raises(ValueError, match="is for 320 x 320 px"):
        convneur.load(file).predict(Image.new("RGB", (64, 64)), progress=False)


def test_what_cannot_be_exported_so_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="aoti is for classifiers"):
        convneur.load(folder).export(tmp_path / "model.aoti.pt2")
    line = call("export", str(folder), "--format", "aoti", "--out", str(tmp_path / "m.aoti.pt2"))[2]
    assert line.strip().startswith("convneur: --format aoti is for classifiers")


def test_what_pools_to_a_grid_is_for_one_size(tmp_path):
    arguments = {name: value for name, value in ARGUMENTS.items() if "channels" not in name} | {"decoder": "upernet"}
    model = create_segmenter(**arguments).eval()
    save_segmenter(model, tmp_path, arguments, MaskEncoding(CLASSES, COLOURS), Inference(), "")
    with pytest.raises(ValueError, match="pools to a fixed grid has other windows"):
        convneur.load(tmp_path).export(tmp_path / "model.pt2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("segmenter", "told"),
    [
        ("[1]", "segmenter is"),
        ('{"colours": [[0, 0, 0]]}', "colours"),
        ('{"colours": [[0, 0, 0], [1, 1, 999], [0, 0, 0]], "inference": {}}', "colours"),
        ('{"colours": [[0, 0, 0], [1, 1, 1], [2, 2, 2]], "inference": {"window": -5}}', "inference.window"),
        ('{"colours": [[0, 0, 0], [1, 1, 1], [2, 2, 2]], "inference": {"scales": []}}', "inference.scales"),
    ],
)
def test_what_a_file_says_of_itself_is_checked(segmenter, told, files, tmp_path):
    onnx = pytest.importorskip("onnx")
    file, model = tmp_path / "model.onnx", onnx.load(files(".onnx"))
    for each in model.metadata_props:
        if each.key == "segmenter":
            each.value = segmenter
    onnx.save(model, file)
    with pytest.raises(ValueError, match=told) as caught:
        convneur.load(file)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_file_that_is_none_is_no_segmenter(tmp_path):
    for name in ("model.onnx", "model.xml", "model.pt2"):
        (tmp_path / name).write_bytes(b"nothing")
        assert not formats.is_segmenter(tmp_path / name)
