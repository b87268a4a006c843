"""Average precision as COCO counts it, for boxes and for masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from convneur.data.objects.masks import NEEDS, encode_masks
from convneur.tasks.detection.mask_paste import paste_masks

AREAS = {"all": 0, "small": 1, "medium": 2, "large": 3}


@dataclass(frozen=True)
class AveragePrecision:
    """What detections are worth; all in 0 to 1, NaN where there is nothing to find.

    Attributes:
        ap: Mean over IoU 0.50 to 0.95 and the classes.
        ap50: At IoU 0.50.
        ap75: At IoU 0.75.
        small: Of objects below 32 x 32 pixels.
        medium: Of those below 96 x 96.
        large: Of the others.
        per_class: ``ap`` of each class, by name.
        precision: (10, 101, classes): precision at each IoU and recall 0, 0.01, ... 1.
    """

    ap: float
    ap50: float
    ap75: float
    small: float
    medium: float
    large: float
    per_class: dict[str, float]
    precision: npt.NDArray[np.float64]


def coco_results(
    image_id: int, detections: Mapping[str, Tensor], category_ids: Sequence[int], size: tuple[int, int] | None = None
) -> list[dict[str, Any]]:
    """Detections of one image in COCO's form for results.

    Args:
        image_id: Number of the image.
        detections: ``boxes`` (n, 4) corners, ``labels`` (n,) from 1 on, ``scores`` (n,), and, if there are any,
            ``masks`` (n, 1, H, W), the probability of each pixel; or of each box, see ``size``.
        category_ids: Numbers of the classes.
        size: Height and width of the image, where masks are (n, 1, side, side) over their boxes: they are put onto the
            image one at a time, so that memory does not grow with their number.

    Returns:
        A dict for each detection; masks are run-length encoded.
    """
    boxes = detections["boxes"].cpu().double().numpy().copy()
    boxes[:, 2:] -= boxes[:, :2]
    scores, labels = detections["scores"].cpu().double().tolist(), detections["labels"].cpu().tolist()
    found = [
        {"image_id": image_id, "category_id": category_ids[label - 1], "bbox": box, "score": score}
        for box, label, score in zip(boxes.tolist(), labels, scores, strict=True)
    ]
    if "masks" in detections:
        masks, corners = detections["masks"].cpu(), detections["boxes"].cpu()
        for number, each in enumerate(found):
            mask = masks[number : number + 1]
            if size is not None:
                mask = paste_masks(mask, corners[number : number + 1], size)
            (each["segmentation"],) = encode_masks((mask[:, 0] > 0.5).numpy())
    return found


def average_precision(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], of: Literal["boxes", "masks"] = "boxes"
) -> AveragePrecision:
    """Judge detections.

    COCO counts the 100 surest of an image. Where some image has more detections, as many count: on pictures with
    hundreds of objects nobody could find them all otherwise.

    Args:
        truth: Annotations in COCO's form.
        results: In COCO's form; see `coco_results`.
        of: What must overlap.

    Raises:
        ImportError: If the package that counts is missing.
    """
    COCO, COCOeval = _counters()
    coco = COCO({key: [dict(each) for each in truth[key]] for key in ("images", "annotations", "categories")})
    names = {category["id"]: str(category["name"]) for category in truth["categories"]}
    order = sorted(names)
    # Beside a box, its area would be taken for that of the mask.
    own = [{key: each[key] for key in each if of == "boxes" or key != "bbox"} for each in results]
    if own:
        kind = "bbox" if of == "boxes" else "segm"
        judge = COCOeval(coco, coco.loadRes(own), kind, print_function=_quiet)
        most = max(Counter(each["image_id"] for each in own).values())
        judge.params.maxDets = [1, 10, max(100, most)]
        judge.evaluate()
        judge.accumulate()
        # IoU, recall, class, size of object, most detections; -1 where there is nothing to find
        every = np.asarray(judge.eval["precision"], np.float64)[..., -1]
        every = np.where(every < 0, np.nan, every)
    else:
        every = np.where(_objects(truth, order), 0.0, np.full((10, 101, len(order), len(AREAS)), np.nan))
    whole = every[..., AREAS["all"]]
    return AveragePrecision(
        ap=_mean(whole),
        ap50=_mean(whole[0]),
        ap75=_mean(whole[5]),
        small=_mean(every[..., AREAS["small"]]),
        medium=_mean(every[..., AREAS["medium"]]),
        large=_mean(every[..., AREAS["large"]]),
        per_class={names[number]: _mean(whole[..., label]) for label, number in enumerate(order)},
        precision=whole,
    )


def _mean(values: npt.NDArray[np.float64]) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else float("nan")


def _objects(truth: Mapping[str, Any], order: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Whether there is something to find of each class in each range of sizes."""
    ranges = ((0, np.inf), (0, 32**2), (32**2, 96**2), (96**2, np.inf))
    there = np.zeros((len(order), len(ranges)), np.bool_)
    for each in truth["annotations"]:
        if not each.get("iscrowd", 0):
            row = there[order.index(each["category_id"])]
            row |= [low <= each["area"] <= high for low, high in ranges]
    return there


def require_counter() -> None:
    """An ImportError if the package that counts is missing; better before a training than after its first epoch."""
    _counters()


def _quiet(*_: Any) -> None:
    """It tells of its progress."""


def _counters() -> tuple[Any, Any]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ImportError(NEEDS) from error
    return COCO, COCOeval_faster
