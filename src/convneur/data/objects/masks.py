"""Masks as polygons and run-length encodings, COCO's two forms among them, and as pixels.

Shape letters: n masks, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from convneur.data.objects.annotations import FARTHEST, Shape
from convneur.json_files import shown

LONGEST_OUTLINE = 1e7  # pixels around a mask; its encoding takes memory for each
LONGEST_RUN = 8  # letters of one number in the text of an encoding: 40 bits
NEEDS = "detection needs the package faster-coco-eval; pip install 'convneur[detection]'"


def _codec() -> Any:
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise ImportError(NEEDS) from error
    return mask


def read_outline(value: Any, height: int, width: int) -> Shape | None:
    """The outline of an annotation, checked so that `decode_masks` can decode it.

    Args:
        value: ``segmentation`` as JSON has it: polygons x, y, x, y, ...; a run-length encoding in either of COCO's
            forms, or a list with one.
        height: H of its image.
        width: W.

    Returns:
        A shape; an empty list if it goes around nothing on the image; None if there is no outline.

    Raises:
        ValueError: If it cannot be decoded; one line that says why.
    """
    if value is None or value in ([], [[]], {}):
        return None
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        (value,) = value
    if isinstance(value, dict):
        return _checked_encoding(value, height, width)
    if not isinstance(value, list) or not all(isinstance(each, list) for each in value):
        raise ValueError(f"{shown(value)} is neither polygons, lists of x, y, x, y, ..., nor one run-length encoding")
    polygons = [_checked_polygon(each) for each in value if each]
    if len(polygons) > 1:
        _check_outlines(polygons)
    return [polygon for polygon in polygons if _is_around_something(polygon, height, width)]


def _is_around_something(polygon: list[float], height: int, width: int) -> bool:
    """Whether it has three points, an area, and a part on the image."""
    x, y = np.array(polygon, np.float64).reshape(-1, 2).T
    area = abs((x - x[0]) @ np.roll(y, -1) - np.roll(x - x[0], -1) @ y)
    return bool(len(x) > 2 and area and x.max() > 0 and y.max() > 0 and x.min() < width and y.min() < height)


def _checked_polygon(polygon: list[Any]) -> list[float]:
    """x, y, x, y, ... of a polygon."""
    try:
        numbers = np.array(polygon)
    except ValueError:  # some are lists
        numbers = np.array(None)
    if numbers.dtype.kind not in "if" or numbers.ndim != 1 or len(numbers) % 2:
        raise ValueError(f"{shown(polygon)} is no list of numbers x, y, x, y, ...")
    if not (farthest := float(np.abs(numbers.astype(np.float64)).max())) <= FARTHEST:  # nor NaN
        raise ValueError(f"{shown(polygon)} has a number that is none, or too large")
    if farthest * 2 * len(polygon) > LONGEST_OUTLINE:
        _check_outlines([polygon])
    return polygon


def _checked_encoding(code: dict[str, Any], height: int, width: int) -> Shape:
    """The encoding; an empty list if it has no pixel."""
    size, counts = code.get("size"), code.get("counts")
    if size != [height, width]:
        raise ValueError(f"its size is {shown(size)}, and its image has [{height}, {width}], height and width")
    if isinstance(counts, str):
        runs = _runs_of_text(counts)
    else:
        try:
            runs = np.array(counts if isinstance(counts, list) else None)
        except ValueError:  # some are lists
            runs = np.array(None)
    pixels = height * width
    if runs.ndim != 1 or runs.dtype.kind != "i":
        raise ValueError(f"its counts {shown(counts)} are no lengths of runs")
    if not ((runs >= 0) & (runs <= pixels)).all() or int(runs.sum()) != pixels:
        raise ValueError(f"its counts {shown(counts)} do not add up to the {pixels} pixels of its image")
    return {"size": [height, width], "counts": counts} if runs[1::2].any() else []


def _runs_of_text(text: str) -> npt.NDArray[np.int64]:
    """Lengths of the runs that COCO's text stands for: five bits a letter, the sixth for more to come, the difference
    to the run before the last from the fourth on (``rleFrString`` of pycocotools)."""
    letters = np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(letters & 32 == 0)
    starts = np.concatenate([[0], ends + 1])[:-1]
    lengths = ends - starts + 1
    whole = len(ends) and ends[-1] == len(letters) - 1 and (letters >= 0).all() and (letters < 64).all()
    if not whole or lengths.max() > LONGEST_RUN:
        raise ValueError(f"{shown(text)} is no run-length encoding")
    places = np.arange(len(letters)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((letters & 31) << 5 * places, starts)
    runs -= np.where(letters[ends] & 16, np.int64(1) << 5 * lengths, 0)
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs


def decode_masks(shapes: Sequence[Any], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Pixels of masks.

    Args:
        shapes: Each a list of polygons, or a run-length encoding with ``counts`` as numbers or as text.
        height: H.
        width: W.

    Returns:
        (n, H, W), 0 and 1.

    Raises:
        ValueError: If an encoding is of another size or none, or an outline is too long.
    """
    try:
        return _decode(_codec(), shapes, height, width)
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:  # of damaged encodings
        raise ValueError(f"a mask that cannot be decoded ({' '.join(str(error).split()) or 'no memory'})") from error


def _decode(codec: Any, shapes: Sequence[Any], height: int, width: int) -> npt.NDArray[np.uint8]:
    codes = []
    for shape in shapes:
        if isinstance(shape, dict) and list(shape["size"]) != [height, width]:
            raise ValueError(f"a mask of {shape['size'][0]} x {shape['size'][1]} px on an image of {height} x {width}")
        if isinstance(shape, dict) and not isinstance(shape["counts"], list):
            counts = shape["counts"]
            codes.append({"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts})
        else:
            if isinstance(shape, list):
                _check_outlines(shape)
            made = codec.frPyObjects(shape, height, width)
            codes.append(codec.merge(made) if isinstance(made, list) else made)
    if not codes:
        return np.zeros((0, height, width), np.uint8)
    return np.ascontiguousarray(codec.decode(codes).transpose(2, 0, 1))


def _check_outlines(polygons: Sequence[Sequence[float]]) -> None:
    around = 0.0
    for polygon in polygons:
        points = np.asarray(polygon, np.float64).reshape(-1, 2)
        around += float(np.abs(points - np.roll(points, 1, axis=0)).sum())
    if not around <= LONGEST_OUTLINE:  # nor NaN
        raise ValueError(f"an outline of {around:g} px; it may have {LONGEST_OUTLINE:g}")


def encode_masks(masks: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Run-length encodings of masks (n, H, W), with ``counts`` as text, which JSON can hold."""
    codec = _codec()
    codes = [codec.frPyObjects(_runs(mask), *mask.shape) for mask in masks]
    return [
        {"size": list(code["size"]), "counts": c.decode() if isinstance(c := code["counts"], bytes) else c}
        for code in codes
    ]


def _runs(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Lengths of the runs of 0, 1, 0, ... down the columns; only columns that hold something are looked at."""
    height, width = mask.shape
    columns = np.flatnonzero(mask.any(0))
    if not len(columns):
        return {"size": [height, width], "counts": [height * width]}
    first, last = int(columns[0]), int(columns[-1]) + 1
    pixels = np.concatenate([[False], mask[:, first:last].T.ravel(), [False]])
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + first * height
    lengths = np.diff(changes, prepend=0, append=height * width).tolist()
    return {"size": [height, width], "counts": lengths if lengths[-1] else lengths[:-1]}
