"""How good a classifier is: what it gets right, what it gets wrong, how sure it is, and where it looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from convneur.explain.gates import gate_maps
from convneur.models import ConvNeur
from convneur.printing import markdown_code
from convneur.reports import Section, figures
from convneur.reports.drawing import drawable
from convneur.tasks.classification.evaluation import Evaluation
from convneur.tasks.results import EvaluationResult, listed_classes

SHOWN = 12  # worst mistakes
CARD = """---
library_name: timm
pipeline_tag: image-classification
tags: [image-classification, timm, convneur]
---
# {name}

An image classifier of {count} classes: {classes}. Top-1 on its held-out images: {top1:.1%}.{epochs}

```python
import convneur
print(convneur.load("FOLDER").predict("image.jpg")[0].label)

import timm
model = timm.create_model("local-dir:FOLDER", pretrained=True)  # or hf-hub:USER/NAME
```

`convneur predict IMAGES --model FOLDER` names images. Made with {command}.
"""


@dataclass(repr=False)
class ClassifierEvaluation(EvaluationResult):
    """How good a classifier is on its held-out images.

    Attributes:
        name: Of the model.
        model: In eval mode.
        answers: What it said.
        classes: Names.
        file: Name of the image of an index.
        look: Returns the image of an index of the evaluation: as a person sees it, RGB (3, H, W) in [0, 1], and as the
            model takes it (C, H, W). None if single images cannot be had.
        resolutions: Accuracy by image size (``64``, or height and width of what is not square), if it was measured.
    """

    name: str
    model: nn.Module
    answers: Evaluation
    classes: Sequence[str]
    file: Callable[[int], str]
    look: Callable[[int], tuple[Tensor, Tensor]] | None
    resolutions: Mapping[str, float]

    curve_words: ClassVar[Mapping[str, str]] = {
        "loss": "training loss",
        "accuracy": "held-out accuracy",
        "val_loss": "held-out loss",
    }

    @property
    def numbers(self) -> dict[str, Any]:
        """Accuracy, calibration, per class, and the confusion matrix."""
        answers = self.answers
        return {
            "top1": answers.top1,
            "top5": answers.top5,
            "loss": answers.loss,
            "calibration_error": answers.calibration_error,
            "top1_by_image_size": dict(self.resolutions),
            "per_class": {
                name: None if math.isnan(share) else share
                for name, share in zip(self.classes, answers.per_class().tolist(), strict=True)
            },
            "confusion": answers.confusion.tolist(),
        }

    def predictions(self) -> Iterator[Mapping[str, Any]]:
        """The truth, the answer and its probability."""
        answers = self.answers
        for index, truth, answer, score in zip(
            answers.indices.tolist(),
            answers.labels.tolist(),
            answers.answers.tolist(),
            answers.confidences.tolist(),
            strict=True,
        ):
            yield {
                "file": self.file(index),
                "truth": self.classes[truth],
                "answer": self.classes[answer],
                "score": round(score, 6),
            }

    def summary(self) -> str:
        """Accuracy and calibration."""
        answers = self.answers
        top5 = f"top-5 {answers.top5:.1%}, " if len(self.classes) > 5 else ""
        return (
            f"{self.name} on {len(answers.labels):,} held-out images of {len(self.classes)} classes: "
            f"top-1 {answers.top1:.1%}, {top5}calibration error {answers.calibration_error:.3f}."
        )

    def rows(self) -> list[list[str]]:
        """Table of the whole."""
        answers = self.answers
        rows = [
            ["", "value"],
            ["top-1 accuracy", f"{answers.top1:.2%}"],
            *([["top-5 accuracy", f"{answers.top5:.2%}"]] if len(self.classes) > 5 else []),
            ["cross-entropy", f"{answers.loss:.4f}"],
            ["calibration error (ECE)", f"{answers.calibration_error:.4f}"],
        ]
        return rows + [[f"top-1 at {size} px", f"{accuracy:.2%}"] for size, accuracy in self.resolutions.items()]

    def sections(self) -> list[Section]:
        """Confusion, classes, calibration, worst mistakes and gates."""
        return [
            Section(
                "Confusion matrix",
                "Rows are the truth, columns the answers.",
                figures.confusion({self.name: self.answers.confusion}, self.classes),
            ),
            Section(
                "Per class",
                "Share of each class that was named rightly, the hardest class first.",
                table=self.class_rows(),
            ),
            Section(
                "Calibration",
                "How often an answer is right, over how sure it was. On the diagonal confidence means what it says.",
                figures.reliability(*self.answers.reliability()),
            ),
            *self._mistakes(),
            *self._gates(),
        ]

    def class_rows(self) -> list[list[str]]:
        """Table of the classes that have images, the hardest first."""
        shares, counts = self.answers.per_class(), self.answers.confusion.sum(1)
        order = sorted((i for i in range(len(shares)) if counts[i]), key=lambda i: float(shares[i]))
        mixed = self.answers.confusion - torch.diag(self.answers.confusion.diag())
        rows = [["class", "images", "right", "most often taken for"]]
        for i in order:
            other = self.classes[int(mixed[i].argmax())] if mixed[i].any() else ""
            rows.append([self.classes[i], str(int(counts[i])), f"{float(shares[i]):.1%}", other])
        return rows

    def _mistakes(self) -> list[Section]:
        answers, worst = self.answers, self.answers.worst_mistakes(SHOWN).tolist()
        if not worst:
            return []
        rows = [["file", "truth", "answer", "sure"]]
        rows += [
            [
                self.file(int(answers.indices[i])),
                self.classes[int(answers.labels[i])],
                self.classes[int(answers.answers[i])],
                f"{float(answers.confidences[i]):.0%}",
            ]
            for i in worst
        ]
        text = "Wrong answers that were given with most confidence"
        if self.look is None:
            return [Section("Worst mistakes", f"{text}.", table=rows)]
        captions = [
            f"{drawable(Path(name).name)}\n{drawable(truth)}\nsaid {drawable(answer)}, {sure}"
            for name, truth, answer, sure in rows[1:]
        ]
        pictures = [self.look(int(answers.indices[i]))[0] for i in worst]
        text += ": the file, what it is, and what was said. predictions.csv has the answers to all images."
        return [Section("Worst mistakes", text, figures.gallery(pictures, captions), table=rows)]

    def _gates(self) -> list[Section]:
        if self.look is None or not isinstance(self.model, ConvNeur) or not self.model.has_gates:
            return []
        picture, image = self.look(int(self.answers.indices[0]))
        images = image[None].to(next(self.model.parameters()).device)
        maps = [gate[0].cpu() for gate in gate_maps(self.model, images)]
        text = (
            "What the memory lets through at each stage, for the first held-out image: above the mean over all "
            "channels, below the channel that varies most."
        )
        return [Section("Gates", text, figures.gates(picture, maps))]

    def card(self, command: str, epochs: str) -> str:
        """Model card."""
        return CARD.format(
            name=self.name,
            count=len(self.classes),
            classes=listed_classes(self.classes),
            top1=self.answers.top1,
            command=markdown_code(command),
            epochs=epochs,
        )
