"""Annotations in three forms, and what is wrong with them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convneur.data.objects import open_objects
from convneur.data.objects.masks import decode_masks, encode_masks
from tests.data import formats


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
             "segmentation": {"size": [30, 40], "counts": "k41dP1"}},
        ],
        "categories": [{"id": 90, "name": "cat"}, {"id": 2, "name": "dog"}],
    }  # fmt: skip


def coco(root: Path, change: Callable[[dict[str, Any]], Any] = lambda _: None) -> Path:
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        picture(root / "images" / name)
    for split, names in (("train", ("a.jpg", "b.jpg")), ("val", ("c.jpg", "d.jpg"))):
        made = content(names)
        if split == "train":
            change(made)
        (root / f"instances_{split}.json").write_text(json.dumps(made))
    return root


def test_coco_with_gaps_crowds_and_images_without_objects(tmp_path):
    source = open_objects(coco(tmp_path))
    assert (source.classes, source.category_ids) == (["dog", "cat"], [2, 90])
    small, note = source.notes  # the cats are a crowd and one below a pixel
    assert small.endswith("train: 1 objects are smaller than a pixel and not learned from, the first on a.jpg")
    assert note.endswith("train: 1 of 2 classes have no object ('cat')")
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
        (lambda c: c["annotations"][0].pop("bbox"), "annotation 3 has the box null"),
        (lambda c: c["images"][1].update(id=7), "several images with the id 7"),
        (lambda c: c["images"].clear(), "lists no images"),
        (lambda c: c.pop("categories"), "is not in COCO's form"),
        (lambda c: c["categories"].pop(), "annotation 3 is of the category 2"),
        (lambda c: c["categories"][0].update(name="dog"), "several categories named dog"),
        (lambda c: c["annotations"][0].update(area=None), "annotation 3 has the area null"),
        (lambda c: c["images"][0].update(height=None), "image 7 has the height null"),
        (lambda c: c["images"][0].update(height=-30), "image 7 has the height -30; give a whole number, from 1"),
        (lambda c: c["images"][0].update(id="7"), 'image "7" has the id "7"; give a whole number, not text'),
        (lambda c: c["images"][0].update(file_name=["a.jpg"]), "image 7 has the file_name"),
        (lambda c: c["images"][1].update(file_name="a.jpg"), r"several images with the file_name a\.jpg"),
        (lambda c: c.update(images={"id": 7}), "is not in COCO's form"),
        (lambda c: c["categories"][0].update(name=None), "category 90 has the name null; give text"),
        (lambda c: c["annotations"][0].update(bbox="[1, 2, 3, 4]"), "annotation 3 has the box"),
        (lambda c: c["annotations"][0].update(bbox="1234"), 'annotation 3 has the box "1234"'),
        (lambda c: c["annotations"][0].update(bbox=["1", "2", "3", "4"]), "annotation 3 has the box"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, float("nan")]), "annotation 3 has the box"),
        (lambda c: c["annotations"][0].update(iscrowd="no"), 'annotation 3 has the iscrowd "no"; give 0 or 1'),
        (lambda c: c["annotations"][0].update(image_id=float("inf")), "annotation 3 has the image_id Infinity"),
        (lambda c: c["annotations"][0].update(id=10**4000), "cannot be read: it has a number of 4001 digits"),
        (lambda c: c["annotations"][0].update(id=10**19), "has the id 10000000000000000000"),
        (
            lambda c: [each.update(bbox=[0.1, 0.2, 0.5, 1]) for each in c["annotations"]],
            "look like shares of the image",
        ),
        (lambda c: c["annotations"].clear(), "none of the 2 images to learn from has an object that counts"),
        (lambda c: [each.update(iscrowd=1) for each in c["annotations"]], "3 are crowds or difficult"),
        (lambda c: c.update(annotations=None), "is not in COCO's form"),
        (lambda c: c["annotations"].append([1]), "annotation at place 4 of the list is no object"),
        (lambda c: c["annotations"][0].update(bbox=[1e300, 2, 3, 4]), r"annotation 3 has the box \[1e\+300, 2, 3, 4\]"),
        (lambda c: c["annotations"][0].update(area=float("nan")), "annotation 3 has the area NaN"),
        (lambda c: c["categories"].append({"id": 2, "name": "owl"}), "several categories with the id 2"),
        (lambda c: c["categories"][0].update(id=2.5), "category at place 1 of the list has the id 2.5"),
    ],
)
def test_what_makes_no_sense_is_named_with_file_and_number(tmp_path, change, message):
    with pytest.raises(ValueError, match=message) as refused:
        open_objects(coco(tmp_path, change))
    assert str(refused.value).startswith(str(tmp_path))
    assert "train" in str(refused.value).removeprefix(str(tmp_path))
    assert "\n" not in str(refused.value)


def test_an_image_that_is_missing_is_named(tmp_path):
    root = coco(tmp_path)
    (root / "images" / "b.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.jpg, which is not there \(1 of 2 are missing\)"):
        open_objects(root)


ENCODED = {"size": [30, 40], "counts": [100, 30, 1070]}
OUTLINES = {  # segmentation: what it becomes, None for a box alone, and what is said where outlines are needed
    "polygon": ([[1, 2, 11, 2, 11, 22]], [[1, 2, 11, 2, 11, 22]], ""),
    "polygons, one empty": ([[], [1, 2, 11, 2, 11, 22]], [[1, 2, 11, 2, 11, 22]], ""),
    "points": ([[[1, 2], [11, 2], [11, 22]]], None, "annotation 3 has an outline that cannot be decoded: "),
    "encoding": (ENCODED, ENCODED, ""),
    "list of an encoding": ([ENCODED], ENCODED, ""),
    "none": (None, None, "2 objects have a box and no mask, the first a 'dog' on"),
    "empty": ([], None, "2 objects have a box and no mask"),
    "empty polygon": ([[]], None, "2 objects have a box and no mask"),
    "line": ([[1, 2, 3, 4]], None, "1 objects with an outline around nothing were left out (annotation 3)"),
    "no area": ([[1, 2, 5, 2, 9, 2]], None, "1 objects with an outline around nothing were left out (annotation 3)"),
    "elsewhere": ([[50, 2, 55, 2, 55, 9]], None, "1 objects with an outline around nothing were left out"),
    "no pixels": (ENCODED | {"counts": [1200]}, None, "1 objects with an outline around nothing were left out"),
    "no pixels, text": (ENCODED | {"counts": "`U1"}, None, "1 objects with an outline around nothing were left out"),
    "two encodings": ([ENCODED, ENCODED], None, "annotation 3 has an outline that cannot be decoded: "),
    "flat": ([1, 2, 3, 4, 5, 6], None, "annotation 3 has an outline that cannot be decoded: "),
    "odd": ([[1, 2, 3, 4, 5, 6, 7]], None, "annotation 3 has an outline that cannot be decoded: "),
    "null in it": ([[None, 2, 3, 4, 5, 6]], None, "annotation 3 has an outline that cannot be decoded: "),
    "NaN in it": ([[float("nan"), 2, 3, 4, 5, 6]], None, "annotation 3 has an outline that cannot be decoded: "),
    "text in it": ([["1", 2, 3, 4, 5, 6]], None, "annotation 3 has an outline that cannot be decoded: "),
    "huge": ([[1e300, 2, 3, 4, 5, 6]], None, "annotation 3 has an outline that cannot be decoded: "),
    "long": ([[0, 0, 1e8, 0, 1e8, 1e8]], None, "annotation 3 has an outline that cannot be decoded: an outline of"),
    "uneven": ([[[1, 2], [3]]], None, "annotation 3 has an outline that cannot be decoded: "),
    "deep": ([[[[1, 2]], [[3, 4]], [[5, 6]]]], None, "annotation 3 has an outline that cannot be decoded: "),
    "a number": (7, None, "annotation 3 has an outline that cannot be decoded: "),
    "text": ("1 2 3 4 5 6", None, "annotation 3 has an outline that cannot be decoded: "),
    "other size": (ENCODED | {"size": [40, 30]}, None, "cannot be decoded: its size is [40, 30], and its image has"),
    "size null": (ENCODED | {"size": None}, None, "cannot be decoded: its size is null"),
    "counts missing": ({"size": [30, 40]}, None, "cannot be decoded: its counts null"),
    "counts too short": (ENCODED | {"counts": [100, 30]}, None, "do not add up to the 1200 pixels"),
    "counts negative": (ENCODED | {"counts": [-100, 1300]}, None, "do not add up to the 1200 pixels"),
    "counts of fractions": (ENCODED | {"counts": [0.5, 1199.5]}, None, "are no lengths of runs"),
    "counts null": (ENCODED | {"counts": [None, 1200]}, None, "are no lengths of runs"),
    "counts nested": (ENCODED | {"counts": [[1200]]}, None, "are no lengths of runs"),
    "counts uneven": (ENCODED | {"counts": [[1], 2]}, None, "are no lengths of runs"),
    "counts object": (ENCODED | {"counts": {}}, None, "are no lengths of runs"),
    "counts empty": (ENCODED | {"counts": ""}, None, "is no run-length encoding"),
    "counts no text of COCO": (ENCODED | {"counts": "not an rle"}, None, "is no run-length encoding"),
    "counts cut off": (ENCODED | {"counts": "PPP"}, None, "is no run-length encoding"),
    "counts of other pixels": (ENCODED | {"counts": "PQT1"}, None, "do not add up to the 1200 pixels"),
    "counts without end": (ENCODED | {"counts": "P" * 40 + "1"}, None, "is no run-length encoding"),
    "counts umlauts": (ENCODED | {"counts": "öäü"}, None, "is no run-length encoding"),
}  # fmt: skip


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("form", OUTLINES)
def test_boxes_are_kept_whatever_their_outlines_and_outlines_that_are_needed_are_named(tmp_path, form, part):
    given, kept, words = OUTLINES[form]
    root = coco(tmp_path)
    file = root / f"instances_{part}.json"
    changed = json.loads(file.read_text())
    extra = {"id": 11, "image_id": 8, "category_id": 2, "bbox": [5, 5, 10, 10], "area": 100, "iscrowd": 0}
    changed["annotations"].append(extra | {"segmentation": [[5, 5, 15, 5, 15, 15]] if "no mask" not in words else None})
    changed["annotations"][0]["segmentation"] = given
    file.write_text(json.dumps(changed))
    source = open_objects(root)
    objects = getattr(source, part).objects[0]
    assert objects.boxes[0].tolist() == [1, 2, 11, 22]
    assert objects.shapes[0] == kept
    if kept:
        assert decode_masks([kept], 30, 40).any()
    if not words:
        again = getattr(open_objects(root, with_masks=True), part)
        assert again.objects[0].shapes[0] == kept
    elif "left out" in words:
        again = open_objects(root, with_masks=True)
        assert any(note.startswith(f"instances_{part}.json: {words}") for note in again.notes)
        assert len(getattr(again, part).objects[0]) == 2
    else:
        with pytest.raises(ValueError, match=re.escape(words)) as refused:
            open_objects(root, with_masks=True)
        assert "\n" not in str(refused.value)
        assert f"instances_{part}.json: annotation 3" in str(refused.value) or "no mask" in words


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (lambda a: a.update(iscrowd="0"), lambda o: not o.crowd[0]),
        (lambda a: a.update(iscrowd="1"), lambda o: o.crowd[0]),
        (lambda a: a.update(iscrowd=False), lambda o: not o.crowd[0]),
        (lambda a: a.update(image_id=7.0, category_id=2.0, id=3.0), lambda o: o.labels[0] == 0),
        (lambda a: a.pop("area"), lambda o: o.areas[0] == 200),
        (lambda a: a.update(id="a-3"), lambda o: len(o) == 3),
    ],
)
def test_what_can_mean_one_thing_only_is_converted(tmp_path, change, check):
    def with_another(c: dict[str, Any]) -> None:
        c["annotations"].append({"id": 50, "image_id": 8, "category_id": 2, "bbox": [3, 3, 9, 9]})
        change(c["annotations"][0])

    assert check(open_objects(coco(tmp_path, with_another)).train.objects[0])


def test_names_of_classes_lose_blanks_at_their_ends(tmp_path):
    root = coco(tmp_path, lambda c: c["categories"][0].update(name=" cat "))
    assert open_objects(root).classes == ["dog", "cat"]


def test_corners_for_sizes_are_refused(tmp_path):
    def corners(c: dict[str, Any]) -> None:
        for number, annotation in enumerate(c["annotations"]):
            annotation["bbox"] = [20 + number, 15, 38, 28]

    with pytest.raises(ValueError, match=r"instances_train.json has boxes that look like corners x0, y0, x1, y1"):
        open_objects(coco(tmp_path, corners))


def test_outlines_elsewhere_than_their_box_are_named(tmp_path):
    source = open_objects(coco(tmp_path, lambda c: c["annotations"][0].update(bbox=[20, 2, 10, 20])))
    note = "instances_train.json: 1 objects have an outline that is not where their box is (annotation 3)"
    assert source.notes[0] == note


def test_an_image_that_is_learned_from_is_never_judged_by(tmp_path):
    root = coco(tmp_path)
    file = root / "instances_val.json"
    file.write_text(file.read_text().replace("c.jpg", "../images/a.jpg"))
    with pytest.raises(ValueError, match=r"1 of the 2 images to judge by are learned from, too, the first .*a\.jpg"):
        open_objects(root)
    assert len(open_objects(root, known=["dog", "cat"]).val) == 2


@pytest.mark.parametrize("folder", [".", "annotations"])
@pytest.mark.parametrize(
    "name",
    [
        *("instances_{}.json", "instances_{}2017.json", "Instances-{}.json", "{}.json", "annotations_{}.json"),
        *("{}_annotations.json", "coco_{}_v2.json"),
    ],
)
@pytest.mark.parametrize("val", ["valid", "validation", "Val", "dev"])
def test_coco_files_are_known_by_the_part_in_their_names(name, val, folder, tmp_path):
    root = renamed(tmp_path, {"train": name.format("train"), "val": name.format(val)}, folder)
    source = open_objects(root)
    assert source.held_out == name.format(val)
    assert (len(source.train), len(source.val)) == (2, 2)


def renamed(root: Path, names: dict[str, str], folder: str = ".") -> Path:
    """COCO files by other names; others are removed."""
    coco(root)
    (root / folder).mkdir(exist_ok=True)
    for part in ("train", "val"):
        file = root / f"instances_{part}.json"
        file.rename(root / folder / names[part]) if part in names else file.unlink()
    return root


@pytest.mark.parametrize("images", ["val", "images/valid", "Validation", "val2017"])
def test_images_of_a_coco_file_may_be_in_a_folder_that_spells_its_part_otherwise(images, tmp_path):
    renamed(tmp_path, {"train": "instances_train.json", "val": "instances_valid.json"})
    for name in ("c.jpg", "d.jpg"):
        (tmp_path / images).mkdir(exist_ok=True)
        (tmp_path / "images" / name).rename(tmp_path / images / name)
    assert open_objects(tmp_path).val.name(0) == str(tmp_path / images / "c.jpg")


def test_files_of_instances_come_before_others_and_two_of_a_part_are_refused(tmp_path):
    root = coco(tmp_path)
    (root / "captions_val.json").write_text("{}")
    (root / "._instances_train.json").write_text("")
    assert open_objects(root).held_out == "instances_val.json"
    for name in ("instances_val2.json", "instances_validation.json"):
        (root / name).write_text("{}")
        with pytest.raises(ValueError, match=rf"{name}.* the part val"):
            open_objects(root)
        (root / name).unlink()


def test_the_share_that_is_held_out_can_be_chosen(tmp_path):
    formats.coco(tmp_path / "train", {"train": 20, "test": 4})
    formats.coco(tmp_path / "both", {"train": 20, "valid": 5})
    whole = open_objects(tmp_path / "train", val_share=0.4, seed=3)
    assert (len(whole.train), len(whole.val)) == (12, 8)
    assert whole.held_out.startswith("40 % of instances_train.json, seed 3 (instances_test.json is kept")
    names = {whole.val.name(n) for n in range(8)}
    other = open_objects(tmp_path / "train", val_share=0.4, seed=4)
    assert names != {other.val.name(n) for n in range(8)}
    for hold_out, counts in ((False, (20, 5)), (True, (15, 5))):
        source = open_objects(tmp_path / "both", val_share=0.25, hold_out=hold_out)
        assert (len(source.train), len(source.val)) == counts
        assert ("25 %" in source.held_out) == hold_out
    judged = open_objects(tmp_path / "train", known=["dog"], val_share=None)
    assert (len(judged.val), judged.held_out) == (20, "all of instances_train.json")


def test_a_file_of_another_name_is_told(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_default.json").write_text(json.dumps(content()))
    with pytest.raises(ValueError, match=r"if annotations/instances_default\.json is in COCO's form, call it inst"):
        open_objects(tmp_path)


def test_boxes_of_no_size_or_outside_are_left_out_and_the_first_are_named(tmp_path):
    def change(c: dict[str, Any]) -> None:
        for number in range(20, 25):
            c["annotations"].append({"id": number, "image_id": 8, "category_id": 2, "bbox": [3, 3, 0, 9]})
        c["annotations"].append({"id": 30, "image_id": 8, "category_id": 2, "bbox": [41, 3, 9, 9]})
        c["annotations"].append({"id": 31, "image_id": 8, "category_id": 2, "bbox": [35, 25, 9, 9]})
        c["annotations"].append({"id": 31, "image_id": 8, "category_id": 2, "bbox": [35, 25, 9, 9]})

    source = open_objects(coco(tmp_path, change))
    assert source.train.objects[1].boxes.tolist() == [[35, 25, 44, 34]] * 2
    assert source.notes[:3] == [
        "instances_train.json: 5 objects of no width or no height were left out "
        "(annotation 20, annotation 21, annotation 22, ...)",
        "instances_train.json: 1 objects outside of their image were left out (annotation 30)",
        "instances_train.json: 1 ids are of several annotations each (31); all are used",
    ]


def test_few_labelled_images_and_classes_without_objects_are_told(tmp_path):
    def change(c: dict[str, Any]) -> None:
        for number in range(20):
            picture(tmp_path / "images" / f"{number}.png")
            c["images"].append({"id": 100 + number, "file_name": f"{number}.png", "width": 40, "height": 30})

    *_, few, unused = open_objects(coco(tmp_path, change)).notes
    assert few.endswith(
        "only 1 of 22 images to learn from have objects; the others count as images with nothing on them"
    )
    assert unused.endswith("1 of 2 classes have no object ('cat')")


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
    with pytest.raises(ValueError, match="a box and no mask"):
        source.train.check_masks(source.classes)


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
    with pytest.raises(ValueError, match=r"a\.txt, line 1: (a box of the size -0.1|nan is out of range)"):
        open_objects(yolo_with(tmp_path, line))
