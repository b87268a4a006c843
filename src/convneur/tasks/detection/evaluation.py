"""Judge a detector on images with known objects."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from convneur.data.loading import PADDING
from convneur.data.objects import ObjectImages, Objects
from convneur.tasks.detection.mask_paste import with_transform
from convneur.tasks.detection.metrics import AveragePrecision, average_precision, coco_results, require_counter

SURE = 0.5  # score from which a detection counts as an answer, and overlap from which it counts as right


@dataclass(frozen=True)
class Mistakes:
    """What is wrong about the answers to one image.

    Attributes:
        index: Of the image in its source.
        missed: Numbers of the objects that no sure answer of their class overlaps by half.
        wrong: Numbers of the sure answers that overlap no object of their class by half, or one that is taken.
    """

    index: int
    missed: list[int]
    wrong: list[int]

    def __len__(self) -> int:
        return len(self.missed) + len(self.wrong)


@dataclass
class Evaluation:
    """Answers of a detector, and what they are worth. Unreadable images are left out.

    Attributes:
        images: Those it was judged on.
        indices: Of the images that could be read.
        results: All detections, in COCO's form.
        boxes: Average precision of the boxes.
        masks: Of the masks, if there are any.
        mistakes: Per image, the worst first.
        seconds: Per image, one after the other, with all that the model does from pixels to boxes and their masks.
        unreadable: Files that could not be read, and why.
    """

    images: ObjectImages
    indices: list[int]
    results: list[dict[str, Any]]
    boxes: AveragePrecision
    masks: AveragePrecision | None
    mistakes: list[Mistakes]
    seconds: list[float]
    unreadable: dict[str, str] = field(default_factory=dict)


def judge(
    images: ObjectImages,
    classes: Sequence[str],
    category_ids: Sequence[int],
    results: Sequence[dict[str, Any]],
    judged: Iterable[int],
    with_masks: bool,
) -> tuple[AveragePrecision, AveragePrecision | None]:
    """Average precision of boxes, and of masks if there are any, on the images with the ids ``judged``.

    Images that could not be read, and those that a check before a run leaves out, count nowhere.
    """
    seen = set(judged)
    truth = images.as_coco(classes, category_ids)
    for key, name in (("images", "id"), ("annotations", "image_id")):
        truth[key] = [each for each in truth[key] if each[name] in seen]
    boxes = average_precision(truth, results)
    return boxes, average_precision(truth, results, "masks") if with_masks else None


def refuse_unknown(boxes: AveragePrecision) -> None:
    """A ValueError if there was nothing to find."""
    if math.isnan(boxes.ap):
        raise ValueError(
            "none of the images to judge by that could be read has an object that counts; mend those that could not be "
            "read, or annotate others"
        )


@torch.inference_mode()
def evaluate_detector(
    model: nn.Module,
    images: ObjectImages,
    classes: Sequence[str],
    category_ids: Sequence[int],
    batches: Iterable[Any],
    device: torch.device,
    with_masks: bool = False,
) -> Evaluation:
    """Ask the model about every image, one at a time.

    Args:
        model: In eval mode; it is moved to the device.
        images: To judge by.
        classes: Their classes.
        category_ids: Numbers of the classes.
        batches: Of `convneur.data.objects.loading.EvalObjects` over ``images``.
        device: To compute on.
        with_masks: Whether masks are judged, too.

    Raises:
        ValueError: If no image can be read, or none of those has anything to find.
    """
    require_counter()
    model = with_transform(model.to(device).eval(), pasting=False)
    indices: list[int] = []
    results: list[dict[str, Any]] = []
    mistakes: list[Mistakes] = []
    seconds: list[float] = []
    unreadable: dict[str, str] = {}
    for batch in batches:
        unreadable |= dict(batch.unreadable)
        for image, index in zip(batch.images, batch.indices.tolist(), strict=True):
            if index == PADDING:
                continue
            start = time.perf_counter()
            found = {name: value.cpu() for name, value in model([image.to(device)])[0].items()}
            seconds.append(time.perf_counter() - start)
            indices.append(index)
            results += coco_results(images.ids[index], found, category_ids, (image.shape[1], image.shape[2]))
            mistakes.append(find_mistakes(index, found, images.objects[index]))
    if not indices:
        raise ValueError("none of the images to judge by could be read; mend or replace them")
    ids = [images.ids[index] for index in indices]
    boxes, masks = judge(images, classes, category_ids, results, ids, with_masks)
    refuse_unknown(boxes)
    mistakes.sort(key=len, reverse=True)
    return Evaluation(images, indices, results, boxes, masks, mistakes, seconds, unreadable)


def find_mistakes(index: int, found: dict[str, Tensor], truth: Objects) -> Mistakes:
    """Objects that were missed, and answers that are wrong; crowds count as neither.

    Args:
        index: Of the image.
        found: ``boxes``, ``labels`` from 1 on, ``scores`` from high to low.
        truth: What is on the image.
    """
    sure = (found["scores"] >= SURE).nonzero().flatten().tolist()
    overlap = box_iou(found["boxes"].float(), torch.from_numpy(truth.boxes)).numpy()
    same = found["labels"].numpy()[:, None] == truth.labels[None] + 1
    overlap = np.where(same, overlap, 0.0)
    open_, wrong = set(np.flatnonzero(~truth.crowd).tolist()), []
    crowds = np.flatnonzero(truth.crowd).tolist()
    for number in sure:
        best = max(open_, key=lambda each: float(overlap[number, each]), default=None)
        if best is not None and overlap[number, best] >= SURE:
            open_.remove(best)
        elif not any(_inside(found["boxes"][number], truth.boxes[crowd]) for crowd in crowds):
            wrong.append(number)
    return Mistakes(index, sorted(open_), wrong)


def _inside(box: Tensor, crowd: Any) -> bool:
    """Whether half of a box lies in that of a crowd."""
    x0, y0, x1, y1 = box.tolist()
    width = max(0.0, min(x1, crowd[2]) - max(x0, crowd[0]))
    height = max(0.0, min(y1, crowd[3]) - max(y0, crowd[1]))
    return bool(width * height >= SURE * (x1 - x0) * (y1 - y0))
