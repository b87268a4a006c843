"""What is to be found on images: boxes and masks, in one form whatever they were stored as.

Shape letters: n objects of an image, H W pixels of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from convneur.data.formats.images import FileImages

SMALLEST = 1.0  # pixels a side; smaller boxes are not learned from
FARTHEST = 1e9  # pixels from 0 of a box; numbers that are far larger are infinite in single precision
Shape = list[list[float]] | dict[str, Any]  # polygons, or a run-length encoding in either of COCO's forms


@dataclass(frozen=True)
class Objects:
    """What is on one image.

    Attributes:
        boxes: (n, 4) float32, corners x0 y0 x1 y1 in pixels.
        labels: (n,) int64, classes counted from 0.
        crowd: (n,) bool, whether it stands for many; such are not learned from, and finding them is no mistake.
        areas: (n,) float32; COCO sorts objects into small, medium and large by it, and says its own.
        shapes: n masks; None where only the box is known.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    crowd: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float32]
    shapes: Sequence[Shape | None]

    def __len__(self) -> int:
        return len(self.labels)


class ObjectImages(FileImages):
    """Image files and what is on each.

    Args:
        paths: Of the images.
        sizes: (height, width) of each.
        objects: On each.
        ids: Numbers of the images, as detections name them.
    """

    def __init__(
        self,
        paths: Sequence[str],
        sizes: Sequence[tuple[int, int]],
        objects: Sequence[Objects],
        ids: Sequence[int],
    ) -> None:
        super().__init__(paths, [0] * len(paths))
        self.sizes, self.objects, self.ids = list(sizes), list(objects), list(ids)

    def part(self, numbers: Sequence[int]) -> ObjectImages:
        """Some of the images."""
        return ObjectImages(
            [self.name(n) for n in numbers],
            [self.sizes[n] for n in numbers],
            [self.objects[n] for n in numbers],
            [self.ids[n] for n in numbers],
        )

    def check_masks(self, classes: Sequence[str]) -> None:
        """A ValueError that names the first object without a mask, if there is one."""
        lacking = list(self._without_mask())
        if lacking:
            index, label = lacking[0]
            raise ValueError(
                f"{len(lacking)} objects have a box and no mask, the first a {classes[label]!r} on "
                f"{self.name(index)}; give them polygons or masks, "
                "or take convneur train detection, which needs boxes only"
            )

    def _without_mask(self) -> Iterator[tuple[int, int]]:
        """Index of the image and label of objects but crowds."""
        for index, each in enumerate(self.objects):
            for label, shape, crowd in zip(each.labels.tolist(), each.shapes, each.crowd.tolist(), strict=True):
                if shape is None and not crowd:
                    yield index, label

    def as_coco(self, classes: Sequence[str], category_ids: Sequence[int]) -> dict[str, Any]:
        """The annotations in COCO's form, numbered anew from 1, for those who count by it."""
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, (height, width), each in zip(self.ids, self.sizes, self.objects, strict=True):
            images.append({"id": number, "height": height, "width": width})
            for box, label, crowd, area, shape in zip(
                each.boxes.tolist(), each.labels.tolist(), each.crowd.tolist(), each.areas.tolist(), each.shapes,
                strict=True,
            ):  # fmt: skip
                x0, y0, x1, y1 = box
                annotation = {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category_ids[label],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": area,
                    "iscrowd": int(crowd),
                }
                if shape is None and crowd:  # those who count masks ask for one
                    shape = [[x0, y0, x1, y0, x1, y1, x0, y1]]
                annotations.append(annotation if shape is None else annotation | {"segmentation": shape})
        categories = [{"id": number, "name": name} for number, name in zip(category_ids, classes, strict=True)]
        return {"images": images, "annotations": annotations, "categories": categories}


@dataclass(frozen=True)
class ObjectSource:
    """Images to train on and held-out ones.

    Attributes:
        train: To learn from.
        val: To judge by.
        classes: Names, in the order of the labels.
        category_ids: Numbers of the classes in the source, for results in its own form.
        notes: What was left out, and why; for the user.
        held_out: Where ``val`` comes from, in words.
    """

    train: ObjectImages
    val: ObjectImages
    classes: list[str]
    category_ids: list[int]
    notes: list[str] = field(default_factory=list)
    held_out: str = ""
