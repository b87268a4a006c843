"""Masks as polygons and run-length encodings, COCO's two forms among them, and as pixels.

Shape letters: n masks, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

LONGEST_OUTLINE = 1e7  # pixels around a mask; its encoding takes memory for each
NEEDS = "detection needs the package faster-coco-eval; pip install 'convneur[detection]'"


def _codec() -> Any:
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise ImportError(NEEDS) from error
    return mask


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
