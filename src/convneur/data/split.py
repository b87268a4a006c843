"""What is learned from and what is judged by: parts that the data has, or a share that is held out.

A share is seeded, stratified, and kept, so that every later run judges by the same images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convneur.data.formats.images import Images, Subset
from convneur.data.labels import numbered, shown_names
from convneur.data.paths import class_names
from convneur.data.split_names import Judged, Part, no_part


@dataclass(frozen=True)
class Split:
    """Indices of the images to train on and of the held-out ones, both in ascending order."""

    train: list[int]
    val: list[int]
    share: float
    seed: int


def stratified_split(
    labels: Sequence[int] | npt.NDArray[np.int64], share: float, seed: int, classes: Sequence[str] | None = None
) -> Split:
    """Hold out a share of each class: rounded, but at least one image, and never the last.

    Args:
        labels: Class of each image.
        share: To hold out, between 0 and 1.
        seed: The same seed on the same labels gives the same split.
        classes: Names of the classes, for messages.

    Raises:
        ValueError: If ``share`` is out of range, or a class has a single image.
    """
    if not 0 < share < 1:
        raise ValueError(f"a share of {share} cannot be held out; give one between 0 and 1")
    random = np.random.default_rng(seed)
    held_out: list[int] = []
    numbers = np.asarray(labels)
    for label in np.unique(numbers):
        (members,) = np.nonzero(numbers == label)
        if len(members) < 2:
            name = label if classes is None else repr(classes[label])
            raise ValueError(f"class {name} has a single image, so none can be held out; add images to it")
        count = min(max(1, round(len(members) * share)), len(members) - 1)
        held_out += random.permutation(members)[:count].tolist()
    kept = np.ones(len(numbers), dtype=bool)
    kept[held_out] = False
    return Split(np.nonzero(kept)[0].tolist(), sorted(held_out), share, seed)


def share_of(share: float, of: str, seed: int) -> str:
    """What was held out, in words."""
    return f"{100 * share:g} % of {of}, seed {seed}"


@dataclass(frozen=True)
class Source:
    """Images to train on and held-out ones.

    Attributes:
        train: To learn from.
        val: To judge by.
        classes: Names, in the order of the labels.
        split: How ``val`` was taken from the images, if the source itself did not say.
        notes: What was left out, and why; for the user.
        held_out: Where ``val`` comes from, in words.
    """

    train: Any
    val: Any
    classes: list[str]
    split: Split | None = None
    notes: list[str] = field(default_factory=list)
    held_out: str = ""


@dataclass(frozen=True)
class Wanted:
    """What is asked of a source; see `convneur.data.sources.open_source` for each.

    Attributes:
        val_share: Share to hold out.
        seed: Of that split.
        part: To judge by.
        learns: Whether there must be something to learn from.
    """

    val_share: float | None = 0.2
    seed: int = 0
    part: Judged = "val"
    learns: bool = True


def listed_classes(folder: Path) -> list[str] | None:
    """Names that ``classes.txt`` of a folder has, if there is one."""
    listed = folder / "classes.txt"
    return class_names(listed) if listed.exists() else None


def labelled(
    images: Any,
    labels: Sequence[Any],
    classes: list[str] | None,
    origin: str,
    notes: list[str],
    place: Callable[[int], str] | None = None,
) -> tuple[Images, list[str]]:
    """The images of a table that have a label, and the classes; what was left out goes to ``notes``.

    Arguments and errors are those of `convneur.data.labels.numbered`.
    """
    found = numbered(labels, classes, origin, place)
    notes += found.notes
    images.labels = np.zeros(len(images), np.int64)
    images.labels[found.rows] = found.numbers
    return images if len(found.rows) == len(images) else Subset(images, found.rows), found.classes


def has_part(where: Path | str, there: Mapping[Part, str], wanted: Wanted) -> bool:
    """Whether the part to judge by is there; else what is to learn from is judged by, or a share of it.

    Args:
        where: The data, for messages.
        there: What the parts that there are were called.
        wanted: What is asked of them.

    Raises:
        ValueError: If there is neither, or nothing to learn from.
    """
    if "train" not in there and wanted.learns and wanted.part == "val":
        raise no_part(where, "train", there)
    if wanted.part not in there and ("train" not in there or wanted.part == "test"):
        raise no_part(where, wanted.part, there)
    return wanted.part in there


def take_share(
    labels: Sequence[int] | npt.NDArray[np.int64], there: Mapping[Part, str], wanted: Wanted, classes: Sequence[str]
) -> tuple[Split | None, str]:
    """What to hold out of the images to learn from, and in words; None to judge by all of them."""
    of, share = there["train"], wanted.val_share
    if share is None:
        return None, f"all of {of}"
    kept = f" ({there['test']} is kept for eval --part test)" if "test" in there else ""
    return stratified_split(labels, share, wanted.seed, classes), share_of(share, of, wanted.seed) + kept


def assemble(
    where: str,
    there: Mapping[Part, str],
    read: Callable[[Part, list[str] | None], tuple[Images, list[str]]],
    wanted: Wanted,
    notes: list[str],
) -> Source:
    """A source of parts, by the one rule which of them is judged by.

    Args:
        where: The data, for messages.
        there: What the parts that there are were called.
        read: Reads one with the classes given, or finds them out.
        wanted: What is asked of it.
        notes: For the source.

    Raises:
        ValueError: If the part, or what to learn from, is not there.
    """
    part, learns, own = wanted.part, wanted.learns, has_part(where, there, wanted)
    if "train" not in there:
        images, classes = read(part, None)
        return Source(images, images, classes, None, notes, there[part])
    images, classes = read("train", None)
    if learns:
        need_two(classes, where, "at least two classes")
    if own:
        judged, _ = read(part, classes)
        lacking = [name for number, name in enumerate(classes) if number not in set(np.unique(judged.labels).tolist())]
        if lacking and learns:
            notes.append(
                f"{there[part]} has no images of {len(lacking)} of {len(classes)} classes: {shown_names(lacking)}"
            )
        return Source(images, judged, classes, None, notes, there[part])
    split, held_out = take_share(images.labels, there, wanted, classes)
    if split is None:
        return Source(images, images, classes, None, notes, held_out)
    return Source(Subset(images, split.train), Subset(images, split.val), classes, split, notes, held_out)


def need_two(classes: Sequence[str], origin: str, wanted: str) -> None:
    """Refuse a source with fewer than two classes."""
    if len(classes) < 2:
        found = f"only one class, {classes[0]!r}" if classes else "no class folders"
        raise ValueError(f"{origin} has {found}; a classifier needs {wanted}")
