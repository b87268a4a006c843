"""VOC's folders: which file is about which image, and what is on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from convneur.data.objects import open_objects

TEXT = """<annotation><filename>NAME.png</filename><size><width>40</width><height>30</height></size>
<object><name> dog </name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>3</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object></annotation>"""


def voc(
    root: Path, change: Callable[[str], str] = str, names: tuple[str, str] = ("one", "two"), listed: str = "{}\n"
) -> Path:
    for place in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / place).mkdir(parents=True)
    for split, name in zip(("train", "val"), names, strict=True):
        Image.new("RGB", (40, 30)).save(root / "JPEGImages" / f"{name}.png")
        (root / "Annotations" / f"{name}.xml").write_text(change(TEXT.replace("NAME", name)))
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(listed.format(name))
    return root


@pytest.mark.parametrize(
    "change",
    [
        str,
        lambda t: t.replace(".png<", "<"),
        lambda t: t.replace(".png<", ".jpg<"),
        lambda t: t.replace("<filename>", "<filename>C:\\photos\\"),
        lambda t: t[: t.index("<filename>")] + t[t.index("<size>") :],
        lambda t: "\ufeff" + t.replace("\n", "\r\n"),
        lambda t: '\n \n<?xml version="1.0" encoding="utf-8"?>\n' + t,
        lambda t: t.replace("<width>40", "<width>0").replace("<height>30", "<height>0"),
        lambda t: t.replace(">0</difficult>", "> 0\n</difficult>"),
    ],
    ids=["plain", "no ending", "other ending", "path", "no name", "mark", "blank lines", "no size", "blanks"],
)
def test_an_annotation_belongs_to_the_image_of_its_own_name(tmp_path, change):
    source = open_objects(voc(tmp_path, change))
    assert source.train.name(0) == str(tmp_path / "JPEGImages" / "one.png")
    assert source.classes == ["dog"]
    assert source.train.sizes == [(30, 40)]
    assert source.train.objects[0].boxes.tolist() == [[0, 2, 10, 20]]


@pytest.mark.parametrize("listed", ["{}\n", "\ufeff{}\r\n\r\n", "{}  1\n", "{} -1\n"])
@pytest.mark.parametrize("names", [("one", "two"), ("photo 1", "photo 2")])
def test_lists_have_a_name_a_line(tmp_path, listed, names):
    source = open_objects(voc(tmp_path, names=names, listed=listed))
    assert source.val.name(0) == str(tmp_path / "JPEGImages" / f"{names[1]}.png")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.replace("one.png", "two.png"),
            "it says that it is of 'two.png', and its own name is that of 'one'",
        ),
        (
            lambda t: t.replace("two.png", "one.png"),
            "it says that it is of 'one.png', and its own name is that of 'two'",
        ),
        (lambda t: t.replace(">0</difficult>", ">maybe</difficult>"), "difficult is 'maybe'"),
        (lambda t: t.replace(">0</difficult>", ">1</difficult>"), "of 1 objects 1 are crowds or difficult"),
        (lambda t: t[: t.index("<object>")] + "</annotation>", "none of the 1 images"),
        (lambda t: t.replace("> dog <", "> <"), "it has no name"),
        (lambda t: t.replace("<width>40", "<width>-40"), "size/width is -40"),
        (lambda t: t.replace("<xmax>10", "<xmax>nan"), "bndbox/xmax is nan"),
    ],
)
def test_what_is_of_another_image_or_has_nothing_that_counts_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message) as refused:
        open_objects(voc(tmp_path, change))
    assert "\n" not in str(refused.value)


def test_a_class_that_is_not_known_is_named_with_its_file(tmp_path):
    with pytest.raises(ValueError, match=r"two\.xml has a 'dog', which is no class"):
        open_objects(voc(tmp_path), known=["cat"])


def test_two_images_for_one_annotation_are_no_guess(tmp_path):
    root = voc(tmp_path, lambda t: t.replace(".png<", "<"))
    Image.new("RGB", (40, 30)).save(root / "JPEGImages" / "one.jpg")
    with pytest.raises(ValueError, match=r"one\.xml .*there are one\.jpg and one\.png"):
        open_objects(root)


def test_a_list_to_learn_from_and_judge_by_is_split(tmp_path):
    root = voc(tmp_path)
    lists = root / "ImageSets" / "Main"
    (lists / "trainval.txt").write_text("one\ntwo\n")
    assert open_objects(root).held_out == "list val.txt"
    for name in ("train.txt", "val.txt"):
        (lists / name).unlink()
    source = open_objects(root)
    assert (len(source.train), len(source.val)) == (1, 1)
