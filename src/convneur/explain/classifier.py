"""The report of a classifier: what it gets right, what it gets wrong, how sure it is, and where it looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convneur.drawing import drawable
from convneur.explain import figures
from convneur.explain.gates import gate_maps
from convneur.explain.report import Section, unreadable_files, write_report
from convneur.models import ConvNeur
from convneur.tasks.evaluation import Evaluation

SHOWN = 12  # worst mistakes
WORDS = {"loss": "training loss", "accuracy": "held-out accuracy", "val_loss": "held-out loss"}


@dataclass(frozen=True)
class Judged:
    """A classifier, and what it was judged on.

    Attributes:
        name: Of the model.
        model: In eval mode.
        answers: Its evaluation.
        classes: Names.
        look: Returns the image of an index of the evaluation: as a person sees it, RGB (3, H, W) in [0, 1], and as the
            model takes it (C, H, W). None if single images cannot be had.
        resolutions: Accuracy by image size, if it was measured.
    """

    name: str
    model: nn.Module
    answers: Evaluation
    classes: Sequence[str]
    look: Callable[[int], tuple[Tensor, Tensor]] | None
    resolutions: Mapping[int, float]


def report_classifier(
    path: Path,
    title: str,
    judged: Judged,
    note: str,
    curve: Sequence[Mapping[str, float]] = (),
    unreadable: Mapping[str, str] | None = None,
) -> None:
    """Write the page.

    Args:
        path: Of the file.
        title: Of the page.
        judged: The classifier.
        note: The command and versions.
        curve: Metrics after each epoch, if it was just trained.
        unreadable: Files that could not be read in training, and why.
    """
    told = judged.answers
    lead = (
        f"{judged.name} on {len(told.labels):,} held-out images of {len(judged.classes)} classes: "
        f"top-1 {told.top1:.1%}, top-5 {told.top5:.1%}, calibration error {told.calibration_error:.3f}."
    )
    sections = [Section("Numbers", "", table=number_rows(judged))]
    if curve:
        sections.append(Section("Learning curves", "", figures.curves({judged.name: curve}, WORDS)))
    sections.append(
        Section("Confusion matrix", "Rows are the truth, columns the answers.", _confusion(judged)),
    )
    sections.append(
        Section(
            "Per class",
            "Share of each class that was named rightly, the hardest class first.",
            table=class_rows(judged),
        )
    )
    sections.append(
        Section(
            "Calibration",
            "How often an answer is right, over how sure it was. On the diagonal confidence means what it says.",
            figures.reliability(*told.reliability()),
        )
    )
    sections += _pictures(judged)
    sections += unreadable_files(dict(unreadable or {}) | told.unreadable)
    write_report(path, title, lead, sections, note)


def number_rows(judged: Judged) -> list[list[str]]:
    """Table of the whole."""
    told = judged.answers
    rows = [
        ["", "value"],
        ["top-1 accuracy", f"{told.top1:.2%}"],
        ["top-5 accuracy", f"{told.top5:.2%}"],
        ["cross-entropy", f"{told.loss:.4f}"],
        ["calibration error (ECE)", f"{told.calibration_error:.4f}"],
    ]
    return rows + [[f"top-1 at {size} px", f"{accuracy:.2%}"] for size, accuracy in judged.resolutions.items()]


def class_rows(judged: Judged) -> list[list[str]]:
    """Table of the classes that have images, the hardest first."""
    shares, counts = judged.answers.per_class(), judged.answers.confusion.sum(1)
    order = sorted((i for i in range(len(shares)) if counts[i]), key=lambda i: float(shares[i]))
    mixed = judged.answers.confusion - torch.diag(judged.answers.confusion.diag())
    rows = [["class", "images", "right", "most often taken for"]]
    for i in order:
        other = judged.classes[int(mixed[i].argmax())] if mixed[i].any() else ""
        rows.append([judged.classes[i], str(int(counts[i])), f"{float(shares[i]):.1%}", other])
    return rows


def _confusion(judged: Judged) -> Any:
    return figures.confusion({judged.name: judged.answers.confusion}, judged.classes)


def _pictures(judged: Judged) -> list[Section]:
    told, sections = judged.answers, list[Section]()
    if judged.look is None:
        return sections
    worst = told.worst_mistakes(SHOWN)
    if len(worst):
        names = [drawable(name) for name in judged.classes]
        captions = [
            f"{names[int(told.labels[i])]}\nsaid {names[int(told.answers[i])]}, {float(told.confidences[i]):.0%}"
            for i in worst
        ]
        pictures = [judged.look(int(told.indices[i]))[0] for i in worst]
        text = "Wrong answers that were given with most confidence: above what it is, below what was said."
        sections.append(Section("Worst mistakes", text, figures.gallery(pictures, captions)))
    if isinstance(judged.model, ConvNeur) and judged.model.has_gates:
        index = int(told.indices[0])
        model = judged.model.cpu()
        picture, image = judged.look(index)
        maps = [gate[0] for gate in gate_maps(model, image[None])]
        text = (
            "What the memory lets through at each stage, for the first held-out image: above the mean over all "
            "channels, below the channel that varies most."
        )
        sections.append(Section("Gates", text, figures.gates(picture, maps)))
    return sections
