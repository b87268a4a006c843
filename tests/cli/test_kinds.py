"""Images of the kinds that people have, from files to answers."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import tifffile
import torch

from convneur import printing
from convneur.embedding import EmbedConfig, embed
from convneur.models import save_model
from convneur.printing import Told
from convneur.streaming import stream
from convneur.tasks.segmentation import create_segmenter
from convneur_command.main import main
from tests.models.builders import create
from tests.streaming.builders import picture

pytest.importorskip("zarr", reason="TIFF files need zarr, which needs Python 3.11")

TINY = {"dims": (8, 12, 16, 24), "depths": (1, 1, 1, 1), "memory_width": 16, "num_classes": 3}
SIDE = 64
RGB = picture(SIDE, SIDE)
NIR = picture(SIDE, SIDE, 1)
HOLE = (RGB / 255).astype(np.float32)
HOLE[3:8, 5:8] = np.nan
NO_DATA = np.where(np.isnan(HOLE), -9999, HOLE)
ALIKE = {
    "rgb.tif": (RGB, {}),
    "cmyk.tif": (np.dstack([255 - RGB, 0 * NIR]), {"photometric": "separated"}),
    "float.tif": ((RGB / 255).astype(np.float32), {}),
    "float_255.tif": (RGB.astype(np.float32), {}),
    "nir.tif": (np.dstack([RGB, NIR]), {"extrasamples": ["unspecified"]}),
    "turned.tif": (np.ascontiguousarray(np.rot90(RGB)), {"extratags": [(274, "H", 1, 6, True)]}),
}
REFUSED = {
    "bands.tif": (np.dstack([RGB, NIR]), {"photometric": "minisblack", "planarconfig": "contig"}),
    "hole.tif": (HOLE, {}),
    "nodata.tif": (NO_DATA, {"extratags": [(42113, "s", 0, "-9999", True)]}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds")
    for name, (pixels, options) in {**ALIKE, **REFUSED}.items():
        (root / "images").mkdir(exist_ok=True)
        tifffile.imwrite(root / "images" / name, pixels, metadata=None, **{"photometric": "rgb"} | options)
    save_model(create("convneur_m1", **TINY), root / "model", TINY, ["cat", "dog", "owl"])
    return root


def logits(image, folder, tmp_path, *flags):
    out = tmp_path / "out" / image.name
    command = ["stream", str(image), "--model", str(folder / "model"), "--out", str(out), *flags]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(command) == 0
    return np.load(out / "logits.npy")


def test_predict(folder, capsys):
    command = ["predict", str(folder / "images"), "--model", str(folder / "model"), "--format", "jsonl"]
    assert main([*command, "--image-size", str(SIDE), "--workers", "0"]) == 0
    said = capsys.readouterr()
    rows = {row["file"].rpartition("/")[2]: row["top"] for row in map(json.loads, said.out.splitlines())}
    assert set(rows) == set(ALIKE)
    assert all(rows[name] == rows["rgb.tif"] for name in ALIKE)
    assert all(name in said.err for name in REFUSED)
    assert "nan%" not in said.out


def test_stream(folder, tmp_path):
    found = {name: logits(folder / "images" / name, folder, tmp_path) for name in ALIKE}
    for name in ALIKE:
        np.testing.assert_allclose(found[name], found["rgb.tif"], atol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_stream_refuses_in_one_line(name, folder, tmp_path, capsys):
    command = ["stream", str(folder / "images" / name), "--model", str(folder / "model"), "--out", str(tmp_path / "o")]
    assert main(command) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("convneur: ")]
    assert name in line
    assert ("colours" in line) if name == "bands.tif" else ("row 3, column 5 is missing" in line and "--fill" in line)


def test_missing_pixels_are_filled_in_numbers_of_the_file(folder, tmp_path):
    tifffile.imwrite(
        tmp_path / "filled.tif", np.where(np.isnan(HOLE), 0.25, HOLE).astype(np.float32), photometric="rgb"
    )
    wanted = logits(tmp_path / "filled.tif", folder, tmp_path)
    for name in ("hole.tif", "nodata.tif"):
        np.testing.assert_array_equal(logits(folder / "images" / name, folder, tmp_path, "--fill", "0.25"), wanted)


def test_a_word_about_the_fourth_sample(folder, tmp_path):
    with pytest.warns(UserWarning, match="fourth sample of a pixel is left out"):
        stream(create("convneur_m1", **TINY), folder / "images" / "nir.tif", tmp_path / "out", progress=False)


def test_the_command_says_it_in_a_plain_line_and_once(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(printing, "_told", bytearray(4096))
    image, model = str(folder / "images" / "nir.tif"), str(folder / "model")
    lines = []
    for command in (["predict", image, "--workers", "0"], ["stream", image, "--out", str(tmp_path / "out")]):
        with pytest.warns(Told, match="fourth sample") as said:
            assert main([*command, "--model", model]) == 0
        lines += [
            warnings.formatwarning(each.message, each.category, each.filename, each.lineno)
            for each in said
            if issubclass(each.category, Told)
        ]
    assert lines[0].startswith("convneur: of an image that says rgb")
    assert lines[0].count("\n") == 1
    assert ".py" not in lines[0]
    assert lines[1:] == [""]


def test_embed(folder, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = embed(
            str(folder / "images"), str(folder / "model"), tmp_path / "features", EmbedConfig(max_unreadable=0.4)
        )
    assert done is not None
    import pyarrow.parquet as pq

    table = pq.read_table(sorted((tmp_path / "features").glob("part-*.parquet")))
    vectors = dict(zip(table["id"].to_pylist(), table["embedding"].to_pylist(), strict=True))
    assert set(vectors) == set(ALIKE)
    for name in ALIKE:
        np.testing.assert_allclose(vectors[name], vectors["rgb.tif"], atol=1e-5)


@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
def test_a_model_that_answers_no_numbers_is_refused(kind, tmp_path):
    if kind == "classifier":
        model = create("convneur_m1", **TINY)
    else:
        model = create_segmenter(
            "semantic_fpn", "convneur_m1", 3, backbone_args={k: TINY[k] for k in ("dims", "depths")}
        )
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="answers with what is no finite number"):
        stream(model, RGB, tmp_path / "out", progress=False)
