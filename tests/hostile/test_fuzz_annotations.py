"""Damaged annotations: each folder gives objects that can be learned from, or one line, in bounded memory."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.hostile.mutations import MUTATIONS, mutated, run_bounded

pytestmark = pytest.mark.slow

READ = """
import sys
from pathlib import Path
import numpy as np
from convneur.data.objects import open_objects
from convneur.data.objects.masks import decode_masks
read = refused = 0
for folder in sorted(Path(sys.argv[1]).iterdir()):
    for with_masks in (False, True):
        try:
            source = open_objects(folder, with_masks=with_masks)
        except (ValueError, OSError) as error:
            assert str(error) and "\\n" not in str(error) and str(folder) in str(error), (folder, repr(error))
            refused += 1
            continue
        except BaseException as error:
            raise AssertionError(f"{folder.name}: {error!r}") from error
        read += 1
        for images in (source.train, source.val):
            for objects, (height, width) in zip(images.objects, images.sizes, strict=True):
                assert np.isfinite(objects.boxes).all() and np.isfinite(objects.areas).all()
                assert (objects.labels < len(source.classes)).all() and (objects.labels >= 0).all()
                decode_masks([shape for shape in objects.shapes if shape is not None], height, width)
            images.as_coco(source.classes, source.category_ids)
print(read, refused)
"""
ODD: tuple[Any, ...] = (
    None, "", "x", "\n", "0", "NaN", -1, 0, 1, 0.5, 2**31, 2**64, -(2**63), 1e300, float("nan"), float("inf"), True, [],
    [[]], [[[]]], [None], [1, 2], {}, {"id": 1}, [[1, 2], [3, 4]], "1" * 5000, "é", "../..", "\0",
)  # fmt: skip
WORDS = (
    "",
    "x",
    "-1",
    "nan",
    "inf",
    "1e300",
    "9" * 5000,
    "0x10",
    "2",
    "1.0",
    "<a>",
    "&#0;",
    "&x;",
    "é",
    "../../a",
    " ",
)


def replaced(content: Any, draw: random.Random) -> Any:
    """JSON with one of its values, at any depth, replaced, removed or doubled."""
    places = list(_places(content))
    holder, key = draw.choice(places)
    kind = draw.randrange(4)
    if kind == 0 and isinstance(holder, list):
        holder.append(holder[key])
    elif kind == 1:
        del holder[key]
    else:
        holder[key] = draw.choice(ODD)
    return content


def _places(value: Any) -> Any:
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def reworded(text: str, draw: random.Random) -> str:
    """Text with one of its words replaced; tags of XML are no words."""
    words = text.replace("<", " <").replace(">", "> ").split(" ")
    words[draw.choice([place for place, word in enumerate(words) if word.strip() and word[0] != "<"])] = draw.choice(
        WORDS
    )
    return " ".join(words)


def coco() -> dict[str, Any]:
    shapes = [
        [[2, 2, 12, 2, 12, 12]],
        {"size": [30, 40], "counts": [100, 30, 1070]},
        {"size": [30, 40], "counts": "k41dP1"},
        [[[2, 2], [12, 2], [12, 12]]],
    ]
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 40, "height": 30} for n in range(2)],
        "annotations": [
            {"id": n, "image_id": n % 2, "category_id": n % 2, "bbox": [2, 2, 10, 10], "area": 100, "iscrowd": 0,
             "segmentation": shape}
            for n, shape in enumerate(shapes)
        ],
        "categories": [{"id": 0, "name": "dog"}, {"id": 1, "name": "cat"}],
    }  # fmt: skip


XML = (
    "<annotation><filename>0.png</filename><size><width>40</width><height>30</height></size><object><name>dog</name>"
    "<difficult>0</difficult><bndbox><xmin>1</xmin><ymin>3</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object>"
    "<object><name>cat</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)
LINES = "0 0.5 0.5 0.5 0.2\n1 0.1 0.1 0.5 0.1 0.5 0.5\n"
NAMES = "names: { 0: dog, 1: cat }\nkpt_shape: [ 2, 3 ]\n"


def json_folder(root: Path, seed: int) -> None:
    draw = random.Random(seed)
    for n in range(4):
        Image.new("RGB", (40, 30)).save(root / f"{n}.png")
    text = json.dumps(replaced(coco(), draw)) if seed % 4 else mutated(json.dumps(coco()).encode(), seed // 4)
    (root / "instances_train.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    (root / "instances_val.json").write_text(json.dumps(coco()).replace("0.png", "2.png").replace("1.png", "3.png"))


def xml_folder(root: Path, seed: int) -> None:
    for place in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / place).mkdir(parents=True)
    for n in range(2):
        Image.new("RGB", (40, 30)).save(root / "JPEGImages" / f"{n}.png")
    text = reworded(XML, random.Random(seed)).encode() if seed % 2 else mutated(XML.encode(), seed // 2)
    (root / "Annotations" / "0.xml").write_bytes(text)
    (root / "Annotations" / "1.xml").write_bytes(text.replace(b"0.png", b"1.png"))
    for n, split in enumerate(("train", "val")):
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(f"{n}\n")


def text_folder(root: Path, seed: int) -> None:
    draw, described = random.Random(seed), seed % 3 == 0
    for split in ("train", "val"):
        for place in ("images", "labels"):
            (root / place / split).mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(root / "images" / split / "0.png")
        (root / "labels" / split / "0.txt").write_text(LINES)
    whole = NAMES if described else LINES
    text = reworded(whole, draw).encode() if seed % 2 else mutated(whole.encode(), seed // 2)
    (root / "data.yaml").write_text(NAMES.splitlines()[0])
    (root / ("data.yaml" if described else "labels/train/0.txt")).write_bytes(text)


@pytest.mark.parametrize("make", [json_folder, xml_folder, text_folder], ids=["coco", "voc", "yolo"])
def test_annotations(make: Callable[[Path, int], None], tmp_path: Path):
    for seed in range(MUTATIONS):
        folder = tmp_path / "damaged" / f"{seed:03d}"
        folder.mkdir(parents=True)
        make(folder, seed)
    read, refused = map(int, run_bounded(READ, tmp_path / "damaged").split()[-2:])
    assert read + refused == 2 * MUTATIONS
    assert read > 10
    assert refused > 100
