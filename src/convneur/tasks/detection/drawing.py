"""Pictures with what was found drawn on them.

Shape letters: n objects, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image, ImageColor
from torch import Tensor
from torchvision.utils import draw_bounding_boxes

from convneur.data.objects.masks import decode_masks
from convneur.printing import shortened
from convneur.tasks.detection.metrics import AveragePrecision

# Told apart by most people, on dark and on light pictures; classes beyond go round again.
PALETTE = ("#ff4b4b", "#2f9bff", "#3ddc84", "#ffb000", "#c77dff", "#00d5d5", "#ff7ac6", "#a0d911", "#ff8c42", "#8ea6ff")
NAMED = 25  # on pictures with more objects names would cover them
OPACITY = 0.4  # of masks


def draw_objects(
    picture: Image.Image,
    boxes: Tensor,
    captions: Sequence[str],
    colours: Sequence[str],
    masks: Iterable[Tensor] | None = None,
    side: int | None = None,
) -> Image.Image:
    """Draw boxes, masks and what they are.

    Args:
        picture: RGB.
        boxes: (n, 4) corners in pixels.
        captions: n, drawn where there are few enough objects.
        colours: n, as ``#rrggbb``.
        masks: n of (H, W) bool; taken one at a time, so that they may be made as they are needed.
        side: Pixels that the longer side is to have; None to leave the picture as large as it is.
    """
    scale = 1.0 if side is None else side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    shown = picture if side is None else picture.resize(size, Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(shown)).permute(2, 0, 1)
    if not len(boxes):
        return shown
    if masks is not None:
        for mask, name in zip(masks, colours, strict=True):  # torchvision's function blackens where masks overlap
            on = mask
            if side is not None:
                on = F.interpolate(mask[None, None].float(), (size[1], size[0]), mode="nearest")[0, 0] > 0.5
            paint = torch.tensor(ImageColor.getrgb(name), dtype=torch.float32)[:, None]
            pixels[:, on] = torch.lerp(pixels[:, on].float(), paint, OPACITY).round().to(torch.uint8)
    reach = max(size)
    named = len(boxes) <= NAMED
    pixels = draw_bounding_boxes(
        pixels,
        _visible(boxes * scale, size),
        labels=list(captions) if named else None,
        colors=list(colours),
        width=max(1, round(reach / 400)),
        font=_font() if named else None,
        font_size=max(10, round(reach / 45)) if named else None,
    )
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def masks_one_by_one(shapes: Sequence[Any], height: int, width: int) -> Iterator[Tensor]:
    """Polygons or run-length encodings as (H, W) bool, each made when it is asked for."""
    for shape in shapes:
        yield torch.from_numpy(decode_masks([shape], height, width)[0]).bool()


def _visible(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes within the picture, which torchvision can draw: each with its corners in order."""
    width, height = size
    within = boxes.float().clamp(min=0)
    within[:, 0::2].clamp_(max=width - 1)
    within[:, 1::2].clamp_(max=height - 1)
    return torch.cat([within[:, :2], torch.maximum(within[:, 2:], within[:, :2])], 1)


def _font() -> str:
    """matplotlib brings one with most scripts along."""
    return str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def colours(labels: Sequence[int], classes: int) -> list[str]:
    """One for each class (labels count from 1), or, where there is but one class, for each object."""
    numbers = labels if classes > 1 else range(1, len(labels) + 1)
    return [PALETTE[(number - 1) % len(PALETTE)] for number in numbers]


def draw_found(
    picture: Image.Image, results: Sequence[Mapping[str, Any]], classes: Sequence[str], category_ids: Sequence[int]
) -> Image.Image:
    """A picture with detections.

    Args:
        picture: RGB.
        results: Of `convneur.tasks.detection.metrics.coco_results`.
        classes: Names.
        category_ids: Their numbers.
    """
    labels = [category_ids.index(each["category_id"]) for each in results]
    corners = torch.tensor([each["bbox"] for each in results]).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    masks = None
    if results and "segmentation" in results[0]:
        masks = masks_one_by_one([each["segmentation"] for each in results], picture.height, picture.width)
    return draw_objects(
        picture,
        corners,
        [f"{shortened(classes[n])} {each['score']:.0%}" for n, each in zip(labels, results, strict=True)],
        colours([label + 1 for label in labels], len(classes)),
        masks,
    )


def precision_recall(worths: dict[str, AveragePrecision]) -> Figure:
    """Precision over recall, mean of the classes: a panel for boxes, for masks, and so on, by name."""
    figure = Figure(figsize=(4.6 * len(worths), 3.6), layout="constrained")
    recall = np.linspace(0, 1, 101)
    for axis, (name, worth) in zip(figure.subplots(1, len(worths), squeeze=False)[0], worths.items(), strict=True):
        for place, iou in ((0, "IoU 0.50"), (5, "IoU 0.75")):
            axis.plot(recall, _mean(worth.precision[place]), label=iou)
        every = np.stack([_mean(each) for each in worth.precision])
        axis.plot(recall, every.mean(0), label="mean over 0.50 to 0.95", color="#888")
        axis.set(xlabel="recall", ylabel="precision", title=name, xlim=(0, 1), ylim=(0, 1.02))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return figure


def _mean(precision: np.ndarray) -> np.ndarray:
    """Over the classes (101, classes) -> (101,) that have objects."""
    known = ~np.isnan(precision).any(0)
    return precision[:, known].mean(1) if known.any() else np.full(len(precision), np.nan)
