"""Annotations of Pascal VOC: an XML file per image, and lists of the images of each split."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np

from convneur.data.objects.annotations import FARTHEST, ObjectImages, Objects
from convneur.data.paths import LARGEST_TEXT, inside, read_file, read_text


def read_voc(root: Path, split: str, classes: list[str] | None = None) -> tuple[ObjectImages, list[str]]:
    """Read one split of a folder with ``Annotations``, ``JPEGImages`` and ``ImageSets/Main``.

    Args:
        root: The folder.
        split: Name of the list, such as ``train``.
        classes: Names in the order of the labels; those that are found, sorted, if None.

    Returns:
        Images and names of the classes.

    Raises:
        ValueError: If a file is no annotation, or has a class that is not in ``classes``; one line with the file.
        FileNotFoundError: If a file is not there.
    """
    listed = root / "ImageSets" / "Main" / f"{split}.txt"
    if not listed.is_file():
        raise FileNotFoundError(f"{listed} is missing; it lists the images of a split, one name a line")
    names = [line.split()[0] for line in read_text(listed).splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{listed} lists no images")
    read = [_read(root, name, listed) for name in names]
    found = sorted({label for each in read for label in each[2]})
    classes = found if classes is None else classes
    if unknown := [label for label in found if label not in classes]:
        raise ValueError(
            f"{listed} has images of {unknown[0]!r}, which is no class of the training images, or of the model"
        )
    number_of = {name: number for number, name in enumerate(classes)}
    objects = []
    for _, _, labels, boxes, difficult in read:
        kept = np.array(boxes, np.float32).reshape(-1, 4)
        sides = kept[:, 2:] - kept[:, :2]
        objects.append(
            Objects(
                kept,
                np.array([number_of[label] for label in labels], np.int64),
                np.array(difficult, np.bool_),
                sides.prod(1),
                [None] * len(labels),
            )
        )
    paths, sizes = [str(each[0]) for each in read], [each[1] for each in read]
    return ObjectImages(paths, sizes, objects, list(range(1, len(read) + 1))), classes


def _read(
    root: Path, name: str, listed: Path
) -> tuple[Path, tuple[int, int], list[str], list[list[float]], list[bool]]:
    """Image, (height, width), classes, boxes, and which are difficult: VOC does not count those, as COCO its crowds."""
    try:
        file = inside(root / "Annotations", f"{name}.xml", root)
    except ValueError as error:
        raise ValueError(f"{listed} lists an image that cannot be used: {error}") from error
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing; every image of a list has one")
    try:
        tree = ET.fromstring(read_file(file, LARGEST_TEXT))
        image = inside(root / "JPEGImages", tree.findtext("filename") or f"{name}.jpg", root)
        size = (int(_text(tree, "size/height")), int(_text(tree, "size/width")))
        labels, boxes, difficult = [], [], []
        for each in tree.iter("object"):
            corners = [float(_text(each, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
            if (
                not all(abs(corner) <= FARTHEST for corner in corners)
                or corners[2] < corners[0]
                or corners[3] < corners[1]
            ):
                raise ValueError(f"the box {corners} ends before it begins, or has numbers that are none")
            labels.append(_text(each, "name"))
            boxes.append([corners[0] - 1, corners[1] - 1, *corners[2:]])  # VOC counts pixels from 1, the last included
            difficult.append(each.findtext("difficult", "0") == "1")
    except (ET.ParseError, LookupError, ValueError) as error:  # of an encoding that is not known
        raise ValueError(f"{file} is no annotation that can be read: {error}") from error
    if not image.is_file():
        raise FileNotFoundError(f"{image} is missing; {file} is about it")
    return image, size, labels, boxes, difficult


def _text(node: ET.Element, path: str) -> str:
    text = node.findtext(path)
    if text is None:
        raise ValueError(f"it has no {path}")
    return text.strip()
