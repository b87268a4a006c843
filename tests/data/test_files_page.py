"""What docs/files.md says of folders, tables, shards and masks is what happens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convneur.data.semantic import open_pixels
from convneur.data.sources import open_source
from convneur.data.unlabelled import open_unlabelled
from tests.data import formats
from tests.data.formats import PNG, mask, samples, table, tar, write
from tests.files_page import rows

Opened = Callable[[Path], Any]
SITUATIONS: dict[tuple[str, str, str], Opened] = {}
OUTCOMES = {
    "accepted": "taken",
    "converted": "taken",
    "skipped": "taken",
    "left out and named": "named",
    "accepted and named": "named",
    "one sample, its first image; named": "named",
    "refused": "refused",
}


def situation(*row: str) -> Callable[[Opened], Opened]:
    def keep(opened: Opened) -> Opened:
        SITUATIONS[row] = opened
        return opened

    return keep


def folders(root: Path, *names: str, count: int = 4) -> Any:
    for name in names:
        for number in range(count):
            write(root / name / f"{number}.png")
    return open_source(str(root))


for row, names in {
    ("parts", "`Training`, `Testing`"): ("Training/a", "Training/b", "Testing/a"),
    ("parts", "`val` and `validation`"): ("train/a", "train/b", "val/a", "validation/a"),
    ("parts", "`train` beside class folders"): ("train", "cat", "dog"),
    ("parts", "`seg_train`, `seg_test`"): ("seg_train/a", "seg_test/a"),
    ("parts", "`train` in a class folder"): ("cat/train", "dog/train"),
    ("class", "`Cat` beside `cat`"): ("Cat", "cat"),
    ("class", "`A` beside `a`"): ("A", "a"),
    ("class", "hidden"): ("a", "b", ".c"),
}.items():
    SITUATIONS[("folder", *row)] = lambda root, names=names: folders(root, *names)  # type: ignore[misc]


@situation("folder", "class", "empty")
def _(root: Path) -> Any:
    (root / "c").mkdir()
    return folders(root, "a", "b")


@situation("folder", "files", "`.DS_Store`, `._a.jpg`, `Thumbs.db`, `desktop.ini`, `.ipynb_checkpoints`, `__MACOSX`")
def _(root: Path) -> Any:
    for name in ("a/.DS_Store", "a/._a.jpg", "b/Thumbs.db", "b/desktop.ini", "a/.ipynb_checkpoints/0.png"):
        write(root / name)
    for name in ("__MACOSX/a/._0.png", "__MACOSX/0.png", ".ipynb_checkpoints/0.png", "._x.png"):
        write(root / name)
    source = folders(root, "a", "b", count=5)
    assert (source.classes, len(source.train) + len(source.val)) == (["a", "b"], 10)
    assert len(open_unlabelled(str(root))) == 10
    return source


@situation("folder", "files", "images beside the class folders")
def _(root: Path) -> Any:
    write(root / "loose.png")
    return folders(root, "a", "b")


@situation("folder", "files", "`.svg`, `.psd`, `.nef`, `.jxl` and other pictures")
def _(root: Path) -> Any:
    for name in ("x.svg", "x.PSD", "x.nef", "x.jxl", "x.txt"):
        write(root / "a" / name)
    source = folders(root, "a", "b")
    told = "4 files look like images of a kind that is not read and were left out (1 .jxl, 1 .nef, 1 .psd, 1 .svg)"
    assert told in source.notes[0]
    assert told in open_unlabelled(str(root)).notes[0]
    return source


@situation("folder", "files", "an image without an ending")
def _(root: Path) -> Any:
    write(root / "a" / "photo")
    write(root / "a" / "LICENSE", "text")
    source = folders(root, "a", "b")
    assert "(1 without an ending)" in source.notes[0]
    return source


def labels(root: Path, *values: Any, kind: Any = None, classes: str | None = None) -> Any:
    table(root / "rows.parquet", values, kind)
    if classes is not None:
        write(root / "classes.txt", classes)
    return open_source(str(root))


@situation("parquet", "label", "names, also as bytes or categories")
def _(root: Path) -> Any:
    for number, kind in enumerate((pa.string(), pa.binary(), pa.dictionary(pa.int8(), pa.string()))):
        assert labels(root / str(number), *["b", "a"] * 5, kind=kind).classes == ["a", "b"]
    return labels(root, *["b", "a"] * 5)


for value, given in {
    "whole numbers from 0": [0, 1] * 5,
    "`0.0`, `1.0`": [0.0, 1.0] * 5,
    "`0.5`": [0.0, 1.0, 0.5] * 5,
    "`-1`": [0, 1, -1] * 5,
    "all `-1`": [-1] * 5,
    "true, false": [False, True] * 5,
    "lists": [[0], [1]] * 5,
    "a single class": [1] * 10,
    "empty, or blanks": ["a", "b", " "] * 5,
}.items():
    SITUATIONS["parquet", "label", value] = lambda root, given=given: labels(root, *given)  # type: ignore[misc]


@situation("parquet", "label", "NaN or null")
def _(root: Path) -> Any:
    with pytest.raises(ValueError, match=r"rows\.parquet row 2 has no label"):
        labels(root / "other", 0, 1, None, 1)
    return labels(root, 0.0, 1.0, float("nan"), 1.0)


@situation("parquet", "label", "beyond `classes.txt`")
def _(root: Path) -> Any:
    return labels(root, 0, 1, 2, 0, classes="a\nb\n")


def label_list(*rows: str, head: str = "id,label") -> Opened:
    def opened(root: Path) -> Any:
        for name in ("train/a", "train/b", "train/c", "train/d", "train/x", "other/x"):
            write(root / f"{name}.png")
        write(root / "labels.csv", "\n".join([head, *rows]))
        return open_source(str(root / "labels.csv"))

    return opened


def each_refused(*cases: Opened) -> Opened:
    """All of them; the first by who asks."""

    def opened(root: Path) -> Any:
        for number, case in enumerate(cases):
            if number:
                with pytest.raises((ValueError, OSError), match=r"\A[^\n]*\Z"):
                    case(root / str(number))
        return cases[0](root)

    return opened


ROWS = ("a,x", "b,x", "c,y", "d,y")
for row, opened in {
    ("text", "BOM, CRLF, empty lines, quotes"): label_list(
        *ROWS[:2], '"c","y,z"\r\n', 'd,"y,z"', head="\ufeffid,label\r"
    ),
    ("columns", "`filename`, `image` or `id`, and `label`; others beside"): label_list(
        *(f"{row},1" for row in ROWS), head="filename,label,size"
    ),
    ("columns", "none of these, other numbers of values in a row"): each_refused(
        label_list(*ROWS, head="file,label"), label_list(*ROWS, head="id,breed"), label_list(*ROWS, "a")
    ),
    ("image", "a path, its end, or either without ending"): label_list("train/a.png,x", "b.png,x", "train/c,y", "d,y"),
    ("image", "none that is there, several that fit, one twice"): each_refused(
        label_list(*ROWS, "e,x"), label_list(*ROWS, "a.png,x"), label_list(*ROWS, "x,x")
    ),
    ("label", "names, whole numbers, `1.0`"): label_list("a,1.0", "b,1.0", "c,0", "d,0"),
    ("label", "`-1` among numbers"): label_list("a,0", "b,0", "c,1", "d,-1", "train/x,1"),
    ("label", "empty, `0.5` among numbers"): each_refused(
        label_list("a,0", "b,0", "c,1", "d,0.5"), label_list("a,0", "b,0", "c,1", "d,")
    ),
    ("`split`", "`train`, `valid`, `test`"): label_list(
        "a,x,train", "b,y,train", "c,x,valid", "d,y,valid", head="id,label,split"
    ),
    ("`split`", "no part, empty in some rows"): each_refused(
        label_list("a,x,train", "b,y,train", "c,x,other", "d,y,val", head="id,label,split"),
        label_list("a,x,train", "b,y,train", "c,x,", "d,y,val", head="id,label,split"),
    ),
}.items():
    SITUATIONS[("CSV", *row)] = opened


@situation("`classes.txt`", "text", "BOM, CRLF, empty lines, spaces")
def _(root: Path) -> Any:
    text = "\ufeffground \r\n\r\n  road\r\n\r\n"
    source = labels(root / "table", *[0, 1] * 5, classes=text)
    formats.shards(root / "shards", {"train": 4, "val": 4})
    write(root / "shards" / "classes.txt", text)
    formats.masks_in_parts(root / "masks", {"train": 4, "val": 4})
    write(root / "masks" / "classes.txt", text)
    pixels = open_pixels(root / "masks")
    assert source.classes == open_source(f"wds:{root / 'shards'}").classes == pixels.code.classes == ["ground", "road"]
    return source


@situation("`classes.txt`", "text", "a name twice")
def _(root: Path) -> Any:
    return labels(root, 0, 1, 2, 0, classes="a\nb\na\n")


def shards(root: Path, members: list[tuple[str, bytes]], classes: str = "a\nb\n") -> Any:
    write(root / "classes.txt", classes)
    for part in ("train", "val"):
        tar(root / f"{part}-0.tar", members)
    source = open_source(f"wds:{root}")
    assert sum(len(each) for each in members_read(root)) == source.train.count
    return source


def members_read(root: Path) -> list[list[Any]]:
    from convneur.data.shards import _samples

    source = open_source(f"wds:{root}")
    return [list(_samples(source.train, source.train.urls))]


@situation("shards", "name", "`7.left.png`, `7.right.png`, `7.cls`")
def _(root: Path) -> Any:
    several = [("7.left.png", PNG), ("7.right.png", PNG + b"other"), ("7.cls", b"1")]
    source = shards(root, [*several, ("8.png", PNG), ("8.cls", b"0")])
    assert [(each.key, each.image, each.label) for each in members_read(root)[0]] == [
        ("7", PNG, b"1"),
        ("8", PNG, b"0"),
    ]
    assert [open_unlabelled(f"wds:{root}/train-0.tar").name(n) for n in (0, 1)] == ["train-0.tar:7", "train-0.tar:8"]
    return source


@situation("shards", "name", "`a.v1.jpg`, `a.v1.cls`, `a.v2.jpg`, `a.v2.cls`")
def _(root: Path) -> Any:
    names = ["v1", "v2", "v3"]
    members = [
        (f"a.{n}.{end}", PNG if end == "png" else b"%d" % (i % 2))
        for i, n in enumerate(names)
        for end in ("png", "cls")
    ]
    source = shards(root, members)
    assert [(each.key, each.label) for each in members_read(root)[0]] == [
        ("a.v1", b"0"),
        ("a.v2", b"1"),
        ("a.v3", b"0"),
    ]
    images = open_unlabelled(f"wds:{root}/train-0.tar")
    assert [images.name(n) for n in range(3)] == [f"train-0.tar:a.{n}" for n in names]
    assert images.known_labels(0, 3) == [0, 1, 0]
    return source


@situation("shards", "name", "`a.JPG`, `a.CLS`")
def _(root: Path) -> Any:
    source = shards(root, [("a.PNG", PNG), ("a.CLS", b"0"), ("b.Png", PNG), ("b.cls", b"1")])
    assert source.train.count == len(open_unlabelled(f"wds:{root}/train-0.tar")) == 2
    return source


@situation("shards", "label", "missing or empty")
def _(root: Path) -> Any:
    source = shards(root, [*samples([0, 1]), ("x.png", PNG), ("y.png", PNG), ("y.cls", b" ")])
    assert source.train.count == 2
    assert "2 of 4 samples" in source.notes[0]
    assert len(open_unlabelled(f"wds:{root}/train-0.tar")) == 4
    return source


@situation("shards", "label", "without an image")
def _(root: Path) -> Any:
    return shards(root, [*samples([0, 1]), ("x.cls", b"1"), ("x.txt", b"1")])


for value, texts in {
    "`-1`": [0, 1, -1],
    "`1.0`": ["0.0", "1.0", "1"],
    "`0.5`, text": [0, 1, "0.5"],
    "beyond `classes.txt`": [0, 1, 2],
}.items():
    SITUATIONS["shards", "label", value] = lambda root, texts=texts: shards(root, samples(texts))  # type: ignore[misc]


@situation("shards", "label", "none in all shards")
def _(root: Path) -> Any:
    return shards(root, [("0.png", PNG), ("0.json", b"1"), ("1.png", PNG), ("1.json", b"1")])


@situation("embed", "label", "any numbers, names, bytes, booleans, missing")
def _(root: Path) -> Any:
    for number, (values, type_) in enumerate(
        [
            ([0.5, None, 2.0], "double"),
            ([True, False, None], "bool"),
            ([-1, None, 2**62], "int64"),
            (["a", None], "string"),
        ]
    ):
        table(root / f"{number}.parquet", values)
        images = open_unlabelled(str(root / f"{number}.parquet"))
        assert (images.own_labels, images.known_labels(0, len(values))) == (type_, values)
    table(root / "bytes" / "0.parquet", [b"a", b"\xff"])
    table(root / "bytes" / "1.parquet", [1, 2])
    pq.write_table(pa.table({"image": [PNG]}), root / "bytes" / "2.parquet")
    images = open_unlabelled(str(root / "bytes"))
    assert images.known_labels(0, 5) == ["a", "\\xff", "1", "2", None]
    assert "1 of 3 parquet files have no column 'label'" in images.notes[0]
    tar(root / "0.tar", samples([-1, 3]))
    tar(root / "1.tar", samples(["dog", "4"]))
    assert open_unlabelled(f"wds:{root}/0.tar").known_labels(0, 2) == [-1, 3]
    assert open_unlabelled(f"wds:{root}/1.tar").known_labels(0, 2) == ["dog", "4"]
    return open_unlabelled(str(root / "0.parquet"))


@situation("embed", "label", "lists")
def _(root: Path) -> Any:
    table(root / "0.parquet", [[0], [1]])
    return open_unlabelled(str(root))


# Masks


def scenes(root: Path, train: bytes = mask(), val: bytes = mask(), classes: str = "ground\nroad\nsky\n") -> Any:
    for part, content in (("train", train), ("val", val)):
        formats.masks_in_parts(root, {part: 10}, content)
    write(root / "classes.txt", classes)
    return open_pixels(root)


for value, (train, val) in {
    "all 255": (mask(), mask([255])),
    "all of numbers that are no class": (mask([7, 9]), mask()),
    "a single class to train on": (mask([1]), mask()),
    "a single class to judge by": (mask(), mask([1])),
    "fewer than a tenth with a class": (mask([0, 1] + [255] * 30), mask()),
}.items():
    SITUATIONS["masks", "pixels", value] = lambda root, train=train, val=val: scenes(root, train, val)  # type: ignore[misc]


@situation("masks", "pixels", "some of numbers that are no class")
def _(root: Path) -> Any:
    from convneur.data.loading import ImageCache
    from convneur.data.semantic.loading import EvalPixels

    source = scenes(root, mask([0, 1, 9, 9]))
    odd = EvalPixels(ImageCache(source.train), source.code, strict=False)[0].unknown_labels
    assert odd == [(source.train.masks.name(0), 32)]  # which the report names
    source.notes.append("named when they are read")
    return source


@situation("masks", "pixels", "0 and 255, of two classes")
def _(root: Path) -> Any:
    return scenes(root, mask([0, 255]), mask([0, 255]), "a\nb\n")


@situation("masks", "file", "without an image")
def _(root: Path) -> Any:
    write(root / "train" / "masks" / "x.png")
    return scenes(root)


@situation("masks", "file", "missing")
def _(root: Path) -> Any:
    write(root / "train" / "images" / "x.png")
    return scenes(root)


@situation("masks", "file", "`a.png` and `a.tif`")
def _(root: Path) -> Any:
    write(root / "train" / "masks" / "0.tif")
    return scenes(root)


@situation("masks", "file", "JPEG alone")
def _(root: Path) -> Any:
    scenes(root)
    for file in (root / "train" / "masks").iterdir():
        file.rename(file.with_suffix(".jpg"))
    return open_pixels(root)


@situation("masks", "folder", "`Images`, `Masks`")
def _(root: Path) -> Any:
    scenes(root)
    for part in ("train", "val"):
        for name in ("images", "masks"):
            (root / part / name).rename(root / part / name.title())
    (root / "train" / "Images" / ".ipynb_checkpoints").mkdir()
    return open_pixels(root)


@situation("`classes.csv`", "text", "BOM, CRLF")
def _(root: Path) -> Any:
    write(root / "classes.csv", "\ufeffname,r,g,b\r\na,0,0,0\r\nb,1,1,1\r\n")
    return scenes(root)


@situation("`classes.csv`", "colour", "of two classes")
def _(root: Path) -> Any:
    write(root / "classes.csv", "name,r,g,b\na,0,0,0\nb,0,0,0\n")
    return scenes(root)


def outcome(opened: Opened, root: Path) -> str:
    try:
        source = opened(root)
    except (ValueError, OSError) as error:
        return "refused" if "\n" not in str(error) and str(root) in str(error) else f"unclear: {error}"
    return "named" if source.notes else "taken"


def test_the_page_has_every_situation_and_no_other():
    page = [row[:3] for heading in ("Folders, tables and shards", "Masks") for row in rows(heading)]
    assert sorted(page) == sorted(SITUATIONS)


@pytest.mark.parametrize(
    "row", [*rows("Folders, tables and shards"), *rows("Masks")], ids=lambda row: ": ".join(row[:3])
)
def test_what_the_page_says_happens(row, tmp_path):
    assert outcome(SITUATIONS[row[:3]], tmp_path) == OUTCOMES[row[3]]
