"""Which images are held out: seeded, stratified, and kept, so that every later run judges by the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


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
