"""YOLO folders: names of classes in every form, lines of every kind, and labels that are not where they belong."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from convneur.data.objects import ObjectSource, open_objects
from tests.data import formats

BOX = "0 0.5 0.5 0.5 0.2"
POLYGON = "0 0.1 0.1 0.5 0.1 0.5 0.5"
ORIENTED = "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5"


def yolo(
    root: Path, lines: str = BOX, described: str = "names: [dog, cat]", label: str = "labels/{split}/a.txt"
) -> Path:
    for split in ("train", "val"):
        for place in (f"images/{split}", f"labels/{split}"):
            (root / place).mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(root / "images" / split / "a.png")
        (root / label.format(split=split)).write_text(lines)
    (root / "data.yaml").write_text(described)
    return root


def first_class(source: ObjectSource) -> str:
    return source.classes[source.train.objects[0].labels[0]]


@pytest.mark.parametrize(
    ("names", "number", "wanted"),
    [
        ("names: [dog, cat]", 1, "cat"),
        ("names:\n- dog\n- cat\n", 1, "cat"),
        ("names: {0: dog, 1: cat}", 1, "cat"),
        ("names: {1: cat, 0: dog}", 0, "dog"),
        ("names: {'0': dog, \"1\": cat}", 1, "cat"),
        ("names: {1: dog, 2: cat}", 1, "dog"),
        ("names: {1: dog, 2: cat}", 2, "cat"),
        ("names: {3: dog, 7: cat, 10: cow}", 7, "cat"),
        ("names: {2: two, 10: ten, 1: one}", 10, "ten"),
        ("names: [no, yes]", 0, "no"),
        ("names: {0: on, 1: off}", 1, "off"),
        ("names: [1, 2.50, 007]", 1, "2.50"),
        ("names: [null, ~, 2020-01-01]", 2, "2020-01-01"),
        ("names: [' dog ', cat]", 0, "dog"),
        ("\ufeffnames: [dog, cat]\r\n\r\n", 1, "cat"),
        ("nc: 2\nkpt_shape:\nnames: [dog, cat]", 1, "cat"),
    ],
)
def test_the_number_of_a_line_is_the_class_that_the_description_names(tmp_path, names, number, wanted):
    assert first_class(open_objects(yolo(tmp_path, f"{number} 0.5 0.5 0.5 0.2", names))) == wanted


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("names: {1: dog, 2: cat}", r"a\.txt, line 1: it is of the class 0, and data\.yaml names 1 \(dog\), 2 \(cat\)"),
        ("names: [dog, dog]", "several classes of the name 'dog'"),
        ("names: {0: dog, 0: cat}", "given twice"),
        ("names: {0: dog, '00': cat}", "several classes of the number 0"),
        ("names: {dog: 0}", 'names a class "dog"; give whole numbers'),
        ("names: {-1: dog}", 'names a class "-1"'),
        ("names: [dog, '']", "does not name the classes"),
        ("names: dog", "does not name the classes"),
        ("names: []", "does not name the classes"),
        ("names: [dog]\nkpt_shape: 17", "has the kpt_shape"),
        ("names: [dog]\nkpt_shape: [a, 3]", "has the kpt_shape"),
    ],
)
def test_names_that_cannot_be_told_are_refused(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        open_objects(yolo(tmp_path, BOX, names))


@pytest.mark.parametrize(
    ("lines", "count", "with_masks"),
    [
        (BOX, 1, False),
        (f"\ufeff\r\n  {BOX}  \r\n\r\n{BOX}\r\n", 2, False),
        ("0.0 0.5 0.5 0.5 0.2", 1, False),
        ("0 0.5 0.5 1.02 0.2", 1, False),
        (POLYGON, 1, True),
        (ORIENTED, 1, True),
        ("0 0.5 0.2 0.7 0.4 1 0.6 1 1 0.2 1", 1, True),
        (f"{BOX}\n0 0.5 0.5 0 0.1\n0 1.4 0.5 0.1 0.1", 1, False),
    ],
)
def test_lines_are_boxes_or_outlines(tmp_path, lines, count, with_masks):
    (objects,) = open_objects(yolo(tmp_path, lines)).train.objects
    assert (len(objects), objects.shapes[0] is not None) == (count, with_masks)


def test_lines_of_no_use_are_named(tmp_path):
    notes = open_objects(yolo(tmp_path, f"{BOX}\n1 0.5 0.5 0 0.1\n1 1.4 0.5 0.1 0.1")).notes
    assert "labels/train: 1 objects of no width or no height were left out (a.txt, line 2)" in notes
    assert "labels/train: 1 objects outside of their image were left out (a.txt, line 3)" in notes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 24 18 32 24", "24 is out of range: numbers are shares of the image"),
        ("0 50 50 20 20", "shares of the image"),
        ("0 0.5 0.5 0.2 24", "shares of the image"),
        ("0 0.1 0.1 40 0.1 0.5 20", "shares of the image"),
        ("0 nan 0.5 0.1 0.1", "shares of the image"),
        ("0 0.5 0.5 0.1 -0.1", "a box of the size"),
        ("0 0.5 0.5 0.2 0.2 0.9", "5 numbers after the class"),
        ("0 0.42 0.39 0.42 0.47 0.30 0.30 2 0.50 0.50 2", "write kpt_shape"),
        ("0 0.42 0.39 0.42 0.47 0.30 0.30 1 0 0 0", "write kpt_shape"),
        ("0,0.5,0.5,0.1,0.1", "is not all numbers, parted by blanks"),
        ("0.5 0.5 0.5 0.1 0.1", "it is of the class 0.5"),
        ("2 0.5 0.5 0.1 0.1", r"it is of the class 2, and data\.yaml names 0 \(dog\), 1 \(cat\)"),
    ],
)
def test_lines_that_mean_something_else_are_refused_by_name(tmp_path, line, message):
    with pytest.raises(ValueError, match=rf"a\.txt, line 2: .*{message}"):
        open_objects(yolo(tmp_path, f"{BOX}\n{line}\n"))


@pytest.mark.parametrize(
    ("shape", "points"), [("[2, 3]", "0.3 0.3 2 0.5 0.5 1"), ("[2, 2]", "0.3 0.3 0.5 0.5"), ("[1, 2]", "30 30")]
)
def test_boxes_of_objects_with_keypoints_are_read(tmp_path, shape, points):
    root = yolo(tmp_path, f"1 0.5 0.5 0.5 0.2 {points}\n{BOX}", f"names: [dog, cat]\nkpt_shape: {shape}")
    (objects,) = open_objects(root).train.objects
    assert objects.boxes[0].tolist() == [10, 12, 30, 18]
    assert objects.shapes == [None, None]
    with pytest.raises(ValueError, match=r"have a box and no mask, the first a 'cat' on .*a\.png"):
        open_objects(root, with_masks=True)


def test_lines_with_other_keypoints_than_described_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"a\.txt, line 1: 6 numbers after the class; by the kpt_shape .* there are 10"
    ):
        open_objects(yolo(tmp_path, POLYGON, "names: [dog]\nkpt_shape: [2, 3]"))


@pytest.mark.parametrize(
    "label", ["labels/{split}/a.png.txt", "labels/{split}/a.TXT", "labels/a.txt", "images/{split}/a.txt"]
)
@pytest.mark.parametrize("others", [False, True], ids=["all", "one of two"])
def test_labels_that_are_elsewhere_are_refused_with_where_they_are(tmp_path, label, others):
    root = yolo(tmp_path, label=label)
    for split in ("train", "val") if others else ():
        Image.new("RGB", (40, 30)).save(root / "images" / split / "b.png")
        (root / "labels" / split / "b.txt").write_text(BOX)
    message = r"images/train have no label file: looked for .*labels/train/a\.txt"
    with pytest.raises(ValueError, match=message) as refused:
        open_objects(root)
    assert f"such as {root / label.format(split='train')}" in str(refused.value)


def test_no_labels_at_all_are_refused_in_training_and_in_evaluation(tmp_path):
    root = yolo(tmp_path, label="images/{split}/notes.md")
    for known, part in ((None, "train"), (["dog", "cat"], "val")):
        with pytest.raises(
            ValueError, match=rf"1 of the 1 images in .*images/{part} have no label file: .*found none there"
        ):
            open_objects(root, known=known)
    for split in ("train", "val"):
        (root / "labels" / split / "a.txt").write_text("\n")
    with pytest.raises(ValueError, match="val: none of the 1 images to judge by has an object"):
        open_objects(root, known=["dog", "cat"])


def test_files_without_an_image_are_told_and_a_file_of_two_images_is_refused(tmp_path):
    root = yolo(tmp_path)
    (root / "labels" / "train" / "other.txt").write_text(BOX)
    (root / "labels" / "train" / "classes.txt").write_text("dog\n")
    assert open_objects(root).notes[0] == "labels/train: 1 label files belong to no image in images/train (other.txt)"
    Image.new("RGB", (40, 30)).save(root / "images" / "train" / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.txt is the label file of .*a\.jpg and of .*a\.png; rename"):
        open_objects(root)


def test_the_description_may_have_another_name(tmp_path):
    root = yolo(tmp_path)
    (root / "data.yaml").rename(root / "animals.yml")
    assert open_objects(root).classes == ["dog", "cat"]


def test_images_without_folders_of_parts_are_split(tmp_path):
    in_folders(tmp_path, {".": 5})
    source = open_objects(tmp_path)
    assert (len(source.train), len(source.val), source.held_out) == (4, 1, "20 % of folder images, seed 0")


def in_folders(root: Path, folders: dict[str, int], described: str = "names: [dog, cat]") -> Path:
    """Images and labels in folders of their own in each folder, as Roboflow has them."""
    for folder, count in folders.items():
        name = Path(folder).name
        for number in range(count):
            formats.write(root / folder / "images" / f"{name}{number}.png")
            formats.write(root / folder / "labels" / f"{name}{number}.txt", BOX)
    formats.write(root / "data.yaml", described)
    return root / "data.yaml"


def counts(source: ObjectSource) -> tuple[int, int]:
    return len(source.train), len(source.val)


@pytest.mark.parametrize("names", ["['dog', 'cat']", "{0: dog, 1: cat}"], ids=["list", "dict"])
@pytest.mark.parametrize("parts", [("train", "valid", "test"), ("train", "valid"), ("train",)], ids="-".join)
@pytest.mark.parametrize(
    "place", ["../{}/images", "{}/images", "./{}/images/", "set-5/{}/images", "/content/{}/images"]
)
def test_what_roboflow_exports(place, parts, names, tmp_path):
    """It writes paths that summary elsewhere, and names folders that are not there."""
    told = "".join(
        f"{key}: {place.format(part)}\n" for key, part in (("train", "train"), ("val", "valid"), ("test", "test"))
    )
    file = in_folders(tmp_path, dict(zip(parts, (10, 4, 3), strict=False)), f"{told}nc: 2\nnames: {names}\n")
    for data in (tmp_path, file):
        source = open_objects(data)
        assert counts(source) == ((10, 4) if "valid" in parts else (8, 2))
        assert source.classes == ["dog", "cat"]
        if "test" in parts:
            assert counts(open_objects(data, "test")) == (10, 3)


@pytest.mark.parametrize(
    ("folders", "described"),
    [
        (("a/train", "a/val"), "path: a\ntrain: train/images\nval: val/images"),
        (("a/train", "a/val"), "path: ../elsewhere\ntrain: a/train/images\nval: a/val/images"),
        (("a/train", "a/val"), "train: a/train\nval: a\\val"),
        (("one", "two"), "train: one/images\nval: two/images"),
        (("train", "val", "two"), "train: train/images\nval: two/images"),
    ],
)
def test_folders_are_where_the_description_says(folders, described, tmp_path):
    file = in_folders(tmp_path, dict(zip(folders, (6, 3, 2), strict=False)), f"names: [dog]\n{described}")
    wanted = (6, 2) if "two" in folders and len(folders) == 3 else (6, 3)
    assert counts(open_objects(tmp_path)) == counts(open_objects(file)) == wanted


def test_labels_may_lie_beside_the_images_where_the_description_names_the_folder(tmp_path):
    for part in ("train", "val"):
        formats.write(tmp_path / part / f"{part}.png")
        formats.write(tmp_path / part / f"{part}.txt", BOX)
    formats.write(tmp_path / "data.yaml", "names: [dog]\ntrain: train\nval: val")
    assert counts(open_objects(tmp_path)) == (1, 1)


def test_a_folder_that_holds_the_parts_is_no_part(tmp_path):
    file = yolo(tmp_path, described="names: [dog, cat]\ntrain: images\nval: images/val") / "data.yaml"
    assert counts(open_objects(file)) == (1, 1)


def test_a_description_may_be_given_itself(tmp_path):
    root = yolo(tmp_path / "data")
    (root / "other.yml").write_text("names: [owl, cow]")
    assert open_objects(root / "other.yml").classes == ["owl", "cow"]
    assert open_objects(root / "data.yaml").classes == open_objects(root).classes == ["dog", "cat"]
    (tmp_path / "far.yaml").write_text('path: /etc\ntrain: "/\\0"\nval: ssl\nnames: [dog]')
    with pytest.raises(ValueError, match=r"far\.yaml names no folder of images that is in .*; write train: images/tr"):
        open_objects(tmp_path / "far.yaml")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        open_objects(root / "images" / "train" / "a.png")


def test_pictures_of_other_kinds_are_named(tmp_path):
    root = yolo(tmp_path)
    (root / "images" / "train" / "b.nef").write_bytes(b"raw")
    assert any("1 .nef" in note for note in open_objects(root).notes)
