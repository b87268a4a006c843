"""The demo as people read it: a table, and a page with pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from convneur.data.photos import sample_photo
from convneur.explain import gate_maps
from convneur.printing import Table
from convneur.reports import figures, write_report
from convneur.reports.page import Section, versions

if TYPE_CHECKING:
    from convneur.lab.demo import DemoRecipe, Trained

METRIC = {"digits": "accuracy", "mosaic": "iou"}
WORDS = {"accuracy": "held-out accuracy", "iou": "held-out IoU", "loss": "training loss"}
TITLES = {"digits": "Handwritten digits", "mosaic": "Mosaics of digits"}
DATA = {
    "digits": "1,797 real scans of handwritten digits, 360 of them held out",
    "mosaic": "mosaics of handwritten digits: mark every tile like the framed one in the corner; "
    "the digits of the held-out pictures were never seen",
}
Rows = Mapping[str, Mapping[str, float]]


def cells(task: str, rows: Rows) -> list[list[str]]:
    """What the table says, the head first."""
    metric = METRIC[task]
    score = "{:.1%}" if metric == "accuracy" else "{:.3f}"
    return [["model", WORDS[metric], "parameters", "MACs", "images/s"]] + [
        [
            name,
            score.format(row[metric]),
            f"{row['params'] / 1e3:,.0f} k",
            f"{row['macs'] / 1e6:,.1f} M",
            f"{row['images_per_second']:,.0f}",
        ]
        for name, row in rows.items()
    ]


def table(task: str, rows: Rows) -> Table:
    """The same for a terminal."""
    head, *body = cells(task, rows)
    found = Table(title=TITLES[task])
    for index, cell in enumerate(head):
        found.add_column(cell, justify="right" if index else "left")
    for row in body:
        found.add_row(*row)
    return found


def report(
    path: Path, recipe: DemoRecipe, pair: Mapping[str, Trained], rows: Rows, examples: tuple[Tensor, Tensor]
) -> None:
    """Write the page.

    Args:
        path: Of the file.
        recipe: Of both models.
        pair: What came of them.
        rows: Their numbers.
        examples: Held-out images and what is right of them, of which mosaics are shown.
    """
    metric = METRIC[recipe.task]
    ours, baseline = (rows[name][metric] for name in ("convneur", "local-only"))
    sections = [
        Section(
            "Numbers",
            "Speed was measured with the two taking turns. In models as small as these the memory is a larger share of "
            "the work than in convneur_m1 to m4, for whose cost see docs/results/speed.md.",
            table=cells(recipe.task, rows),
        ),
        Section(
            "Learning curves",
            "Both saw the same pictures in the same order.",
            figures.curves({n: t.curve for n, t in pair.items()}, {"loss": WORDS["loss"], metric: WORDS[metric]}),
        ),
    ]
    sections += _digit_sections(pair) if recipe.task == "digits" else _mosaic_sections(pair, examples)
    summary = f"A small ConvNeur and its local-only baseline on {DATA[recipe.task]}. "
    summary += f"{WORDS[metric].capitalize()}: {ours:.3f} and {baseline:.3f}."
    made_by = ", ".join(f"{k} {v}" for k, v in versions().items())
    note = f"convneur demo --task {recipe.task} --epochs {recipe.epochs} --seed {recipe.seed}   ({made_by})"
    write_report(path, "ConvNeur demo", summary, sections, note)


def _digit_sections(pair: Mapping[str, Trained]) -> list[Section]:
    photo = sample_photo(size=256)
    gates = gate_maps(pair["convneur"].model, photo.mean(0, keepdim=True)[None])
    matrices = {name: trained.confusion for name, trained in pair.items() if trained.confusion is not None}
    return [
        Section(
            "Confusion matrix", "Rows are the truth, columns the answers.", figures.confusion(matrices, "0123456789")
        ),
        Section(
            "Gates",
            "What the memory lets through at each stage, on a photograph: above the mean over all channels, below the "
            "channel that varies most. The model has only seen digits, so this shows the mechanism, not a skill. The "
            "memory works on a grid of tokens; the gate is brought to the size of the map from there.",
            figures.gates(photo, [gate[0] for gate in gates]),
        ),
    ]


def _mosaic_sections(pair: Mapping[str, Trained], examples: tuple[Tensor, Tensor]) -> list[Section]:
    images, targets = (each[:3] for each in examples)
    with torch.inference_mode():
        answers = {name: trained.model(images)[:, 0].sigmoid() for name, trained in pair.items()}
    return [
        Section(
            "What each one marks",
            "Green is marked, the stronger the surer. The framed tile in the corner asks.",
            figures.marks(images, targets, answers),
        )
    ]
