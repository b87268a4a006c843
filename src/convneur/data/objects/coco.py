"""Annotations in COCO's form: one JSON file for many images."""

from __future__ import annotations

import posixpath
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from convneur.data.decode import MAX_SIDE
from convneur.data.objects.annotations import FARTHEST, ObjectImages, Shape
from convneur.data.objects.gathering import Found, LeftOut, gather, listed, look_like_corners, look_like_shares
from convneur.data.objects.masks import read_outline
from convneur.data.paths import LARGEST_FILE, inside, read_json
from convneur.json_files import shown

LISTS = {"images": "image", "annotations": "annotation", "categories": "category"}
LARGEST_ID = 2**63 - 1  # the package that counts keeps them in 64 bits
Record = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class _Image:
    id: int
    file_name: str
    height: int
    width: int


@dataclass(frozen=True)
class _Category:
    id: int
    name: str


@dataclass(frozen=True)
class _Annotation:
    id: int | str
    image_id: int
    category_id: int
    bbox: Sequence[float]  # x, y, width, height
    area: float
    crowd: bool
    segmentation: Any  # see `read_outline`


def read_coco(
    file: Path, folders: Sequence[Path], root: Path, with_masks: bool = False
) -> tuple[ObjectImages, list[str], list[int], list[str]]:
    """Read one file.

    Numbers of categories may have gaps; their order gives the labels. All of the file is checked here: what comes back
    can be learned from. An outline that is none is a matter of ``with_masks``: the box is enough without.

    Args:
        file: In COCO's form.
        folders: Where the images may be; the first that has the first image is taken.
        root: Folder of the data, which no image may be outside of.
        with_masks: Whether outlines are needed. Objects whose outline is around nothing are left out then.

    Returns:
        Images, names and numbers of the classes, and what was left out and why.

    Raises:
        ValueError: If the file does not have this form, an annotation is of an image or a category that is not in it,
            or an outline that is needed cannot be decoded; one line with file and number.
        FileNotFoundError: If an image is not there.
    """
    content = read_json(file, LARGEST_FILE)
    images, records = _parsed(file, content, "images", _image), _parsed(file, content, "annotations", _annotation)
    categories = sorted(_parsed(file, content, "categories", _category), key=lambda category: category.id)
    _once(file, "images with the id", [image.id for image in images])
    _once(file, "images with the file_name", [posixpath.normpath(image.file_name) for image in images])
    _once(file, "categories with the id", [category.id for category in categories])
    _once(file, "categories named", [category.name for category in categories])
    if not images:
        raise ValueError(f"{file} lists no images; give a file with some")
    known = {image.id: image for image in images}
    _refuse_other_forms(file, records, known)
    labels = {category.id: label for label, category in enumerate(categories)}
    left_out, found = LeftOut(file.name), defaultdict(list)
    for record in records:
        if (each := _found(file, record, known, labels, with_masks, left_out)) is not None:
            found[record.image_id].append(each)
    return (
        ObjectImages(
            _paths(file, images, folders, root),
            [(image.height, image.width) for image in images],
            [gather(found[image.id], image.height, image.width, left_out) for image in images],
            list(known),
        ),
        [category.name for category in categories],
        list(labels),
        [*left_out.notes(), *_shared_ids(file, records)],
    )


def _parsed(file: Path, content: Any, name: str, parse: Callable[[Record], T]) -> list[T]:
    """One of the lists of a file."""
    records = content.get(name) if isinstance(content, dict) else None
    if not isinstance(records, list):
        raise ValueError(f"{file} is not in COCO's form: it needs the lists images, annotations and categories")
    parsed = []
    for place, record in enumerate(records, start=1):
        try:
            if not isinstance(record, dict):
                raise ValueError("is no object, that is, names and values in {}")
            parsed.append(parse(record))
        except ValueError as error:
            number = record.get("id") if isinstance(record, dict) else None
            which = shown(number) if isinstance(number, (int, str)) else f"at place {place} of the list"
            raise ValueError(f"{file}: {LISTS[name]} {which} {error}") from error
    return parsed


def _image(record: Record) -> _Image:
    height, width = (_whole(record, side, 1, MAX_SIDE) for side in ("height", "width"))
    return _Image(_id(record, "id"), _text(record, "file_name"), height, width)


def _category(record: Record) -> _Category:
    name = record.get("name")
    if isinstance(name, int) and not isinstance(name, bool):  # digits, for one
        name = str(name)
    return _Category(_id(record, "id"), _text({"name": name}, "name").strip())


def _annotation(record: Record) -> _Annotation:
    number, box = record.get("id"), record.get("bbox")
    if not isinstance(number, str):
        number = _id(record, "id")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)) or box[2] < 0 or box[3] < 0:
        raise ValueError(f"has the box {shown(box)}; give x, y, width and height in pixels, the last two 0 or more")
    area = record.get("area", box[2] * box[3])
    if not _is_number(area, FARTHEST**2) or area < 0:
        raise ValueError(f"has the area {shown(area)}; give a number of pixels")
    crowd = record.get("iscrowd", 0)
    if crowd not in (0, 1, "0", "1"):  # and False and True; text is true in Python whatever it says
        raise ValueError(f"has the iscrowd {shown(crowd)}; give 0 or 1")
    return _Annotation(
        number,
        _id(record, "image_id"),
        _id(record, "category_id"),
        [float(value) for value in box],
        float(area),
        bool(int(crowd)),
        record.get("segmentation"),
    )


def _id(record: Record, name: str) -> int:
    return _whole(record, name, -LARGEST_ID, LARGEST_ID)


def _whole(record: Record, name: str, least: int, most: int) -> int:
    value = record.get(name)
    if isinstance(value, float) and value.is_integer():  # as tables write whole numbers
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        words = f"from {least} to {most}" if least == 1 else "not text"
        raise ValueError(f"{_has(record, name)}; give a whole number, {words}")
    return value


def _text(record: Record, name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{_has(record, name)}; give text")
    return value


def _has(record: Record, name: str) -> str:
    return f"has the {name} {shown(record[name])}" if name in record else f"has no {name}"


def _is_number(value: Any, most: float = FARTHEST) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= most  # nor NaN


def _once(file: Path, what: str, values: Sequence[Any]) -> None:
    (value, count), *_ = [*Counter(values).most_common(1), (None, 0)]
    if count > 1:
        raise ValueError(f"{file} has several {what} {value}; give each one of its own")


def _refuse_other_forms(file: Path, records: Sequence[_Annotation], known: Mapping[int, _Image]) -> None:
    numbers = [value for record in records for value in record.bbox]
    if look_like_shares(numbers):
        raise ValueError(
            f"{file} has boxes with numbers up to {max(numbers):g} only, which look like shares of the image; COCO's "
            "are in pixels: multiply x and width by the image's width, y and height by its height"
        )
    boxed = [record for record in records if record.image_id in known]
    given = np.array([record.bbox for record in boxed], np.float64).reshape(-1, 4)
    images = [known[record.image_id] for record in boxed]
    sizes = np.array([(image.width, image.height) for image in images], np.float64).reshape(-1, 2)
    if look_like_corners(given, np.hstack([given[:, :2], given[:, :2] + given[:, 2:]]), sizes):
        raise ValueError(
            f"{file} has boxes that look like corners x0, y0, x1, y1, such as {shown(boxed[0].bbox)}: as x, y, width "
            "and height, which COCO has, many end far outside of their image; write those, or correct "
            "the sizes of the images"
        )


def _shared_ids(file: Path, records: Sequence[_Annotation]) -> list[str]:
    shared = [str(number) for number, count in Counter(record.id for record in records).items() if count > 1]
    if not shared:
        return []
    return [f"{file.name}: {len(shared)} ids are of several annotations each ({listed(shared)}); all are used"]


def _paths(file: Path, images: Sequence[_Image], folders: Sequence[Path], root: Path) -> list[str]:
    try:
        first = images[0].file_name
        folder = next((place for place in folders if inside(place, first, root).is_file()), folders[0])
        paths = [inside(folder, image.file_name, root) for image in images]
        missing = [path for path in paths if not path.is_file()]
    except ValueError as error:
        raise ValueError(f"{file} lists an image that cannot be used: {error}") from error
    if missing:
        raise FileNotFoundError(
            f"{file} lists {missing[0]}, which is not there ({len(missing)} of {len(images)} are missing)"
        )
    return list(map(str, paths))


def _found(
    file: Path,
    record: _Annotation,
    known: Mapping[int, _Image],
    labels: Mapping[int, int],
    with_masks: bool,
    left_out: LeftOut,
) -> Found | None:
    """An object; None if its outline is needed and goes around nothing."""
    which = f"annotation {record.id}"
    for kind, number, those in (("image", record.image_id, known), ("category", record.category_id, labels)):
        if number not in those:
            raise ValueError(
                f"{file}: {which} is of the {kind} {number}, which is not in the file; add the {kind} or remove the "
                "annotation"
            )
    image, shape = known[record.image_id], None
    try:
        shape = read_outline(record.segmentation, image.height, image.width)
    except ValueError as error:
        if with_masks:
            raise ValueError(
                f"{file}: {which} has an outline that cannot be decoded: {error}; correct or remove the annotation"
            ) from error
    if shape == [] and with_masks:
        left_out.add("objects with an outline around nothing were left out", which)
        return None
    x, y, width, height = record.bbox
    if isinstance(shape, list) and shape and _is_elsewhere(shape, record.bbox):
        left_out.add("objects have an outline that is not where their box is", which)
    return Found(
        which, (x, y, x + width, y + height), labels[record.category_id], record.crowd, record.area, shape or None
    )


def _is_elsewhere(polygons: Shape, box: Sequence[float]) -> bool:
    """Whether the box around an outline and that of its annotation have less than half in common (IoU)."""
    points = np.concatenate([np.array(polygon, np.float64).reshape(-1, 2) for polygon in polygons])
    ends = [points.min(0), points.max(0)]
    own = np.array(box).reshape(2, 2)
    common = (np.minimum(ends[1], own.sum(0)) - np.maximum(ends[0], own[0])).clip(0).prod()
    return bool(common < 0.5 * ((ends[1] - ends[0]).prod() + own[1].prod() - common))
