"""Average precision as COCO counts it, for boxes and for masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from convneur.data.objects.masks import NEEDS, encode_masks

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


def coco_results(image_id: int, detections: Mapping[str, Tensor], category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Detections of one image in COCO's form for results.

    Args:
        image_id: Number of the image.
        detections: ``boxes`` (n, 4) corners, ``labels`` (n,) from 1 on, ``scores`` (n,), and, if there are any,
            ``masks`` (n, 1, H, W), the probability of each pixel.
        category_ids: Numbers of the classes.

    Returns:
        A dict for each detection; masks are run-length encoded.
    """
    boxes = detections["boxes"].double().cpu().numpy()
    boxes[:, 2:] -= boxes[:, :2]
    scores, labels = detections["scores"].double().cpu().tolist(), detections["labels"].cpu().tolist()
    found = [
        {"image_id": image_id, "category_id": category_ids[label - 1], "bbox": box, "score": score}
        for box, label, score in zip(boxes.tolist(), labels, scores, strict=True)
    ]
    if "masks" in detections:
        masks = (detections["masks"][:, 0] > 0.5).cpu().numpy()
        for each, code in zip(found, encode_masks(masks), strict=True):
            each["segmentation"] = code
    return found


def average_precision(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], of: Literal["boxes", "masks"] = "boxes"
) -> AveragePrecision:
    """Judge detections.

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
    if not results:
        nothing = 0.0 if any(not each.get("iscrowd", 0) for each in truth["annotations"]) else float("nan")
        empty = np.full((10, 101, len(order)), nothing)
        scores = dict.fromkeys(("ap", "ap50", "ap75", "small", "medium", "large"), nothing)
        return AveragePrecision(**scores, per_class={names[number]: nothing for number in order}, precision=empty)
    kind = "bbox" if of == "boxes" else "segm"
    judge = COCOeval(coco, coco.loadRes([dict(each) for each in results]), kind, print_function=_quiet)
    judge.evaluate()
    judge.accumulate()
    # IoU, recall, class, size of object, most detections; -1 where there is nothing to find
    every = np.asarray(judge.eval["precision"], np.float64)[..., -1]
    every = np.where(every < 0, np.nan, every)
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


def _quiet(*_: Any) -> None:
    """It tells of its progress."""


def _counters() -> tuple[Any, Any]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ImportError(NEEDS) from error
    return COCO, COCOeval_faster
