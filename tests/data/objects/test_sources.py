"""Annotations in three forms, and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convneur.data.objects import open_objects
from convneur.data.objects.masks import decode_masks, encode_masks


def picture(path: Path, width: int = 40, height: int = 30) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path)


def content(images: tuple[str, ...] = ("a.jpg", "b.jpg")) -> dict[str, Any]:
    return {
        "images": [
            {"id": 7 + n, "file_name": name, "width": 40, "height": 30} for n, name in enumerate(images)
        ],
        "annotations": [
            {"id": 3, "image_id": 7, "category_id": 2, "bbox": [1, 2, 10, 20], "area": 150, "iscrowd": 0,
             "segmentation": [[1, 2, 11, 2, 11, 22, 1, 22]]},
            {"id": 4, "image_id": 7, "category_id": 90, "bbox": [0, 0, 40, 30], "area": 1200, "iscrowd": 1,
             "segmentation": {"size": [30, 40], "counts": [0, 1200]}},
            {"id": 9, "image_id": 7, "category_id": 90, "bbox": [5, 5, 0.5, 0.5], "area": 0.25, "iscrowd": 0,
             "segmentation": {"size": [30, 40], "counts": "PQT1"}},
        ],
        "categories": [{"id": 90, "name": "cat"}, {"id": 2, "name": "dog"}],
    }  # fmt: skip


def coco(root: Path, change: Callable[[dict[str, Any]], Any] = lambda _: None) -> Path:
    for name in ("a.jpg", "b.jpg"):
        picture(root / "images" / name)
    for split in ("train", "val"):
        made = content()
        if split == "train":
            change(made)
        (root / f"instances_{split}.json").write_text(json.dumps(made))
    return root


def test_coco_with_gaps_crowds_and_images_without_objects(tmp_path):
    source = open_objects(coco(tmp_path))
    assert (source.classes, source.category_ids) == (["dog", "cat"], [2, 90])
    assert source.notes == []
    first, second = source.train.objects
    assert first.boxes.tolist() == [[1, 2, 11, 22], [0, 0, 40, 30], [5, 5, 5.5, 5.5]]
    assert first.labels.tolist() == [0, 1, 1]
    assert first.crowd.tolist() == [False, True, False]
    assert len(second) == 0
    assert second.boxes.shape == (0, 4)
    assert source.train.ids == [7, 8]


def test_coco_files_beside_their_images(tmp_path):
    """As Roboflow writes them."""
    for split in ("train", "valid"):
        for name in ("a.jpg", "b.jpg"):
            picture(tmp_path / split / name)
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(content()))
    source = open_objects(tmp_path)
    assert source.train.name(0) == str(tmp_path / "train" / "a.jpg")
    assert source.val.name(1) == str(tmp_path / "valid" / "b.jpg")
    assert len(source.val.objects[0]) == 3


def test_what_is_written_is_what_was_read(tmp_path):
    source = open_objects(coco(tmp_path))
    again = source.train.as_coco(source.classes, source.category_ids)
    expected = content()
    for got, wanted in zip(again["annotations"], expected["annotations"], strict=True):
        assert got == wanted | {"id": got["id"]}
    assert [c["id"] for c in again["categories"]] == [2, 90]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["annotations"][0].update(image_id=99),
            "annotation 3 is of the image 99, which is not in",
        ),
        (lambda c: c["annotations"][0].update(category_id=5), "annotation 3 is of the category 5, which is not in the"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, -3, 4]), r"annotation 3 has the box \[1, 2, -3, 4\]"),
        (lambda c: c["annotations"][0].pop("bbox"), "annotation 3 lacks something"),
        (lambda c: c["images"][1].update(id=7), "several images with the id 7"),
        (lambda c: c["images"].clear(), "lists no images"),
        (lambda c: c.pop("categories"), "is not in COCO's form"),
        (lambda c: c["categories"].pop(), "annotation 3 is of the category 2"),
        (lambda c: c["categories"][0].update(name="dog"), "several categories named dog"),
        (lambda c: c["annotations"][0].update(segmentation=[1, 2, 3, 4, 5, 6]), "annotation 3 has a segmentation"),
        (lambda c: c["annotations"][0].update(area=None), "annotation 3 has a segmentation or an area"),
        (lambda c: c["annotations"][1]["segmentation"].update(size=[3, 4]), r"annotation 4 .* has the size \[3, 4\]"),
        (lambda c: c["images"][0].update(height=None), "is not in COCO's form"),
        (lambda c: c["images"][0].update(id="7"), "is not in COCO's form"),
        (lambda c: c.update(annotations=None), "is not in COCO's form"),
        (lambda c: c["annotations"].append([1]), "is not in COCO's form"),
        (lambda c: c["annotations"][0].update(bbox=[1e300, 2, 3, 4]), r"annotation 3 has the box \[1e\+300, 2, 3, 4\]"),
        (lambda c: c["annotations"][0].update(area=float("nan")), "annotation 3 has a segmentation or an area"),
        (lambda c: c["categories"].append({"id": 2, "name": "owl"}), "several categories with the id 2"),
        (lambda c: c["categories"][0].update(id=2.5), "is not in COCO's form"),
    ],
)
def test_what_makes_no_sense_is_named_with_file_and_number(tmp_path, change, message):
    with pytest.raises(ValueError, match=f"instances_train.json.*{message}"):
        open_objects(coco(tmp_path, change))


def test_an_image_that_is_missing_is_named(tmp_path):
    root = coco(tmp_path)
    (root / "images" / "b.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.jpg, which is not there \(1 of 2 are missing\)"):
        open_objects(root)


def test_outlines_of_two_points_are_left_out_and_told(tmp_path):
    def flatten(c: dict[str, Any]) -> None:
        c["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]

    source = open_objects(coco(tmp_path, flatten))
    assert source.train.objects[0].labels.tolist() == [1, 1]
    assert source.notes == [
        "instances_train.json: 1 annotations without an outline of at least three points or a box were left out, the "
        "first has the id 3"
    ]


def test_splits_with_other_categories_are_refused(tmp_path):
    with pytest.raises(ValueError, match="have different categories"):
        open_objects(coco(tmp_path, lambda c: c["categories"].append({"id": 100, "name": "cow"})))


def test_folders_of_no_kind_and_none_at_all(tmp_path):
    with pytest.raises(ValueError, match=r"is of no known kind; it needs instances_train\.json"):
        open_objects(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        open_objects(tmp_path / "nothing")


def voc(root: Path, change: Callable[[str], str] = lambda text: text) -> Path:
    for split, name in (("train", "one"), ("val", "two")):
        picture(root / "JPEGImages" / f"{name}.jpg")
        text = """<annotation><filename>NAME.jpg</filename><size><width>40</width><height>30</height></size>
<object><name>dog</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>3</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object>
<object><name>cat</name><difficult>1</difficult>
<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>6</xmax><ymax>6</ymax></bndbox></object></annotation>"""
        file = root / "Annotations" / f"{name}.xml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(change(text.replace("NAME", name)))
        listed = root / "ImageSets" / "Main" / f"{split}.txt"
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text(f"{name}\n")
    return root


def test_voc_counts_pixels_from_one(tmp_path):
    source = open_objects(voc(tmp_path))
    assert source.classes == ["cat", "dog"]
    (objects,) = source.train.objects
    assert objects.boxes.tolist() == [[0, 2, 10, 20], [4, 4, 6, 6]]
    assert objects.labels.tolist() == [1, 0]
    assert objects.crowd.tolist() == [False, True]
    assert not source.train.has_masks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("<xmax>10<", "<xmax>0<"), "one.xml is no annotation that can be read: the box"),
        (lambda t: t[:-20], "one.xml is no annotation that can be read"),
        (lambda t: t.replace("<ymax>20</ymax>", ""), "it has no bndbox/ymax"),
    ],
)
def test_voc_files_that_make_no_sense_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        open_objects(voc(tmp_path, change))


def yolo(root: Path, line: str = "1 0.5 0.5 0.25 0.2") -> Path:
    (root / "data.yaml").write_text("names:\n  0: dog\n  1: cat\n")
    for split in ("train", "val"):
        picture(root / "images" / split / "a.png")
        picture(root / "images" / split / "empty.png")
        (root / "labels" / split).mkdir(parents=True)
        (root / "labels" / split / "a.txt").write_text(f"{line}\n0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    return root


def test_yolo_boxes_and_polygons(tmp_path):
    source = open_objects(yolo(tmp_path))
    assert source.classes == ["dog", "cat"]
    first, empty = source.train.objects
    np.testing.assert_allclose(first.boxes, [[15, 12, 25, 18], [4, 3, 20, 15]], rtol=1e-6)
    assert first.labels.tolist() == [1, 0]
    assert first.shapes[0] is None
    np.testing.assert_allclose(first.shapes[1][0], [4, 3, 20, 3, 20, 15], rtol=1e-6)
    assert len(empty) == 0


@pytest.mark.parametrize("line", ["2 0.5 0.5 0.1 0.1", "x 0.5 0.5 0.1 0.1", "1 0.5 0.5 0.1", "1 0.5 0.5 a 0.1"])
def test_a_line_that_makes_no_sense_is_named(tmp_path, line):
    with pytest.raises(ValueError, match=r"a\.txt, line 1: "):
        open_objects(yolo(tmp_path, line))


def test_masks_go_there_and_back_in_every_form():
    draw = np.random.default_rng(0)
    masks = (draw.random((3, 30, 40)) < 0.3).astype(np.uint8)
    codes = encode_masks(masks)
    np.testing.assert_array_equal(decode_masks(json.loads(json.dumps(codes)), 30, 40), masks)
    counts = []  # uncompressed: columns one after the other, zeros first
    flat, value, run = masks[0].T.flatten(), 0, 0
    for pixel in flat.tolist():
        if pixel != value:
            counts.append(run)
            value, run = pixel, 0
        run += 1
    plain = {"size": [30, 40], "counts": [*counts, run]}
    np.testing.assert_array_equal(decode_masks([plain], 30, 40)[0], masks[0])
    (square,) = decode_masks([[[2, 3, 12, 3, 12, 13, 2, 13]]], 30, 40)
    expected = np.zeros((30, 40), np.uint8)
    expected[3:13, 2:12] = 1
    np.testing.assert_array_equal(square, expected)
    assert decode_masks([], 30, 40).shape == (0, 30, 40)
    with pytest.raises(ValueError, match="a mask of 30 x 40 px on an image of 10 x 10"):
        decode_masks([plain], 10, 10)


def test_only_what_is_judged_by_is_needed_for_judging(tmp_path):
    coco(tmp_path)
    (tmp_path / "instances_train.json").unlink()
    (tmp_path / "instances_val.json").rename(tmp_path / "instances_test.json")
    source = open_objects(tmp_path, "test", ["dog", "cat"])
    assert (len(source.train), len(source.val)) == (0, 2)
    with pytest.raises(ValueError, match=r"has no part train \(it has instances_test.json\); add it"):
        open_objects(tmp_path)


def test_two_files_for_one_part_are_no_guess(tmp_path):
    coco(tmp_path)
    (tmp_path / "instances_train2.json").write_text("{}")
    with pytest.raises(ValueError, match="leave one of them there"):
        open_objects(tmp_path)


def yolo_with(root: Path, lines: str) -> Path:
    for split in ("train", "val"):
        picture(root / "images" / split / "a.jpg")
        (root / "labels" / split).mkdir(parents=True)
        (root / "labels" / split / "a.txt").write_text(lines)
    (root / "data.yaml").write_text("names: [cell]")
    return root


def test_yolo_pictures_count_as_they_are_seen(tmp_path):
    """One was taken with the camera on its side, one is no image."""
    root = yolo_with(tmp_path, "0 0.5 0.5 0.5 0.2\n0 0 0 1 0 0.5 1\n0 0.5 0.5 0 0.1\n")
    turned = Image.new("RGB", (40, 30))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(root / "images" / "train" / "b.jpg", exif=exif)
    (root / "images" / "train" / "c.jpg").write_bytes(b"nothing")
    source = open_objects(root)
    assert source.train.sizes == [(30, 40), (40, 30), (0, 0)]
    (first, *_) = source.train.objects
    assert first.boxes.tolist() == [[10, 12, 30, 18], [0, 0, 40, 30]]  # a box of no width is left out
    assert first.areas.tolist() == [120, 600]


@pytest.mark.parametrize("line", ["0 0.5 0.5 -0.1 0.2", "0 nan 0.5 0.1 0.2"])
def test_yolo_boxes_that_make_no_sense_are_named(tmp_path, line):
    with pytest.raises(ValueError, match=r"a\.txt, line 1: a box with numbers that are none"):
        open_objects(yolo_with(tmp_path, line))
