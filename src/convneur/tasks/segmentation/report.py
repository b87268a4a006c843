"""How good a segmentation model is: what it gets right, what it takes for what, and where it is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image, ImageDraw, ImageFont

from convneur.data.semantic import IGNORED, MaskEncoding
from convneur.data.semantic.masks import ClassMap
from convneur.printing import markdown_code, shortened
from convneur.reports import Section, figures
from convneur.reports.drawing import drawable
from convneur.tasks.results import EvaluationResult, first_of, listed_classes
from convneur.tasks.segmentation.evaluation import Evaluation
from convneur.training.run import RunSummary

SHOWN = 4  # worst images
OPACITY = 0.6  # of classes over a picture
BACKGROUND = "background"
LEGEND, MOST_LEGEND = 12, 240  # pixels of a letter, and the least width of a picture with a legend
CARD = """---
library_name: convneur
pipeline_tag: image-segmentation
tags: [image-segmentation, timm, convneur]
---
# {name}

A class of {count} for every pixel: {classes}. Mean intersection over union on its held-out images: {miou:.3f}.{epochs}

```python
import convneur
marked = convneur.load("FOLDER").predict("image.jpg")[0]  # .mask (H, W), .shares
```

`convneur predict IMAGES --model FOLDER` marks images. Made with {command}.
"""


@dataclass(repr=False)
class SegmenterEvaluation(EvaluationResult):
    """How good a segmentation model is on its held-out images.

    Attributes:
        name: Of its decoder and backbone.
        answers: What it said.
        code: Classes and colours.
        look: Picture, truth (H, W) and answers (H, W) of the image of an index.
        file: Name of the image of an index.
    """

    name: str
    answers: Evaluation
    code: MaskEncoding
    look: Callable[[int], tuple[Image.Image, ClassMap, ClassMap]]
    file: Callable[[int], str]
    classes: Sequence[str] = field(init=False)

    curve_words: ClassVar[Mapping[str, str]] = {
        "loss": "training loss",
        "miou": "held-out mIoU",
        "pixel_accuracy": "held-out pixel accuracy",
    }

    def __post_init__(self) -> None:
        self.classes = self.code.classes

    @property
    def numbers(self) -> dict[str, Any]:
        """Intersection over union, accuracy, boundaries, confusion, and times."""
        answers, scores = self.answers, self.answers.scores
        return {
            "miou": _or_null(scores.miou),
            "pixel_accuracy": _or_null(scores.pixel_accuracy),
            "mean_accuracy": _or_null(scores.mean_accuracy),
            "iou": self._by_class(scores.iou.tolist()),
            "boundary_f": self._by_class(answers.boundary.tolist()),
            "confusion": answers.confusion.tolist(),
            "ms_per_image": {str(q): float(np.quantile(answers.seconds, q)) * 1e3 for q in (0.1, 0.5, 0.9)},
            "unknown_labels": answers.unknown_labels,
        }

    def _by_class(self, values: Sequence[float]) -> dict[str, float | None]:
        return {name: _or_null(value) for name, value in zip(self.classes, values, strict=True)}

    def predictions(self) -> Iterator[Mapping[str, Any]]:
        """The share of the pixels that are right."""
        for index, right in zip(self.answers.indices, self.answers.by_image, strict=True):
            yield {"file": self.file(index), "pixel_accuracy": round(right, 6)}

    def add_summary(self, run: RunSummary) -> None:
        """Training masks may have pixels of no class, too."""
        self.answers.unknown_labels |= run.unknown_labels

    def notes(self) -> list[str]:
        """Lines on what could not be used."""
        return [
            *first_of(self.unreadable, "files could not be used"),
            *first_of(self.answers.unknown_labels, "masks have pixels of no class"),
        ]

    def summary(self) -> str:
        """Intersection over union, and pixels."""
        scores = self.answers.scores
        return (
            f"{self.name} on {self.images:,} held-out images of {len(self.classes)} classes: mIoU "
            f"{scores.miou:.3f}, {scores.pixel_accuracy:.1%} of the pixels are right."
        )

    def rows(self) -> list[list[str]]:
        """Table of the whole."""
        answers, scores = self.answers, self.answers.scores
        boundary = float(answers.boundary.nanmean())
        low, middle, high = np.quantile(answers.seconds, (0.1, 0.5, 0.9)) * 1e3
        return [
            ["", "value"],
            ["mIoU", f"{scores.miou:.4f}"],
            ["pixel accuracy", f"{scores.pixel_accuracy:.2%}"],
            ["mean accuracy of the classes", f"{scores.mean_accuracy:.2%}"],
            [
                "boundary F-score, mean of the classes",
                "none" if math.isnan(boundary) else f"{boundary:.4f}",
            ],
            ["time per image, median", f"{middle:.0f} ms ({low:.0f} to {high:.0f} from the first to the last tenth)"],
        ]

    def sections(self) -> list[Section]:
        """Classes, confusion, worst images, and masks with unknown labels."""
        answers = self.answers
        shares = 100 * answers.confusion / answers.confusion.sum(1, keepdim=True).clamp(min=1)
        worst = [answers.indices[place] for place in answers.worst(SHOWN)]
        files = [["file", "right"]] + [
            [self.file(answers.indices[place]), f"{answers.by_image[place]:.0%}"] for place in answers.worst(SHOWN)
        ]
        sections = [
            Section("Per class", "The hardest class first; pixels are those of the truth.", table=self.class_rows()),
            Section(
                "Confusion matrix",
                "Percent of the pixels of a class (rows) that were given each answer (columns).",
                figures.confusion({self.name: shares.round().long()}, self.classes),
            ),
            Section(
                "Worst images",
                "Those with fewest right pixels: photograph, truth, answers, and in red what is wrong; black counts "
                "nowhere. predictions.csv has all images.",
                side_by_side(self, worst),
                table=files,
            ),
        ]
        if answers.unknown_labels:
            rows = [
                ["file", "pixels"],
                *([name, str(count)] for name, count in sorted(answers.unknown_labels.items())[:100]),
            ]
            text = (
                f"{len(answers.unknown_labels)} masks have numbers or colours of no class; their pixels count nowhere."
            )
            sections.append(Section("Masks with unknown labels", text, table=rows))
        return sections

    def class_rows(self) -> list[list[str]]:
        """Table of the classes that occur, the hardest first."""
        answers = self.answers
        iou = answers.scores.iou.tolist()
        counts = answers.confusion.sum(1)
        order = sorted((i for i in range(len(iou)) if not math.isnan(iou[i])), key=lambda i: iou[i])
        mixed = answers.confusion - torch.diag(answers.confusion.diag())
        rows = [["class", "pixels", "IoU", "boundary F-score", "most often taken for"]]
        for i in order:
            other = self.classes[int(mixed[i].argmax())] if mixed[i].any() else ""
            boundary = float(answers.boundary[i])
            share = counts[i] / counts.sum()
            rows.append(
                [
                    self.classes[i],
                    f"{float(share):.1%}",
                    f"{iou[i]:.3f}",
                    "-" if math.isnan(boundary) else f"{boundary:.3f}",
                    other,
                ]
            )
        return rows

    def card(self, command: str, epochs: str) -> str:
        """Model card."""
        return CARD.format(
            name=self.name,
            count=len(self.classes),
            classes=listed_classes(self.classes),
            miou=self.answers.scores.miou,
            command=markdown_code(command),
            epochs=epochs,
        )


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value


def overlay(picture: Image.Image, labels: ClassMap, code: MaskEncoding, opacity: float = OPACITY) -> Image.Image:
    """Classes (H, W) in their colours over a picture; black where none counts."""
    return Image.blend(picture, code.picture(labels).convert("RGB"), opacity)


def marked(picture: Image.Image, labels: ClassMap, code: MaskEncoding) -> Image.Image:
    """A picture with its classes (H, W) in their colours, and a legend below; a class "background" is not painted."""
    seen = [int(number) for number in np.unique(labels) if number != IGNORED]
    painted = [number for number in seen if code.classes[number].strip().lower() != BACKGROUND]
    shown = picture.copy()
    shown.paste(overlay(picture, labels, code), mask=Image.fromarray(np.isin(labels, painted)))
    font = ImageFont.load_default(LEGEND)
    width, rows, places = max(shown.width, MOST_LEGEND), 0, []
    across = 0
    for number in painted:
        name = shortened(code.classes[number])
        wide = int(font.getlength(name)) + 3 * LEGEND
        if across and across + wide > width:
            across, rows = 0, rows + 1
        places.append((across, rows, number, name))
        across += wide
    if not places:
        return shown
    line = LEGEND + 8
    page = Image.new("RGB", (width, shown.height + (rows + 1) * line), "white")
    page.paste(shown)
    draw = ImageDraw.Draw(page)
    for left, row, number, name in places:
        top = shown.height + row * line + 4
        draw.rectangle((left + 4, top, left + 4 + LEGEND, top + LEGEND), fill=tuple(code.colours[number].tolist()))
        draw.text((left + 10 + LEGEND, top - 1), name, fill="black", font=font)
    return page


def side_by_side(result: SegmenterEvaluation, indices: Sequence[int]) -> Figure:
    """Rows of photograph, truth, answers and errors, with the colours of the classes that are seen."""
    figure = Figure(figsize=(14, 2.9 * len(indices) + 1.2), layout="constrained")
    axes = figure.subplots(len(indices), 4, squeeze=False)
    seen: set[int] = set()
    for row, index in zip(axes, indices, strict=True):
        picture, truth, answers = result.look(index)
        seen |= set(np.unique(truth).tolist()) | set(np.unique(answers).tolist())
        wrong = np.array(picture.convert("L").convert("RGB"))
        wrong[(answers != truth) & (truth != IGNORED)] = (255, 40, 40)
        wrong[truth == IGNORED] = 0
        panels = (
            (drawable(Path(result.file(index)).name), np.array(picture)),
            ("truth", np.array(overlay(picture, truth, result.code))),
            ("answers", np.array(overlay(picture, answers, result.code))),
            (f"{(answers == truth).sum() / max(1, (truth != IGNORED).sum()):.0%} right", wrong),
        )
        for axis, (name, pixels) in zip(row, panels, strict=True):
            axis.imshow(pixels)
            axis.set_title(name, fontsize=9)
            axis.set_axis_off()
    legend(figure, result.code, seen)
    return figure


def legend(figure: Figure, code: MaskEncoding, seen: set[int]) -> None:
    """Colours of the classes that are seen, below a figure; as they look over a picture of middle grey."""
    numbers = sorted(seen - {IGNORED})
    names = [drawable(code.classes[number]) for number in numbers]
    colours = [tuple((OPACITY * code.colours[number].astype(float) + (1 - OPACITY) * 128) / 255) for number in numbers]
    handles = [Patch(color=colour, label=name) for colour, name in zip(colours, names, strict=True)]
    longest = max(map(len, names), default=0)
    columns = min(6, int(figure.get_figwidth() / (0.6 + 0.08 * longest)))  # inches of a letter at that size
    figure.legend(handles=handles, loc="outside lower center", ncols=max(1, columns), fontsize=9, frameon=False)
