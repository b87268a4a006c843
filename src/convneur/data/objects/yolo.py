"""Annotations as YOLO keeps them: ``images/SPLIT`` and ``labels/SPLIT`` with a text file per image, and ``data.yaml``;
or ``SPLIT/images`` and ``SPLIT/labels``.

A line of a text file is a class and a box (centre and size, as shares of the image), a class and the corners of a
polygon (oriented boxes, OBB, are polygons of four), or a class, a box and keypoints, of which the box is read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from convneur.data.image_files import find_image_files, unused_notes
from convneur.data.objects.annotations import ObjectImages, Objects, Shape
from convneur.data.objects.gathering import Found, LeftOut, gather, look_like_corners, seen_size
from convneur.data.objects.yolo_labels import LabelFiles
from convneur.data.paths import inside, is_clutter, read_lines, read_text
from convneur.data.split_names import Part, part_of
from convneur.data.yaml_text import TextLoader, parse_yaml
from convneur.json_files import shown

YAML = (".yaml", ".yml")
PARTS: tuple[Part, ...] = ("train", "val", "test")
LARGEST_YAML = 2**20  # bytes
LONGEST_NAME = 200  # letters
LEAST, MOST = -0.5, 1.5  # shares; boxes may stick out of the image, numbers far outside are no shares
Values = npt.NDArray[np.float64]
VISIBILITIES = (0, 1, 2)  # of a keypoint: not labelled, hidden, seen


@dataclass(frozen=True)
class Description:
    """What ``data.yaml`` says.

    Attributes:
        names: Of the classes, by their numbers, in order; numbers may begin at any and have gaps.
        keypoints: Numbers that follow the box of an object with keypoints; 0 where there are none.
    """

    names: dict[int, str]
    keypoints: int = 0

    @property
    def classes(self) -> list[str]:
        """Names in the order of the labels."""
        return list(self.names.values())


def description_of(root: Path) -> Path:
    """``data.yaml``, or the only other YAML file of a folder."""
    others = [path for path in root.iterdir() if path.suffix.lower() in YAML and not is_clutter(path.name)]
    return others[0] if len(others) == 1 else root / "data.yaml"


def described_folders(root: Path, file: Path) -> dict[Part, Path]:
    """Folders of images that a description names and that are there, relative to it or to its ``path``.

    Others are passed over: descriptions that were written elsewhere name places of that machine, and where the folders
    are called as their parts, nothing is lost by it.
    """
    content = _content(file)
    given = content if isinstance(content, dict) else {}
    found: dict[Part, Path] = {}
    for part in PARTS:
        for base in (given.get("path"), "."):
            way = f"{base}/{given.get(part)}"
            if isinstance(base, str) and part in given and part not in found and (folder := _folder(root, way)):
                found[part] = folder
    return found


def _folder(root: Path, way: str) -> Path | None:
    """A folder of images in that of the data, by a path that stands in a file."""
    try:
        real = os.path.realpath(inside(root, way.replace("\\", "/")))
    except ValueError:
        return None
    folder = Path(root, os.path.relpath(real, os.path.realpath(root)))
    if os.path.isdir(folder / "images"):  # noqa: PTH112  of a name that is too long, an error in pathlib
        return folder / "images"
    return folder if os.path.isdir(folder) else None  # noqa: PTH112


def labels_of(root: Path, images: Path) -> Path:
    """Folder of the labels of a folder of images: ``labels`` for the last ``images`` on its way, or the same."""
    steps = list(images.relative_to(root).parts)
    if "images" in steps:
        steps[len(steps) - 1 - steps[::-1].index("images")] = "labels"
    return Path(root, *steps)


def _content(file: Path) -> Any:
    return parse_yaml(read_text(file, LARGEST_YAML), file, TextLoader) if file.exists() else None


def read_description(file: Path) -> Description:
    """Read a description: ``names`` is a list, or has a name for each number; ``kpt_shape`` says that there are
    keypoints.

    All values are taken as they are written, so that ``no``, ``on`` and ``1.0`` are names.

    Raises:
        ValueError: If it names no classes, or one twice, or a folder for a part that is called as another part.
    """
    content = _content(file)
    given = content.get("names") if isinstance(content, dict) else None
    if isinstance(given, list):
        given = {str(number): name for number, name in enumerate(given)}
    given = given if isinstance(given, dict) else {}
    if not given or not all(isinstance(text, str) and text.strip() for pair in given.items() for text in pair):
        raise ValueError(f"{file} does not name the classes; write names: [first, second, ...] into it")
    if long := [name for name in given.values() if len(name) > LONGEST_NAME]:
        raise ValueError(f"{file} names a class with {len(long[0])} letters; give at most {LONGEST_NAME}")
    if odd := [number for number in given if not number.isdecimal() or len(number) > 9]:
        raise ValueError(f"{file} names a class {shown(odd[0])}; give whole numbers, as the label files have them")
    names = {int(number): given[number].strip() for number in sorted(given, key=int)}
    for what, each in (("number", list(map(int, given))), ("name", list(names.values()))):
        if len(set(each)) < len(given):
            twice = next(value for value in each if each.count(value) > 1)
            raise ValueError(f"{file} has several classes of the {what} {twice!r}; give each one of its own")
    _check_parts(file, content)
    return Description(names, _keypoints(file, content))


def _check_parts(file: Path, content: Any) -> None:
    for part, place in ((part, content.get(part)) for part in PARTS):
        steps = PurePosixPath(place.replace("\\", "/")).parts if isinstance(place, str) else ()
        (*_, said) = [None, *filter(None, map(part_of, steps))]
        if said not in (None, part):
            raise ValueError(
                f"{file} says that {part} is {shown(place)}, which is called {said}; here the names of folders say "
                "which part is which: rename the folders, or correct the file"
            )


def _keypoints(file: Path, content: Any) -> int:
    shape = content.get("kpt_shape")
    if not shape:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or shape[1] not in ("2", "3") or not str(shape[0]).isdecimal():
        raise ValueError(f"{file} has the kpt_shape {shown(shape)}; give the number of keypoints, and 2 or 3 for each")
    return int(shape[0][:9]) * int(shape[1])


def read_yolo(root: Path, folder: Path, place: Path, description: Description) -> tuple[ObjectImages, list[str]]:
    """Read one split.

    Args:
        root: Folder with all splits.
        folder: With the images of this one.
        place: With its labels.
        description: Of the classes and keypoints.

    Returns:
        Images, and what was left out and why.

    Raises:
        ValueError: If there are no images, no labels, or a line is not of this form; with file and line.
    """
    files, unused = find_image_files(folder)
    paths, skipped = sorted(map(Path, files)), unused_notes(unused)
    if not paths:
        why = f" ({skipped[0]})" if skipped else ""
        raise ValueError(f"{folder} has no images; add some (.jpg, .png, .webp, ...){why}")
    labels = LabelFiles(root, folder, place)
    found = [(path, labels.of(path)) for path in paths]
    labels.check(paths)
    left_out = LeftOut(str(place.relative_to(root)))
    sizes, objects, boxes = [], [], list[Values]()
    for path, file in found:
        sizes.append(seen_size(path))
        objects.append(_objects(file, *sizes[-1], description, left_out, boxes))
    _refuse_corners(place, np.array(boxes).reshape(-1, 4))
    images = ObjectImages([str(path) for path in paths], sizes, objects, list(range(1, len(paths) + 1)))
    return images, [*skipped, *labels.notes(), *left_out.notes()]


def _refuse_corners(place: Path, boxes: Values) -> None:
    read = np.hstack([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2])
    if look_like_corners(boxes, read, np.ones((len(boxes), 2))):
        raise ValueError(
            f"{place} has boxes that look like corners x0, y0, x1, y1, such as {shown(boxes[0].tolist())}: as centre, "
            "width and height, which YOLO has, many end far outside of their image; write those"
        )


def _objects(
    file: Path | None, height: int, width: int, description: Description, left_out: LeftOut, boxes: list[Values]
) -> Objects:
    """An image without a file has nothing on it; what is on one that cannot be read counts nowhere.

    Boxes are added to ``boxes`` as they stand there.
    """
    found = []
    labels = {number: label for label, number in enumerate(description.names)}
    for number, line in read_lines(file) if file else []:
        try:
            label, values = _numbers(line.split(), labels, description)
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from error
        if len(values) == 4:
            boxes.append(values)
        box, area, shape = _measured(values, height, width)
        if file and height:
            found.append(Found(f"{file.name}, line {number}", box, label, False, area, shape))
    return gather(found, height, width, left_out)


def _numbers(
    words: Sequence[str], labels: Mapping[int, int], description: Description
) -> tuple[int, npt.NDArray[np.float64]]:
    """Label, counted from 0, and shares: four of a box, or more of a polygon."""
    try:
        number, *values = map(float, words)
    except ValueError:
        raise ValueError(
            f"{shown(' '.join(words))} is not all numbers, parted by blanks: that of the class, and shares of the image"
        ) from None
    if number not in labels:
        known = [f"{each} ({name})" for each, name in description.names.items()]
        some = ", ".join(known[:3]) + (f", ... {known[-1]}" if len(known) > 3 else "")
        raise ValueError(f"it is of the class {words[0][:20]}, and data.yaml names {some}")
    if description.keypoints and len(values) > 4:
        if len(values) != 4 + description.keypoints:
            raise ValueError(
                f"{len(values)} numbers after the class; by the kpt_shape in data.yaml there are "
                f"{4 + description.keypoints}, or 4 of a box alone"
            )
        values = values[:4]
    elif _has_keypoints(values):
        raise ValueError("a box and keypoints; write kpt_shape: [keypoints, 3] into data.yaml, and the box is read")
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(
            f"{len(values)} numbers after the class, which are neither a box (4) nor a polygon; "
            "leave out what else a tool adds, such as a confidence"
        )
    if odd := [value for value in values if not LEAST <= value <= MOST]:  # NaN, too
        raise ValueError(
            f"{odd[0]:g} is out of range: numbers are shares of the image, 0 to 1; divide pixels by its width or "
            "height, percent by 100"
        )
    if len(values) == 4 and min(values[2:]) < 0:
        raise ValueError(f"a box of the size {values[2]:g} x {values[3]:g}; give a width and height of 0 or more")
    return labels[int(number)], np.array(values)


def _has_keypoints(values: Sequence[float]) -> bool:
    """Whether numbers can be a box in the image and, within it, keypoints x, y, visibility."""
    if len(values) < 7 or (len(values) - 4) % 3 or any(seen not in VISIBILITIES for seen in values[6::3]):
        return False
    box = np.array(values[:4])
    first, last = box[:2] - box[2:] / 2 - 0.01, box[:2] + box[2:] / 2 + 0.01
    points = np.array([point for *point, seen in zip(values[4::3], values[5::3], values[6::3], strict=True) if seen])
    return bool(
        len(points) and (first >= -0.02).all() and (last <= 1.02).all() and ((points >= first) & (points <= last)).all()
    )


def _measured(values: npt.NDArray[np.float64], height: int, width: int) -> tuple[list[float], float, Shape | None]:
    """Box, area and outline in pixels."""
    if len(values) == 4:
        centre, size = values[:2] * (width, height), values[2:] * (width, height)
        return [*(centre - size / 2), *(centre + size / 2)], float(size.prod()), None
    corners = values.reshape(-1, 2) * (width, height)
    x, y = corners.T
    area = float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
    return [*corners.min(0), *corners.max(0)], area, [corners.flatten().tolist()]
