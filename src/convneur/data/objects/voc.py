"""Annotations of Pascal VOC: an XML file per image, and lists of the images of each split."""

from __future__ import annotations

import codecs
import glob
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from convneur.data.decode import MAX_SIDE, SUFFIXES
from convneur.data.objects.annotations import FARTHEST, ObjectImages
from convneur.data.objects.gathering import Found, LeftOut, gather, look_like_shares, seen_size
from convneur.data.paths import LARGEST_TEXT, inside, read_file, read_lines

ONLY_SOME = ("-1", "0", "1")  # behind a name in the list of a class: whether it is on the image
DIFFICULT = {"": False, "0": False, "1": True}


@dataclass(frozen=True)
class _Annotated:
    image: Path
    size: tuple[int, int]  # height, width
    objects: list[_Object]


@dataclass(frozen=True)
class _Object:
    name: str
    given: list[float]  # corners x0 y0 x1 y1, pixels from 1 on, the last included
    difficult: bool  # VOC does not count those, as COCO its crowds

    @property
    def box(self) -> list[float]:
        """The same from 0 on, the last one the first outside."""
        x0, y0, x1, y1 = self.given
        return [x0 - 1, y0 - 1, x1, y1]


def read_voc(root: Path, split: str, classes: list[str] | None = None) -> tuple[ObjectImages, list[str], list[str]]:
    """Read one split of a folder with ``Annotations``, ``JPEGImages`` and ``ImageSets/Main``.

    Args:
        root: The folder.
        split: Name of the list, such as ``train``.
        classes: Names in the order of the labels; those that are found, sorted, if None.

    Returns:
        Images, names of the classes, and what was left out and why.

    Raises:
        ValueError: If a file is no annotation, is about another image than that of its name, or has a class that is not
            in ``classes``; one line with the file.
        FileNotFoundError: If a file is not there.
    """
    listed = root / "ImageSets" / "Main" / f"{split}.txt"
    if not listed.is_file():
        raise FileNotFoundError(f"{listed} is missing; it lists the images of a split, one name a line")
    names = [_name(root, line) for _, line in read_lines(listed)]
    if not names:
        raise ValueError(f"{listed} lists no images")
    read = [_read(root, name, listed) for name in names]
    found = {each.name: name for name, annotated in zip(names, read, strict=True) for each in annotated.objects}
    classes = sorted(found) if classes is None else classes
    if unknown := [label for label in found if label not in classes]:
        raise ValueError(
            f"{root / 'Annotations' / found[unknown[0]]}.xml has a {unknown[0]!r}, which is no class of the training "
            "images, or of the model"
        )
    numbers = [value for annotated in read for each in annotated.objects for value in each.given]
    if look_like_shares(numbers):
        raise ValueError(
            f"{root / 'Annotations'} has boxes with numbers up to {max(numbers):g} only, which look like shares of the "
            "image; VOC's are in pixels: multiply x by the image's width and y by its height"
        )
    number_of, left_out = {name: number for number, name in enumerate(classes)}, LeftOut(f"Annotations ({split})")
    objects = [
        gather(
            [
                Found(
                    f"{name}.xml, object {place}", each.box, number_of[each.name], each.difficult, _area(each.box), None
                )
                for place, each in enumerate(annotated.objects, start=1)
            ],
            *annotated.size,
            left_out,
        )
        for name, annotated in zip(names, read, strict=True)
    ]
    paths, sizes = [str(each.image) for each in read], [each.size for each in read]
    return ObjectImages(paths, sizes, objects, list(range(1, len(read) + 1))), classes, left_out.notes()


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _name(root: Path, line: str) -> str:
    """The name on a line; in lists of a class a number follows it."""
    name, *last = line.rsplit(maxsplit=1)
    whole = not last or last[0] not in ONLY_SOME or (root / "Annotations" / f"{line}.xml").is_file()
    return line if whole else name


def _read(root: Path, name: str, listed: Path) -> _Annotated:
    """What the file of an image says."""
    try:
        file = inside(root / "Annotations", f"{name}.xml", root)
        own = inside(root / "JPEGImages", name, root)
    except ValueError as error:
        raise ValueError(f"{listed} lists an image that cannot be used: {error}") from error
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; every image of a list has one")
    try:
        tree = ET.fromstring(read_file(file, LARGEST_TEXT).removeprefix(codecs.BOM_UTF8).lstrip())
        image = _image(root, own, tree.findtext("filename", "").strip())
        sides = [_whole(tree, f"size/{side}") for side in ("height", "width")]
        objects = [_object(each) for each in tree.iter("object")]
    except (ET.ParseError, LookupError, ValueError) as error:  # of an encoding that is not known
        raise ValueError(f"{file} is no annotation that can be read: {error}") from error
    if not image.is_file():
        raise FileNotFoundError(f"{image} is missing; {file} is about it")
    size = (sides[0], sides[1]) if all(sides) else seen_size(image)  # some tools write 0
    return _Annotated(image, size, objects)


def _image(root: Path, own: Path, named: str) -> Path:
    """The image of an annotation's own name; its ending is that of the name in the file, or of a file that is there."""
    if named:
        place = inside(root / "JPEGImages", named, root)
        plain = PurePosixPath(named.replace("\\", "/"))
        if own.name not in (plain.stem, plain.name):
            raise ValueError(
                f"it says that it is of {named!r}, and its own name is that of {own.name!r}; rename it, or correct its "
                "filename"
            )
        if place.is_file():
            return place
    there = sorted(file for file in own.parent.glob(f"{glob.escape(own.name)}.*") if file.suffix.lower() in SUFFIXES)
    there = [file for file in there if file.stem == own.name]
    if len(there) > 1:
        raise ValueError(f"there are {there[0].name} and {there[1].name}; leave the one that it is of")
    return there[0] if there else own.with_name(f"{own.name}.jpg")


def _object(node: ET.Element) -> _Object:
    x0, y0, x1, y1 = (_number(node, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
    if x1 < x0 or y1 < y0:
        raise ValueError(f"the box {[x0, y0, x1, y1]} ends before it begins")
    difficult = node.findtext("difficult", "0").strip()
    if difficult not in DIFFICULT:
        raise ValueError(f"difficult is {difficult!r}; give 0 or 1")
    return _Object(_text(node, "name"), [x0, y0, x1, y1], DIFFICULT[difficult])


def _text(node: ET.Element, path: str) -> str:
    text = node.findtext(path, "").strip()
    if not text:
        raise ValueError(f"it has no {path}")
    return text


def _number(node: ET.Element, path: str) -> float:
    number = float(_text(node, path))
    if not abs(number) <= FARTHEST:  # nor NaN
        raise ValueError(f"{path} is {number}; give a number of pixels")
    return number


def _whole(node: ET.Element, path: str) -> int:
    number = _number(node, path)
    if not number.is_integer() or not 0 <= number <= MAX_SIDE:
        raise ValueError(f"{path} is {number:g}; give a whole number of pixels, at most {MAX_SIDE}")
    return int(number)
