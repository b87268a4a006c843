"""CSV files of images and labels, in the forms that Kaggle has, and what is wrong with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from convneur.data.contents import Contents, not_learned
from convneur.data.sources import open_source
from tests.data import formats

IMAGES = ("a.png", "b.png", "c.png", "d.png")


def labelled(root: Path, text: str, images: tuple[str, ...] = IMAGES) -> str:
    for name in images:
        formats.write(root / name)
    formats.write(root / "labels.csv", text)
    return str(root / "labels.csv")


def table(names: tuple[str, ...] = IMAGES, head: str = "filename,label", labels: str = "xyxy") -> str:
    return "\n".join([head, *(f"{name},{label}" for name, label in zip(names, labels, strict=True))])


def told(spec: str) -> list[tuple[str, str]]:
    """What is judged by: path below the folder, and class."""
    source = open_source(spec, None)
    root = Path(spec).parent
    names = (Path(source.val.name(n)).relative_to(root) for n in range(len(source.val)))
    return [(str(name), source.classes[label]) for name, label in zip(names, source.val.labels, strict=True)]


@pytest.mark.parametrize("head", ["filename,label", "image,label", "id,label", "image_id,label", " ID , Label "])
@pytest.mark.parametrize("folder", ["", "train_images/", "data/train/"])
@pytest.mark.parametrize("form", ["path", "name", "id", "path without ending", "Windows"])
def test_images_are_found_however_they_are_named(form, folder, head, tmp_path):
    paths = tuple(f"{folder}{name}" for name in IMAGES)
    names = {
        "path": paths,
        "name": IMAGES,
        "id": tuple(name[0] for name in IMAGES),
        "path without ending": tuple(path.removesuffix(".png") for path in paths),
        "Windows": tuple(f".\\{path}".replace("/", "\\") for path in paths),
    }[form]
    spec = labelled(tmp_path, table(names, head), paths)
    assert told(spec) == list(zip(paths, "xyxy", strict=True))


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        (("cat", " dog ", "cat", "dog"), ["cat", "dog", "cat", "dog"]),
        (("0", "2", "1", "2"), ["0", "2", "1", "2"]),
        (("1.0", "0.0", "1", "0"), ["1", "0", "1", "0"]),
        (("007", "8", "007", "8"), ["007", "8", "007", "8"]),
        (("0", "1", "-1", "1"), ["0", "1", "1"]),
        (('"a,b"', '"say ""no"""', '"a,b"', "c"), ["a,b", 'say "no"', "a,b", "c"]),
    ],
)
def test_labels_are_names_or_numbers(labels, wanted, tmp_path):
    rows = "\r\n".join(f"{name},{label}" for name, label in zip(IMAGES, labels, strict=True))
    spec = labelled(tmp_path, f"\ufeffimage,label\r\n{rows}\r\n\r\n")
    assert [label for _, label in told(spec)] == wanted


def test_names_of_numbered_classes_stand_beside_it(tmp_path):
    spec = labelled(tmp_path, table(labels="0101"))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert [label for _, label in told(spec)] == ["cat", "dog", "cat", "dog"]


def test_a_share_is_held_out_of_each_class(tmp_path):
    source = open_source(labelled(tmp_path, table(labels="xxyy")), 0.5)
    assert (source.train.labels.tolist(), source.val.labels.tolist()) == ([0, 1], [0, 1])
    assert source.held_out == "50 % of labels.csv, seed 0"


def test_columns_may_stand_in_any_order_among_others(tmp_path):
    rows = "split,id,label,image\nvalid,7,x,a.png\ntrain,8,x,b.png\nTrain,9,y,c.png\ntest,9,y,d.png"
    with pytest.raises(ValueError, match=r"labels\.csv, column split has Train and train, which both mean the part tr"):
        open_source(labelled(tmp_path, rows))
    spec = labelled(tmp_path, rows.replace("Train", "train"))
    source, test = open_source(spec), open_source(spec, part="test")
    assert ([*source.train.labels], [*source.val.labels], [*test.val.labels]) == ([0, 1], [0], [1])
    assert (source.held_out, test.held_out) == ("split valid", "split test")
    assert Path(test.val.name(0)).name == "d.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has no column filename, file_name, image, image_id or id; its first line is \"\""),
        ("a.png,x\nb.png,y", r"its first line is \"a\.png,x\", and must name the columns"),
        ("filename;label\na.png;x", r"its first line is \"filename;label\""),
        ("filename,class\na.png,x", "has no column label; "),
        ("filename,label", "has no rows"),
        (table() + ",more", "line 5 has 3 values for 2 columns"),
        (table().replace("b.png", ""), "line 3 has no filename; add it, or remove the row"),
        (table(labels="xy y"), "line 4 has no label; add it, or remove the row"),
        (table(labels="xy?y") + "\na,x", r"line 6: a\.png stands in line 2, too"),
        (table().replace("b.png", "x.png"), r"line 3: there is no image \"x\.png\" in .* \(1 of 4 are missing\)"),
        (table().replace("b.png", "../b.png"), r"line 3: there is no image \"\.\./b\.png\""),
        (table().replace("b.png", "b.jpg"), r"line 3: there is no image \"b\.jpg\""),
        (table().replace("b.png", "b.PSD"), r"line 3: there is no image .*1 file looks like an image of a kind"),
        (table().replace("b.png", "e"), r"line 3: \"e\" may be one/e\.png or two/e\.png; write the path from "),
        (table().replace("b.png", "f"), r"line 3: \"f\" may be f\.jpg or f\.png; write the path from "),
        (table(labels="0100") + "\none/e,1.5", r"line 6, has the label 1\.5; give a whole number from 0 or a name"),
        ("id,label,split\na,x,train\nb,y,tria", r"line 3: the split \"tria\" is no part; write train, val or test"),
        ("id,label,split\na,x,train\nb,y,", r"line 3: the split \"\" is no part"),
        ("id,label,split\na,x,train\nb,y,train\nc,z,val", r"line 4, has the label 'z', which is no class"),
        ('id,label\na,"x\nb,y', "cannot be read as CSV|has 1 values|has no label|has only one class"),
        ("id,label\na," + "x" * 200_000, r"line 2 cannot be read as CSV"),
        ("id,label\na,Cat\nb,cat", "differ in capitals only"),
        ("id,label\na,x\nb,x", "only one class"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(text, message, tmp_path):
    spec = labelled(tmp_path, text, (*IMAGES, "one/e.png", "two/e.png", "f.png", "f.jpg", "g.psd"))
    with pytest.raises((ValueError, FileNotFoundError), match=message) as refused:
        open_source(spec)
    assert str(refused.value).startswith(spec)
    assert "\n" not in str(refused.value)


def test_of_two_images_the_one_that_is_named_as_a_whole_is_meant(tmp_path):
    spec = labelled(tmp_path, table(("a", "b", "c.png", "d.png")), (*IMAGES, "old/a.png", "old/c.png", "b.c.png"))
    assert [name for name, _ in told(spec)] == list(IMAGES)


def test_text_that_is_no_utf8_is_named(tmp_path):
    spec = labelled(tmp_path, table())
    Path(spec).write_bytes("filename,label\na.png,é".encode("latin-1"))
    with pytest.raises(ValueError, match=r"labels\.csv is no UTF-8 text"):
        open_source(spec)


def test_a_folder_of_images_says_what_labels_them(tmp_path):
    labelled(tmp_path, table(), tuple(f"train/{name}" for name in IMAGES))
    with pytest.raises(ValueError, match=r"images that labels\.csv labels are read as .*/labels\.csv$"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("moved", [False, True])
def test_what_was_learned_is_known_again_elsewhere_and_in_another_list(moved, tmp_path):
    """By the bytes, where both can be looked at: these images all have the same size."""
    for number, name in enumerate(IMAGES):
        formats.write(tmp_path / "data" / name, formats.PNG + bytes([number]))
    spec = labelled(tmp_path / "data", table(labels="xxyy"), ())
    kept = Contents.of(open_source(spec, 0.5), spec)
    if moved:
        shutil.copytree(tmp_path / "data", tmp_path / "copy")
        for name, number in zip(IMAGES, (5, 1, 2, 3), strict=True):
            formats.write(tmp_path / "copy" / name, formats.PNG + bytes([number]))
    place = tmp_path / ("copy" if moved else "data")
    (place / "labels.csv").rename(place / "other.csv")
    other = str(place / "other.csv")
    new = not_learned(open_source(other, None).val, other, kept)
    held_out = [number for number, name in enumerate(IMAGES) if (name, len(formats.PNG) + 1) in kept.val]
    assert new == sorted({*held_out, *([0] if moved else [])})
