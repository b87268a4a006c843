"""The report of a segmentation model: what it gets right, what it takes for what, and where it is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from convneur.data.semantic import IGNORED, MaskEncoding
from convneur.data.semantic.masks import ClassMap
from convneur.drawing import drawable
from convneur.explain import figures
from convneur.explain.report import Section, unreadable_files, write_report
from convneur.tasks.segmentation.evaluation import SegmenterEvaluation

SHOWN = 4  # worst images
OPACITY = 0.6  # of classes over a picture
WORDS = {"loss": "training loss", "miou": "held-out mIoU", "pixel_accuracy": "held-out pixel accuracy"}


@dataclass(frozen=True)
class JudgedSegmenter:
    """A segmentation model, and what it was judged on.

    Attributes:
        name: Of its decoder and backbone.
        told: Its evaluation.
        code: Classes and colours.
        look: Picture, truth (H, W) and answers (H, W) of the image of an index.
        file: Name of the image of an index.
    """

    name: str
    told: SegmenterEvaluation
    code: MaskEncoding
    look: Callable[[int], tuple[Image.Image, ClassMap, ClassMap]]
    file: Callable[[int], str]


def report_segmenter(
    path: Path,
    title: str,
    judged: JudgedSegmenter,
    note: str,
    curve: Sequence[Mapping[str, float]] = (),
    unreadable: Mapping[str, str] | None = None,
) -> None:
    """Write the page.

    Args:
        path: Of the file.
        title: Of the page.
        judged: The model.
        note: The command and versions.
        curve: Metrics after each epoch, if it was just trained.
        unreadable: Files that could not be used in training, and why.
    """
    told, scores = judged.told, judged.told.scores
    lead = (
        f"{judged.name} on {len(told.indices):,} held-out images of {len(judged.code.classes)} classes: mIoU "
        f"{scores.miou:.3f}, {scores.pixel_accuracy:.1%} of the pixels are right."
    )
    sections = [Section("Numbers", "", table=number_rows(judged))]
    if curve:
        sections.append(Section("Learning curves", "", figures.curves({judged.name: curve}, WORDS)))
    sections.append(
        Section("Per class", "The hardest class first; pixels are those of the truth.", table=class_rows(judged))
    )
    text = "Percent of the pixels of a class (rows) that were given each answer (columns)."
    rows = 100 * told.confusion / told.confusion.sum(1, keepdim=True).clamp(min=1)
    sections.append(
        Section("Confusion matrix", text, figures.confusion({judged.name: rows.round().long()}, judged.code.classes))
    )
    text = "Those with fewest right pixels: photograph, truth, answers, and in red what is wrong; black counts nowhere."
    worst = [told.indices[place] for place in told.worst(SHOWN)]
    sections.append(Section("Worst images", text, side_by_side(judged, worst)))
    sections += unreadable_files(dict(unreadable or {}) | told.unreadable)
    if told.unknown_labels:
        rows_ = [["file", "pixels"], *([name, str(count)] for name, count in sorted(told.unknown_labels.items())[:100])]
        text = f"{len(told.unknown_labels)} masks have numbers or colours of no class; their pixels count nowhere."
        sections.append(Section("Odd masks", text, table=rows_))
    write_report(path, title, lead, sections, note)


def number_rows(judged: JudgedSegmenter) -> list[list[str]]:
    """Table of the whole."""
    told, scores = judged.told, judged.told.scores
    boundary = float(told.boundary.nanmean())
    low, middle, high = np.quantile(told.seconds, (0.1, 0.5, 0.9)) * 1e3
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


def class_rows(judged: JudgedSegmenter) -> list[list[str]]:
    """Table of the classes that occur, the hardest first."""
    told = judged.told
    iou = told.scores.iou.tolist()
    counts = told.confusion.sum(1)
    order = sorted((i for i in range(len(iou)) if not math.isnan(iou[i])), key=lambda i: iou[i])
    mixed = told.confusion - torch.diag(told.confusion.diag())
    rows = [["class", "pixels", "IoU", "boundary F-score", "most often taken for"]]
    for i in order:
        other = judged.code.classes[int(mixed[i].argmax())] if mixed[i].any() else ""
        boundary = float(told.boundary[i])
        share = counts[i] / counts.sum()
        rows.append(
            [
                judged.code.classes[i],
                f"{float(share):.1%}",
                f"{iou[i]:.3f}",
                "-" if math.isnan(boundary) else f"{boundary:.3f}",
                other,
            ]
        )
    return rows


def overlay(picture: Image.Image, labels: ClassMap, code: MaskEncoding, opacity: float = OPACITY) -> Image.Image:
    """Classes (H, W) in their colours over a picture; black where none counts."""
    return Image.blend(picture, code.picture(labels).convert("RGB"), opacity)


def side_by_side(judged: JudgedSegmenter, indices: Sequence[int]) -> Figure:
    """Rows of photograph, truth, answers and errors, with the colours of the classes that are seen."""
    figure = Figure(figsize=(14, 2.9 * len(indices) + 1.2), layout="constrained")
    axes = figure.subplots(len(indices), 4, squeeze=False)
    seen: set[int] = set()
    for row, index in zip(axes, indices, strict=True):
        picture, truth, answers = judged.look(index)
        seen |= set(np.unique(truth).tolist()) | set(np.unique(answers).tolist())
        wrong = np.array(picture.convert("L").convert("RGB"))
        wrong[(answers != truth) & (truth != IGNORED)] = (255, 40, 40)
        wrong[truth == IGNORED] = 0
        panels = (
            (drawable(Path(judged.file(index)).name), np.array(picture)),
            ("truth", np.array(overlay(picture, truth, judged.code))),
            ("answers", np.array(overlay(picture, answers, judged.code))),
            (f"{(answers == truth).sum() / max(1, (truth != IGNORED).sum()):.0%} right", wrong),
        )
        for axis, (name, pixels) in zip(row, panels, strict=True):
            axis.imshow(pixels)
            axis.set_title(name, fontsize=9)
            axis.set_axis_off()
    legend(figure, judged.code, seen)
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
