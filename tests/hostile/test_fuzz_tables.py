"""Damaged masks, parquet files and lists of classes: each is read, or refused in one line, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from convneur.data.semantic.masks import MaskEncoding
from tests.data import formats
from tests.data.semantic.builders import CLASSES, COLOURS, scene
from tests.hostile.test_fuzz_images import fuzz

pytestmark = pytest.mark.slow

MASKS = """
import numpy as np
from convneur.data.semantic.masks import MaskEncoding
numbers = MaskEncoding(["a", "b", "c"], np.eye(3, dtype=np.uint8))
colours = MaskEncoding(["a", "b", "c"], 9 * np.eye(3, dtype=np.uint8), coloured=True)
def use(path):
    for code in (numbers, colours):
        labels, unknown = code.decode(path.read_bytes(), (64, 96))
        assert labels.shape == (64, 96) and set(np.unique(labels)) <= {0, 1, 2, 255} and unknown <= labels.size
"""
PARQUET = """
from convneur.data.unlabelled import open_unlabelled
from convneur.data.sources import open_source
def use(path):
    source, images = open_source(str(path), None), open_unlabelled(str(path))
    assert len(images.known_labels(0, len(images))) == len(images)
    assert all(0 <= label < len(source.classes) for label in source.train.labels.tolist())
    for index in range(len(source.train)):
        assert isinstance(source.train.read(index), bytes)
"""
LISTED = """
import shutil, sys
from pathlib import Path
from convneur.data.semantic.sources import open_pixels
scenes = Path(sys.argv[1]).parent / "scenes"
def use(path):
    name = "classes." + path.name.rpartition(".")[2]
    for other in scenes.glob("classes.*"):
        other.unlink()
    shutil.copy(path, scenes / name)
    classes = open_pixels(scenes).code.classes
    assert classes and all(isinstance(each, str) and each.strip() == each and each for each in classes)
"""
LABELS = """
import shutil, sys
from pathlib import Path
from convneur.data.sources import open_source
pictures = Path(sys.argv[1]).parent / "pictures"
def use(path):
    shutil.copy(path, pictures / "labels.csv")
    source = open_source(str(pictures / "labels.csv"), None)
    assert all(0 <= label < len(source.classes) for label in source.val.labels.tolist())
    assert all(Path(source.val.name(n)).is_relative_to(pictures) for n in range(len(source.val)))
"""


def test_masks(tmp_path):
    labels = scene(0)[1]
    palette = MaskEncoding(CLASSES, COLOURS).picture(labels)
    whole = {}
    for name, image in {"a.png": palette, "b.tif": palette, "c.gif": palette, "d.bmp": palette.convert("L")}.items():
        image.save(tmp_path / name)
        whole[name] = (tmp_path / name).read_bytes()
    read, refused = fuzz(tmp_path / "damaged", whole, MASKS)
    assert read > 10
    assert refused > 10


def test_parquet(tmp_path):
    for name, labels in {"a": [0, 1] * 8, "b": ["x", "y"] * 8, "c": [0.0, 1.0] * 8, "d": [-1, 0, 1, 1] * 4}.items():
        formats.table(tmp_path / "whole" / f"{name}.parquet", labels)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    read, refused = fuzz(tmp_path / "damaged", whole, PARQUET)
    assert read > 10
    assert refused > 10


def test_lists_of_labels(tmp_path):
    formats.label_list(tmp_path / "pictures", {"train": 6, "val": 2})
    written = (tmp_path / "pictures" / "labels.csv").read_bytes()
    quoted = b"\r\n".join(b'"%s"' % line.replace(b",", b'","') for line in written.splitlines())
    read, refused = fuzz(tmp_path / "damaged", {"a.csv": written, "b.csv": quoted}, LABELS)
    assert read > 5
    assert refused > 10


def test_lists_of_classes(tmp_path):
    formats.masks_in_parts(tmp_path / "scenes", {"train": 2, "val": 1})
    for mask in (tmp_path / "scenes").glob("*/masks/*"):
        mask.write_bytes(formats.mask(np.arange(64) % 2))
    whole = {
        "a.csv": b"name,r,g,b\r\n" + b"".join(b"class %d,%d,%d,%d\r\n" % (n, n, n, n) for n in range(12)),
        "b.txt": "\ufeffground\r\n road \r\n\r\nsky\r\n".encode(),
    }
    read, refused = fuzz(tmp_path / "damaged", whole, LISTED)
    assert read > 10
    assert refused > 10
