"""Data as a model sees it that knows other classes, or the same in another order: labels by name."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from convneur.data.labels import shown_names
from convneur.data.objects import ObjectSource
from convneur.data.semantic import IGNORED, MaskEncoding, PixelSource
from convneur.data.shards import Shards
from convneur.data.sources import Source

Numbers = npt.NDArray[np.int64]


def numbers_by_name(known: Sequence[str], found: Sequence[str]) -> Numbers:
    """Number that a model has for each class of the data.

    Raises:
        ValueError: If there are classes that it does not know; all are named.
    """
    numbers = {name: number for number, name in enumerate(known)}
    unknown = [name for name in found if name not in numbers]
    if unknown:
        raise ValueError(
            f"the model knows the classes {shown_names(known)} and the data has {', '.join(unknown)}, which it does "
            "not know; remove them, or give data of its classes"
        )
    return np.array([numbers[name] for name in found], np.int64)


def images_of(source: Source, known: Sequence[str]) -> Source:
    """Labelled images to judge a classifier by, with its labels.

    Raises:
        ValueError: As `numbers_by_name`; and for shards, whose labels are read later, if the numbers do not agree.
    """
    numbers = numbers_by_name(known, source.classes)
    if isinstance(source.val, Shards):
        if numbers.tolist() != list(range(len(numbers))):
            raise ValueError("the shards number their classes otherwise than the model; give shards written for it")
        return replace(source, classes=list(known))
    val = copy.copy(source.val)
    val.labels = numbers[val.labels]
    return replace(source, train=val if source.train is source.val else source.train, val=val, classes=list(known))


def judged_classes(source: Source) -> list[str]:
    """Classes that there are images of to judge by; of shards, which are not numbered one by one, all."""
    if isinstance(source.val, Shards):
        return source.classes
    return [source.classes[number] for number in np.unique(source.val.labels).tolist()]


def objects_of(source: ObjectSource, known: Sequence[str]) -> ObjectSource:
    """Images with objects to judge a detector by, with its labels; classes that are not there get free numbers."""
    numbers = numbers_by_name(known, source.classes)
    val = copy.copy(source.val)
    val.objects = [replace(each, labels=numbers[each.labels]) for each in val.objects]
    free = max(source.category_ids, default=0) + 1
    ids = list(range(free, free + len(known)))
    for number, own in zip(numbers.tolist(), source.category_ids, strict=True):
        ids[number] = own
    return replace(source, val=val, classes=list(known), category_ids=ids)


def pixels_of(source: PixelSource, known: Sequence[str]) -> PixelSource:
    """Images with masks to judge a segmentation model by, with its labels."""
    code: MaskEncoding = source.code
    numbers = numbers_by_name(known, code.classes).tolist()
    if numbers == list(range(len(known))):
        return source
    colours = _free_colours(code, len(known))
    colours[numbers] = code.colours
    table: Any = None
    if not code.coloured:
        own = code.table if code.table is not None else {number: number for number in range(len(numbers))}
        table = {value: number if number == IGNORED else numbers[number] for value, number in own.items()}
    return replace(source, code=MaskEncoding(list(known), colours, code.coloured, table))


def _free_colours(code: MaskEncoding, count: int) -> npt.NDArray[np.uint8]:
    """Colours (count, 3) that no class has."""
    taken = {tuple(colour) for colour in np.asarray(code.colours).tolist()}
    shades = ((level, level // 2, 255 - level) for level in range(256))
    more = ((255 - level, 255, level) for level in range(256))
    return np.array([colour for colour in (*shades, *more) if colour not in taken][:count], np.uint8)
