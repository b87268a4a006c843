"""Annotations in COCO's form: one JSON file for many images."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convneur.data.objects.annotations import FARTHEST, ObjectImages, Objects, Shape
from convneur.data.paths import LARGEST_FILE, inside, read_json


def read_coco(file: Path, folders: Sequence[Path], root: Path) -> tuple[ObjectImages, list[str], list[int], list[str]]:
    """Read one file.

    Numbers of categories may have gaps; their order gives the labels. Polygons of fewer than three points are left out,
    and objects of which nothing remains.

    Args:
        file: In COCO's form.
        folders: Where the images may be; the first that has the first image is taken.
        root: Folder of the data, which no image may be outside of.

    Returns:
        Images, names and numbers of the classes, and what was left out and why.

    Raises:
        ValueError: If the file does not have this form, or an annotation is of an image or a category that is not in
            it; one line with file and number.
        FileNotFoundError: If an image is not there.
    """
    content = read_json(file, LARGEST_FILE)
    try:
        records, images = content["annotations"], content["images"]
        categories = sorted(content["categories"], key=lambda category: category["id"])
        known = {
            _whole(image["id"]): (str(image["file_name"]), _whole(image["height"]), _whole(image["width"]))
            for image in images
        }
        names, numbers = [str(c["name"]) for c in categories], [_whole(c["id"]) for c in categories]
        if not isinstance(records, list) or not all(isinstance(each, dict) for each in records):
            raise TypeError("annotations are not a list of objects")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{file} is not in COCO's form ({type(error).__name__}: {error}); it needs images (id, file_name, height, "
            "width), annotations and categories (id, name)"
        ) from error
    if twice_named := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{file} has several categories named {twice_named[0]}; give each a name of its own")
    if twice_numbered := [number for number, count in Counter(numbers).items() if count > 1]:
        raise ValueError(f"{file} has several categories with the id {twice_numbered[0]}; give each one of its own")
    if not known:
        raise ValueError(f"{file} lists no images; give a file with some")
    if len(known) < len(images):
        twice = Counter(image["id"] for image in images).most_common(1)[0][0]
        raise ValueError(f"{file} has several images with the id {twice}; give each a number of its own")
    first = next(iter(known.values()))[0]
    try:
        folder = next((place for place in folders if inside(place, first, root).is_file()), folders[0])
        paths = [inside(folder, name, root) for name, _, _ in known.values()]
    except ValueError as error:
        raise ValueError(f"{file} lists an image that cannot be used: {error}") from error
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{file} lists {missing[0]}, which is not there ({len(missing)} of {len(known)} are missing)"
        )
    labels = {number: label for label, number in enumerate(numbers)}
    found: dict[int, list[tuple[list[float], int, bool, float, Shape | None]]] = defaultdict(list)
    left_out: list[Any] = []
    for record in records:
        each = _checked(file, record, known, labels)
        if each is None:
            left_out.append(record.get("id"))
        else:
            found[record["image_id"]].append(each)
    notes = []
    if left_out:
        notes.append(
            f"{file.name}: {len(left_out)} annotations without an outline of at least three points or a box were left "
            f"out, the first has the id {left_out[0]}"
        )
    objects = [_objects(found[number]) for number in known]
    sizes = [(int(height), int(width)) for _, height, width in known.values()]
    return ObjectImages(list(map(str, paths)), sizes, objects, list(known)), names, numbers, notes


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _checked(
    file: Path, record: Mapping[str, Any], known: Mapping[int, Any], labels: Mapping[int, int]
) -> tuple[list[float], int, bool, float, Shape | None] | None:
    """Box, label, whether it is a crowd, area and mask of an annotation; None if there is nothing to it."""
    try:
        number, image, category = record["id"], _whole(record["image_id"]), _whole(record["category_id"])
        x, y, width, height = (float(value) for value in record["bbox"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{file}: annotation {record.get('id', record)} lacks something ({type(error).__name__}: {error}); it "
            "needs id, image_id, category_id and bbox (x, y, width, height)"
        ) from error
    if image not in known:
        raise ValueError(
            f"{file}: annotation {number} is of the image {image}, which is not in the file; add the image or remove "
            "the annotation"
        )
    if category not in labels:
        raise ValueError(
            f"{file}: annotation {number} is of the category {category}, which is not in the file; add the category or "
            "remove the annotation"
        )
    if not all(abs(value) <= FARTHEST for value in (x, y, width, height)) or width < 0 or height < 0:
        raise ValueError(
            f"{file}: annotation {number} has the box {record['bbox']}; give numbers of pixels, "
            "width and height 0 or more"
        )
    shape = record.get("segmentation") or None
    try:
        if isinstance(shape, list):
            shape = [polygon for polygon in shape if len(polygon) >= 6 and len(polygon) % 2 == 0] or None
            if shape is None:
                return None
        elif shape is not None and (tuple(shape["size"]) != known[image][1:] or not shape["counts"]):
            raise ValueError(f"its mask has the size {shape['size']} and the image {list(known[image][1:])}")
        area = float(record.get("area", width * height))
        if not abs(area) <= FARTHEST**2:
            raise ValueError(f"its area is {area}")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{file}: annotation {number} has a segmentation or an area that cannot be read ({error}); give lists of "
            "x, y, x, y, ... or a run-length encoding of the image's size"
        ) from error
    if width * height == 0:
        return None
    return [x, y, x + width, y + height], labels[category], bool(record.get("iscrowd", 0)), area, shape


def _objects(found: Sequence[tuple[list[float], int, bool, float, Shape | None]]) -> Objects:
    boxes, labels, crowd, areas, shapes = zip(*found, strict=True) if found else ((), (), (), (), ())
    return Objects(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        np.array(crowd, np.bool_),
        np.array(areas, np.float32),
        list(shapes),
    )
