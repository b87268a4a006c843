"""Whether there is something to learn from, and to find: counted before a training or an evaluation takes time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convneur.data.labels import FEW
from convneur.data.objects.annotations import SMALLEST, ObjectImages, Objects
from convneur.data.objects.gathering import listed


def check_labelled(
    images: ObjectImages, place: str, classes: Sequence[str], learned: bool, left_out: Sequence[str] = ()
) -> list[str]:
    """Refuse images on which nothing counts.

    Args:
        images: To learn from or to judge by.
        place: File or folder that says what is on them.
        classes: Names, in the order of the labels.
        learned: Whether they are learned from.
        left_out: Notes of what was left out before.

    Returns:
        Notes for the user: few images with objects, classes without any.

    Raises:
        ValueError: If no object counts; one line that says why.
    """
    counted = [_counted(each, learned) for each in images.objects]
    total, labelled = len(images), sum(map(bool, map(len, counted)))
    kind = "images to learn from" if learned else "images to judge by"
    if not labelled:
        why = _why(images, left_out)
        raise ValueError(
            f"{place}: none of the {total} {kind} has an object that counts ({why}); annotate some, and check that the "
            "annotations are those of these images"
        )
    notes = []
    if learned and (small := [n for n, each in enumerate(images.objects) if (~each.crowd).sum() > len(counted[n])]):
        count = sum(int((~images.objects[n].crowd).sum()) - len(counted[n]) for n in small)
        notes.append(
            f"{place}: {count} objects are smaller than a pixel and not learned from, the first on "
            f"{Path(images.name(small[0])).name}"
        )
    if labelled < FEW * total:
        notes.append(
            f"{place}: only {labelled} of {total} {kind} have objects; the others count as images with nothing on them"
        )
    used = set(np.concatenate(counted).tolist())
    if learned and (unused := [repr(name) for label, name in enumerate(classes) if label not in used]):
        notes.append(f"{place}: {len(unused)} of {len(classes)} classes have no object ({listed(unused)})")
    return notes


def _counted(objects: Objects, learned: bool) -> np.ndarray:
    """Labels of the objects that count: crowds do nowhere, boxes below a pixel are not learned from."""
    kept = ~objects.crowd
    if learned:
        kept &= (objects.boxes[:, 2:] - objects.boxes[:, :2] >= SMALLEST).all(1)
    return objects.labels[kept]


def _why(images: ObjectImages, left_out: Sequence[str]) -> str:
    crowds = sum(int(each.crowd.sum()) for each in images.objects)
    total = sum(map(len, images.objects))
    if not total:
        return "; ".join(["there is none", *left_out])
    return f"of {total} objects {crowds} are crowds or difficult, and {total - crowds} are smaller than a pixel"
