"""Annotations as YOLO keeps them: ``images/SPLIT`` and ``labels/SPLIT`` with a text file per image, and ``data.yaml``.

A line of a text file is a class and a box (centre and size, as shares of the image), or a class and the corners of a
polygon.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from convneur.data.decode import MAX_SIDE, SUFFIXES, UnreadableImageError, open_image
from convneur.data.objects.annotations import FARTHEST, ObjectImages, Objects, Shape
from convneur.data.paths import read_text, walk
from convneur.data.yaml_text import UnaliasedLoader, parse_yaml

LARGEST_YAML = 2**20  # bytes
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  # EXIF: how the camera was held; on its side


def read_names(root: Path) -> list[str]:
    """Names of the classes from ``data.yaml``: a list, or a name for each number.

    Raises:
        ValueError: If there are none.
    """
    file = root / "data.yaml"
    content = parse_yaml(read_text(file, LARGEST_YAML), file, UnaliasedLoader) if file.exists() else None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        names = [names[number] for number in sorted(names)] if all(isinstance(n, int) for n in names) else None
    if not names or not isinstance(names, list) or any(isinstance(name, (list, dict, set)) for name in names):
        raise ValueError(f"{file} does not name the classes; write names: [first, second, ...] into it")
    return [str(name) for name in names]


def read_yolo(root: Path, split: str, names: list[str]) -> ObjectImages:
    """Read one split.

    Args:
        root: Folder with ``images`` and ``labels``.
        split: Name of the folders in them.
        names: Of the classes.

    Raises:
        ValueError: If there are no images, or a line is not of this form; with file and line.
    """
    folder = root / "images" / split
    paths = sorted(path for path in walk(folder) if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} has no images; add some (.jpg, .png, .webp, ...)")
    sizes, objects = [], []
    for path in paths:
        height, width = _seen_size(path)
        sizes.append((height, width))
        file = root / "labels" / split / path.relative_to(folder).with_suffix(".txt")
        objects.append(_read(file, height, width, len(names)))
    return ObjectImages([str(path) for path in paths], sizes, objects, list(range(1, len(paths) + 1)))


def _seen_size(path: Path) -> tuple[int, int]:
    """Height and width as the image is decoded later: turned as the camera was held. 0 and 0 if it cannot be read; then
    it is left out where it is decoded, and named."""
    try:
        with open_image(path, MAX_SIDE**2) as image:  # nothing is decoded here, and no limit of the user known
            width, height = image.size
            turned = image.getexif().get(ORIENTATION, 1) in TURNED
    except UnreadableImageError:
        return 0, 0
    return (width, height) if turned else (height, width)


def _read(file: Path, height: int, width: int, classes: int) -> Objects:
    """An image without a file has nothing on it."""
    boxes, labels, areas, shapes = [], [], [], []
    for number, line in enumerate(read_text(file).splitlines() if file.exists() else [], start=1):
        if not line.strip():
            continue
        try:
            label, *values = line.split()
            if not 0 <= int(label) < classes:
                raise ValueError(f"class {label} of {classes}")
            points = np.array([float(value) for value in values])
            if not (np.abs(points) <= FARTHEST).all() or (len(points) == 4 and (points[2:] < 0).any()):
                raise ValueError("a box with numbers that are none, or of negative size")
            if len(points) != 4 and (len(points) < 6 or len(points) % 2):
                raise ValueError(f"{len(points)} numbers after the class, which are neither a box nor a polygon")
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from error
        shape: Shape | None = None
        if len(points) == 4:
            centre, size = points[:2] * (width, height), points[2:] * (width, height)
            box = [*(centre - size / 2), *(centre + size / 2)]
            area = float(size.prod())
        else:
            corners = points.reshape(-1, 2) * (width, height)
            box, shape = [*corners.min(0), *corners.max(0)], [corners.flatten().tolist()]
            x, y = corners.T
            area = float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
        if box[2] <= box[0] or box[3] <= box[1]:
            continue  # nothing to it
        boxes.append(box)
        labels.append(int(label))
        areas.append(area)
        shapes.append(shape)
    return Objects(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        np.zeros(len(labels), np.bool_),
        np.array(areas, np.float32),
        shapes,
    )
