"""The report of a detector: how precise it is, what it misses, and how long it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from convneur.data.decode import decode_image
from convneur.drawing import drawable
from convneur.explain import figures
from convneur.explain.objects import colours, draw_objects, masks_one_by_one, precision_recall
from convneur.explain.report import Section, unreadable_files, write_report
from convneur.printing import shortened
from convneur.tasks.detection.evaluation import SURE, DetectorEvaluation, Mistakes

SHOWN = 6  # worst images
RIGHT, MISSED, WRONG = "#3ddc84", "#ff4b4b", "#ffb000"
WORDS = {"loss": "training loss", "ap50": "AP50 of boxes", "mask_ap50": "AP50 of masks"}


@dataclass(frozen=True)
class JudgedDetector:
    """A detector, and what it was judged on.

    Attributes:
        name: Of its kind and backbone.
        told: Its evaluation.
        classes: Names.
        category_ids: Their numbers.
        max_pixels: Larger images are not read.
    """

    name: str
    told: DetectorEvaluation
    classes: Sequence[str]
    category_ids: Sequence[int]
    max_pixels: int


def report_detector(
    path: Path,
    title: str,
    judged: JudgedDetector,
    note: str,
    curve: Sequence[Mapping[str, float]] = (),
    unreadable: Mapping[str, str] | None = None,
) -> None:
    """Write the page.

    Args:
        path: Of the file.
        title: Of the page.
        judged: The detector.
        note: The command and versions.
        curve: Metrics after each epoch, if it was just trained.
        unreadable: Files that could not be read in training, and why.
    """
    told = judged.told
    objects = sum(len(told.images.objects[index]) for index in told.indices)
    lead = (
        f"{judged.name} on {len(told.indices):,} held-out images with {objects:,} objects of {len(judged.classes)} "
        f"classes: boxes AP {told.boxes.ap:.3f}, AP50 {told.boxes.ap50:.3f}"
    )
    lead += f"; masks AP {told.masks.ap:.3f}, AP50 {told.masks.ap50:.3f}." if told.masks else "."
    sections = [Section("Numbers", "", table=number_rows(judged))]
    if curve:
        words = {key: label for key, label in WORDS.items() if any(key in row for row in curve)}
        sections.append(Section("Learning curves", "", figures.curves({judged.name: curve}, words)))
    worths = {"boxes": told.boxes} | ({"masks": told.masks} if told.masks else {})
    text = "How much of what was found is right, over how much of what is there was found; mean of the classes."
    sections.append(Section("Precision over recall", text, precision_recall(worths)))
    sections.append(Section("Per class", "The hardest class first.", table=class_rows(judged)))
    worst = [each for each in told.mistakes if len(each)][:SHOWN]
    if worst:
        text = (
            f"The images with most mistakes. Left: what is there, in red what was missed. Right: what was found with a "
            f"score of at least {SURE}, in yellow what is wrong."
        )
        sections.append(Section("Worst misses", text, worst_misses(judged, worst)))
    sections += unreadable_files(dict(unreadable or {}) | told.unreadable)
    write_report(path, title, lead, sections, note)


def number_rows(judged: JudgedDetector) -> list[list[str]]:
    """Table of the whole."""
    told = judged.told
    kinds = [("boxes", told.boxes)] + ([("masks", told.masks)] if told.masks else [])
    rows = [["", *(name for name, _ in kinds)]]
    for attribute, label in (
        ("ap", "AP (IoU 0.50 to 0.95)"),
        ("ap50", "AP50"),
        ("ap75", "AP75"),
        ("small", "AP of small objects (below 32 x 32 px)"),
        ("medium", "AP of medium ones (below 96 x 96 px)"),
        ("large", "AP of large ones"),
    ):
        rows.append([label, *(_number(getattr(worth, attribute)) for _, worth in kinds)])
    low, middle, high = np.quantile(told.seconds, (0.1, 0.5, 0.9)) * 1e3
    time = f"{middle:.0f} ms ({low:.0f} to {high:.0f} from the first to the last tenth)"
    return [*rows, ["time per image, median", time, *[""] * (len(kinds) - 1)]]


def class_rows(judged: JudgedDetector) -> list[list[str]]:
    """Table of the classes that have objects, the hardest first."""
    told = judged.told
    labels = np.concatenate([told.images.objects[index].labels for index in told.indices])
    counts = np.bincount(labels, minlength=len(judged.classes))
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda i: told.boxes.per_class[judged.classes[i]])
    rows = [["class", "objects", "AP of boxes", *(["AP of masks"] if told.masks else [])]]
    for i in order:
        name = judged.classes[i]
        worths = [told.boxes, *([told.masks] if told.masks else [])]
        rows.append([name, str(counts[i]), *(_number(worth.per_class[name]) for worth in worths)])
    return rows


def worst_misses(judged: JudgedDetector, worst: Sequence[Mistakes], side: int = 640) -> Figure:
    """Pairs of pictures: the truth, and what was found."""
    pictures, captions = [], []
    for mistakes in worst:
        truth, found = _pair(judged, mistakes, side)
        pictures += [truth, found]
        name = drawable(Path(judged.told.images.name(mistakes.index)).name)
        count = len(judged.told.images.objects[mistakes.index])
        captions += [f"{name}\n{count} objects, {len(mistakes.missed)} missed", f"\n{len(mistakes.wrong)} wrong"]
    return figures.gallery([_tensor(picture) for picture in pictures], captions)


def _pair(judged: JudgedDetector, mistakes: Mistakes, side: int) -> tuple[Image.Image, Image.Image]:
    images = judged.told.images
    picture = decode_image(images.read(mistakes.index), judged.max_pixels)
    objects = images.objects[mistakes.index]
    names = [shortened(name) for name in judged.classes]
    missed, wrong = set(mistakes.missed), set(mistakes.wrong)
    masks = None
    if judged.told.masks is not None and all(shape is not None for shape in objects.shapes):
        masks = masks_one_by_one(objects.shapes, picture.height, picture.width)
    truth = draw_objects(
        picture,
        torch.from_numpy(objects.boxes),
        [names[label] for label in objects.labels.tolist()],
        [MISSED if number in missed else RIGHT for number in range(len(objects))],
        masks,
        side,
    )
    known = {number: place for place, number in enumerate(judged.category_ids)}
    own = [each for each in judged.told.results if each["image_id"] == images.ids[mistakes.index]]
    sure = [(number, each) for number, each in enumerate(own) if each["score"] >= SURE]
    masks = None
    if judged.told.masks is not None and sure:
        shapes = [each["segmentation"] for _, each in sure]
        masks = masks_one_by_one(shapes, picture.height, picture.width)
    corners = torch.tensor([each["bbox"] for _, each in sure]).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    found = draw_objects(
        picture,
        corners,
        [f"{names[known[each['category_id']]]} {each['score']:.0%}" for _, each in sure],
        [WRONG if number in wrong else RIGHT for number, _ in sure],
        masks,
        side,
    )
    return truth, found


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


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
