"""What docs/files.md says of annotations: each row of its table is tried here, and each of these stands there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from convneur.data.objects import open_objects
from tests.data.objects import test_sources, test_voc, test_yolo
from tests.data.objects.test_yolo import BOX
from tests.files_page import rows

KEPT, ALL = "kept for detection, refused for instance", ("accepted", "converted", "refused", "left out and named")


def coco(**changes: Any) -> Any:
    """A folder whose first annotation has other values; one more annotation stays as it is."""

    def change(content: dict[str, Any]) -> None:
        content["annotations"].append({"id": 50, "image_id": 8, "category_id": 2, "bbox": [3, 3, 9, 9]})
        content["annotations"][-1]["segmentation"] = [[3, 3, 12, 3, 12, 12]]
        content["annotations"][0].update(changes)

    return lambda root: test_sources.coco(root, change)


def changed(name: str, /, **changes: Any) -> Any:
    """The same for the first of another list, in both files."""

    def make(root: Path) -> Path:
        test_sources.coco(root, lambda content: content[name][0].update(changes))
        told = (root / "instances_train.json").read_text()
        (root / "instances_val.json").write_text(told.replace("a.jpg", "c.jpg").replace("b.jpg", "d.jpg"))
        return root

    return make


def renamed(*names: str) -> Any:
    return lambda root: test_sources.renamed(root, dict(zip(("train", "val"), names, strict=True)))


def with_file(name: str) -> Any:
    def make(root: Path) -> Path:
        shutil.copy(test_sources.coco(root) / "instances_val.json", root / name)
        return root

    return make


def in_val2017(root: Path) -> Path:
    renamed("instances_train.json", "instances_valid.json")(root)
    (root / "val2017").mkdir()
    for name in ("c.jpg", "d.jpg"):
        (root / "images" / name).rename(root / "val2017" / name)
    return root


def emptied(root: Path) -> Path:
    return test_sources.coco(root, lambda content: content["annotations"].clear())


def shares(root: Path) -> Path:
    return test_sources.coco(
        root, lambda content: [each.update(bbox=[0.1, 0.1, 0.5, 0.5]) for each in content["annotations"]]
    )


def marked(root: Path) -> Path:
    file = test_sources.coco(root) / "instances_train.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b", ", b",\r\n"))
    return root


def yolo(lines: str = BOX, names: str = "names: [dog, cat]", label: str = "labels/{split}/a.txt") -> Any:
    return lambda root: test_yolo.yolo(root, lines, names, label)


def roboflow(root: Path) -> Path:
    test_yolo.yolo(root, described="names: [dog, cat]\ntrain: ../train/images\nval: ../val/images")
    for split in ("train", "val"):
        (root / split).mkdir()
        for kind in ("images", "labels"):
            (root / kind / split).rename(root / split / kind)
    for kind in ("images", "labels"):
        (root / kind).rmdir()
    return root


def voc(old: str = "", new: str = "") -> Any:
    return lambda root: test_voc.voc(root, lambda text: text.replace(old, new) if old else text)


TRIED = {
    ("COCO", "file", "byte order mark, CRLF", "accepted"): marked,
    ("COCO", "file", "`train.json`, `annotations_valid.json` and other names that say the part", "accepted"): renamed(
        "train.json", "annotations_valid.json"
    ),
    ("COCO", "file", "`captions_val.json` beside `instances_val.json`", "accepted"): with_file("captions_val.json"),
    ("COCO", "file", "`instances_val.json` and `instances_valid.json`", "refused"): with_file("instances_valid.json"),
    ("COCO", "images", "in `val2017` for `instances_valid.json`", "accepted"): in_val2017,
    ("COCO", "`annotations`", "an empty list", "refused"): emptied,
    ("COCO", "`id`, `image_id`, `category_id`", "whole, as `7.0`", "converted"): coco(image_id=7.0),
    ("COCO", "`id`, `image_id`, `category_id`", "text, infinite, more than 64 bits", "refused"): coco(image_id="7"),
    ("COCO", "`id` of an annotation", "one that another has", "accepted"): coco(id=50),
    ("COCO", "`id` of an image or category", "one that another has", "refused"): changed("images", id=8),
    ("COCO", "`height`, `width`", "0, negative, null", "refused"): changed("images", height=-1),
    ("COCO", "`file_name`", "no text, one that another has", "refused"): changed("images", file_name="./b.jpg"),
    ("COCO", "`name` of a category", "blanks at its ends, a number", "converted"): changed("categories", name=7),
    ("COCO", "`name` of a category", "null, empty, one that another has", "refused"): changed("categories", name=None),
    ("COCO", "`bbox`", "text, null, NaN, negative size", "refused"): coco(bbox="[1, 2, 3, 4]"),
    ("COCO", "`bbox`", "shares of the image in all of the file", "refused"): shares,
    ("COCO", "`bbox`", "corners x0, y0, x1, y1", "refused"): lambda root: test_sources.coco(
        root, lambda content: [each.update(bbox=[20, 15, 38, 28]) for each in content["annotations"]]
    ),
    ("COCO", "`bbox`", "no width or height, outside of the image", "left out and named"): coco(bbox=[90, 90, 9, 9]),
    ("COCO", "`iscrowd`", "0, 1, false, true, `\"0\"`, `\"1\"`", "converted"): coco(iscrowd="0"),
    ("COCO", "`iscrowd`", "other text, null", "refused"): coco(iscrowd="no"),
    ("COCO", "`area`", "missing", "converted"): coco(),
    ("COCO", "`area`", "null, NaN, negative", "refused"): coco(area=None),
    ("COCO", "`segmentation`", "polygons, run-length encodings", "accepted"): coco(),
    ("COCO", "`segmentation`", "a list with one encoding", "converted"): coco(
        segmentation=[{"size": [30, 40], "counts": [100, 30, 1070]}]
    ),
    ("COCO", "`segmentation`", "points `[x, y]`", KEPT): coco(segmentation=[[[1, 2], [9, 2], [9, 9]]]),
    ("COCO", "`segmentation`", "missing, null, `[]`, `[[]]`", KEPT): coco(segmentation=[[]]),
    ("COCO", "`segmentation`", "null or NaN in it, counts that do not add up, damaged text", KEPT): coco(
        segmentation={"size": [30, 40], "counts": "not an rle"}
    ),
    ("COCO", "`segmentation`", "around no pixel", "kept for detection, left out for instance and named"): coco(
        segmentation=[[1, 2, 3, 4]]
    ),
    ("VOC", "file", "byte order mark, CRLF, blank lines first", "accepted"): voc("<annotation>", "\n\n<annotation>"),
    ("VOC", "`filename`", "missing, without ending, with another ending or a path", "accepted"): voc(".png<", ".jpg<"),
    ("VOC", "`filename`", "that of another image", "refused"): voc("one.png", "two.png"),
    ("VOC", "`size`", "0, as some tools write it", "converted"): voc("<width>40", "<width>0"),
    ("VOC", "box", "shares of the image in all of the list", "refused"): lambda root: test_voc.voc(
        root, lambda text: re.sub(r"(<[xy]m..>)\d+", r"\g<1>0.5", text)
    ),
    ("VOC", "`difficult`", "1 for all of a split", "refused"): voc(">0</difficult>", ">1</difficult>"),
    ("VOC", "`object`", "none in a split", "refused"): lambda root: test_voc.voc(
        root, lambda text: text[: text.index("<object>")] + "</annotation>"
    ),
    ("YOLO", "file", "byte order mark, CRLF, blank lines, blanks", "accepted"): yolo(f"\ufeff\r\n {BOX} \r\n"),
    ("YOLO", "`names`", "list, or a name for each number, from any number, with gaps", "accepted"): yolo(
        "7 0.5 0.5 0.5 0.2", "names: {3: dog, '7': cat}"
    ),
    ("YOLO", "`names`", "`no`, `on`, `1.0`, `null`", "converted"): yolo(BOX, "names: [no, 1.0]"),
    ("YOLO", "`names`", "one twice, empty", "refused"): yolo(BOX, "names: [dog, dog]"),
    ("YOLO", "folders", "`train/images` and `train/labels`", "accepted"): roboflow,
    ("YOLO", "folders", "`images` and `labels` without parts", "accepted"): lambda root: (
        test_yolo.in_folders(root, {".": 5})
    ),
    ("YOLO", "`train`, `val`, `test`", "a folder of the data, below `path` or not", "accepted"): lambda root: (
        test_yolo.in_folders(root, {"a/one": 2, "two": 2}, "names: [dog]\npath: a\ntrain: one\nval: two")
    ),
    (
        "YOLO",
        "`train`, `val`, `test`",
        "one that is elsewhere or not there, where the folders are called as the parts",
        "accepted",
    ): lambda root: test_yolo.in_folders(root, {"train": 2, "valid": 2}, "names: [dog]\ntrain: ../a\nval: /b"),
    ("YOLO", "`train`, `val`, `test`", "a folder that is called as another part", "refused"): yolo(
        BOX, "names: [dog, cat]\ntrain: images/val"
    ),
    ("YOLO", "class", "one that is not named", "refused"): yolo("0 0.5 0.5 0.5 0.2", "names: {1: dog}"),
    ("YOLO", "box", "pixels, percent, NaN", "refused"): yolo("0 24 18 32 24"),
    ("YOLO", "box", "corners x0, y0, x1, y1", "refused"): yolo("0 0.2 0.2 0.9 0.9"),
    ("YOLO", "box", "no width or height, outside of the image", "left out and named"): yolo(f"{BOX}\n0 0.5 0.5 0 0.1"),
    ("YOLO", "oriented box (OBB)", "four corners", "accepted"): yolo(test_yolo.ORIENTED),
    ("YOLO", "keypoints", "with `kpt_shape` in `data.yaml`", KEPT): yolo(
        f"{BOX} 0.5 0.5 2", "names: [dog, cat]\nkpt_shape: [1, 3]"
    ),
    ("YOLO", "keypoints", "x, y, visibility without `kpt_shape`", "refused"): yolo(f"{BOX} 0.5 0.5 2 0.4 0.5 1"),
    ("YOLO", "label file", "`photo.png.txt`, `photo.TXT`, in `labels`, beside the image", "refused"): yolo(
        label="labels/{split}/a.png.txt"
    ),
    ("YOLO", "label file", "one of no image", "accepted"): lambda root: _with_another(test_yolo.yolo(root)),
}  # fmt: skip


def _with_another(root: Path) -> Path:
    (root / "labels" / "train" / "other.txt").write_text(BOX)
    return root


def test_the_page_has_the_rows_that_are_tried_here():
    assert rows("Objects: COCO, VOC, YOLO") == list(TRIED)


@pytest.mark.parametrize("row", TRIED, ids=": ".join)
def test_what_the_page_says_is_true(row, tmp_path):
    outcome, root = row[-1], TRIED[row](tmp_path)
    if outcome == "refused":
        with pytest.raises(ValueError, match=r"\A[^\n]*\Z"):
            open_objects(root)
        return
    source = open_objects(root)
    left = [note for note in source.notes if "left out" in note]
    assert len(source.train.objects[0])
    assert bool(left) == (outcome == "left out and named")
    if outcome == KEPT:
        with pytest.raises(ValueError, match=r"annotation 3 has an outline|have a box and no mask"):
            open_objects(root, with_masks=True)
    elif "left out for instance" in outcome:
        assert "left out (annotation 3)" in "".join(open_objects(root, with_masks=True).notes)
    else:
        assert outcome in ALL
