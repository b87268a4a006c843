"""How good a detector is: how precise, what it misses, and how long it takes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from convneur.data.decode import decode_image
from convneur.files import write_atomic
from convneur.printing import markdown_code, shortened
from convneur.reports import Section, figures
from convneur.reports.drawing import drawable
from convneur.tasks.detection.drawing import draw_objects, masks_one_by_one, precision_recall
from convneur.tasks.detection.evaluation import SURE, Evaluation, Mistakes
from convneur.tasks.detection.metrics import AveragePrecision
from convneur.tasks.results import EvaluationResult, listed_classes

SHOWN = 6  # worst images
RIGHT, MISSED, WRONG = "#3ddc84", "#ff4b4b", "#ffb000"
CARD = """---
library_name: convneur
pipeline_tag: {pipeline}
tags: [object-detection, timm, convneur]
---
# {name}

A detector of {count} classes: {classes}. AP of boxes on its held-out images: {ap:.3f}, AP50 {ap50:.3f}.{masks}{epochs}

```python
import convneur
found = convneur.load("FOLDER").predict("image.jpg")[0]  # .boxes, .labels, .scores
```

`convneur predict IMAGES --model FOLDER` draws what it finds. Made with {command}.
"""


@dataclass(repr=False)
class DetectorEvaluation(EvaluationResult):
    """How good a detector is on its held-out images.

    Attributes:
        name: Of its kind and backbone.
        answers: What it found.
        classes: Names.
        category_ids: Their numbers.
        max_pixels: Larger images are not read.
    """

    name: str
    answers: Evaluation
    classes: Sequence[str]
    category_ids: Sequence[int]
    max_pixels: int

    curve_words: ClassVar[Mapping[str, str]] = {
        "loss": "training loss",
        "ap50": "AP50 of boxes",
        "mask_ap50": "AP50 of masks",
    }

    @property
    def numbers(self) -> dict[str, Any]:
        """Average precision of boxes and masks, and times."""
        answers = self.answers
        return {
            "boxes": _plain(answers.boxes),
            "masks": _plain(answers.masks) if answers.masks else None,
            "ms_per_image": {str(q): float(np.quantile(answers.seconds, q)) * 1e3 for q in (0.1, 0.5, 0.9)},
        }

    def predictions(self) -> Iterator[Mapping[str, Any]]:
        """How many objects there are, were missed, and were found where there are none; detections.json has each."""
        mistakes = {each.index: each for each in self.answers.mistakes}
        for index in self.answers.indices:
            objects = self.answers.images.objects[index]
            yield {
                "file": self.answers.images.name(index),
                "objects": int((~objects.crowd).sum()),
                "missed": len(mistakes[index].missed),
                "wrong": len(mistakes[index].wrong),
            }

    def save_more(self, folder: Path) -> None:
        """All detections, in COCO's form."""
        write_atomic(folder / "detections.json", json.dumps(self.answers.results) + "\n")

    def summary(self) -> str:
        """Average precision."""
        answers = self.answers
        objects = sum(len(answers.images.objects[index]) for index in answers.indices)
        summary = (
            f"{self.name} on {len(answers.indices):,} held-out images with {objects:,} objects of {len(self.classes)} "
            f"classes: boxes AP {answers.boxes.ap:.3f}, AP50 {answers.boxes.ap50:.3f}"
        )
        return summary + (
            f"; masks AP {answers.masks.ap:.3f}, AP50 {answers.masks.ap50:.3f}." if answers.masks else "."
        )

    def rows(self) -> list[list[str]]:
        """Table of the whole."""
        answers = self.answers
        kinds = [("boxes", answers.boxes)] + ([("masks", answers.masks)] if answers.masks else [])
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
        low, middle, high = np.quantile(answers.seconds, (0.1, 0.5, 0.9)) * 1e3
        time = f"{middle:.0f} ms ({low:.0f} to {high:.0f} from the first to the last tenth)"
        return [*rows, ["time per image, median", time, *[""] * (len(kinds) - 1)]]

    def sections(self) -> list[Section]:
        """Precision over recall, classes, and the images with most mistakes."""
        answers = self.answers
        worths = {"boxes": answers.boxes} | ({"masks": answers.masks} if answers.masks else {})
        text = "How much of what was found is right, over how much of what is there was found; mean of the classes."
        sections = [
            Section("Precision over recall", text, precision_recall(worths)),
            Section("Per class", "The hardest class first.", table=self.class_rows()),
        ]
        worst = [each for each in answers.mistakes if len(each)][:SHOWN]
        if worst:
            rows = [["file", "objects", "missed", "wrong"]]
            for each in worst:
                count = str(len(answers.images.objects[each.index]))
                rows.append([answers.images.name(each.index), count, str(len(each.missed)), str(len(each.wrong))])
            text = (
                "The images with most mistakes. Left: what is there, in red what was missed. Right: what was found "
                f"with a score of at least {SURE}, in yellow what is wrong. predictions.csv has all images."
            )
            sections.append(Section("Worst misses", text, worst_misses(self, worst), table=rows))
        return sections

    def class_rows(self) -> list[list[str]]:
        """Table of the classes that have objects, the hardest first."""
        answers = self.answers
        labels = np.concatenate([answers.images.objects[index].labels for index in answers.indices])
        counts = np.bincount(labels, minlength=len(self.classes))
        order = sorted(np.flatnonzero(counts).tolist(), key=lambda i: answers.boxes.per_class[self.classes[i]])
        rows = [["class", "objects", "AP of boxes", *(["AP of masks"] if answers.masks else [])]]
        for i in order:
            name = self.classes[i]
            worths = [answers.boxes, *([answers.masks] if answers.masks else [])]
            rows.append([name, str(counts[i]), *(_number(worth.per_class[name]) for worth in worths)])
        return rows

    def card(self, command: str, epochs: str) -> str:
        """Model card."""
        answers = self.answers
        return CARD.format(
            name=self.name,
            count=len(self.classes),
            classes=listed_classes(self.classes),
            ap=answers.boxes.ap,
            ap50=answers.boxes.ap50,
            masks=f" Of masks: {answers.masks.ap:.3f} and {answers.masks.ap50:.3f}." if answers.masks else "",
            pipeline="image-segmentation" if answers.masks else "object-detection",
            command=markdown_code(command),
            epochs=epochs,
        )


def worst_misses(result: DetectorEvaluation, worst: Sequence[Mistakes], side: int = 640) -> Figure:
    """Pairs of pictures: the truth, and what was found."""
    pictures, captions = [], []
    for mistakes in worst:
        truth, found = _pair(result, mistakes, side)
        pictures += [truth, found]
        name = drawable(Path(result.answers.images.name(mistakes.index)).name)
        count = len(result.answers.images.objects[mistakes.index])
        captions += [f"{name}\n{count} objects, {len(mistakes.missed)} missed", f"\n{len(mistakes.wrong)} wrong"]
    return figures.gallery([_tensor(picture) for picture in pictures], captions)


def _pair(result: DetectorEvaluation, mistakes: Mistakes, side: int) -> tuple[Image.Image, Image.Image]:
    images = result.answers.images
    picture = decode_image(images.read(mistakes.index), result.max_pixels)
    objects = images.objects[mistakes.index]
    names = [shortened(name) for name in result.classes]
    missed, wrong = set(mistakes.missed), set(mistakes.wrong)
    masks = None
    if result.answers.masks is not None and all(shape is not None for shape in objects.shapes):
        masks = masks_one_by_one(objects.shapes, picture.height, picture.width)
    truth = draw_objects(
        picture,
        torch.from_numpy(objects.boxes),
        [names[label] for label in objects.labels.tolist()],
        [MISSED if number in missed else RIGHT for number in range(len(objects))],
        masks,
        side,
    )
    known = {number: place for place, number in enumerate(result.category_ids)}
    own = [each for each in result.answers.results if each["image_id"] == images.ids[mistakes.index]]
    sure = [(number, each) for number, each in enumerate(own) if each["score"] >= SURE]
    masks = None
    if result.answers.masks is not None and sure:
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


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _plain(worth: AveragePrecision) -> dict[str, Any]:
    """Numbers as JSON can hold them, null where there is nothing to find."""
    names = ("ap", "ap50", "ap75", "small", "medium", "large")
    every = {name: getattr(worth, name) for name in names}
    return {name: _or_null(value) for name, value in every.items()} | {
        "per_class": {name: _or_null(value) for name, value in worth.per_class.items()}
    }


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value
