"""An ablation as people read it: a row per model, a table, a picture."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from convneur.reports.drawing import name_points


@dataclass(frozen=True)
class Row:
    """One model of an ablation.

    Attributes:
        name: Of the cell.
        accuracies: Of each seed.
        params: Parameters.
        macs: Multiply-accumulates of an image.
        inference: Seconds of a batch over those of the reference.
        training: Seconds of a training step over those of the reference.
        best: No other model is at least as accurate and faster, or more accurate and as fast.
    """

    name: str
    accuracies: Sequence[float]
    params: int
    macs: int
    inference: float
    training: float
    best: bool = False

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.mean(self.accuracies)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None for a single one."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None


def rows_of(runs: Sequence[Mapping[str, Any]], costs: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Rows in the order of ``costs``, those on the Pareto front marked.

    Args:
        runs: With ``cell`` and ``accuracy``, one per cell and seed.
        costs: Of each cell ``params``, ``macs``, ``inference`` and ``training``.
    """
    rows = []
    for name, cost in costs.items():
        accuracies = [run["accuracy"] for run in runs if run["cell"] == name]
        if accuracies:
            rows.append(Row(name, accuracies, cost["params"], cost["macs"], cost["inference"], cost["training"]))
    return [
        Row(**vars(row) | {"best": not any(_beats(other, row) for other in rows)})  # each against all others
        for row in rows
    ]


def _beats(one: Row, other: Row) -> bool:
    no_worse = one.mean >= other.mean and one.inference <= other.inference
    return no_worse and (one.mean > other.mean or one.inference < other.inference)


HEAD = ("model", "accuracy", "seeds", "params", "MACs", "inference", "training")


def cells_of(row: Row) -> list[str]:
    """What the table says of a row, in the order of `HEAD`."""
    spread = "" if row.spread is None else f" ± {100 * row.spread:.2f}"
    return [
        row.name + (" *" if row.best else ""),
        f"{100 * row.mean:.2f}{spread} %",
        str(len(row.accuracies)),
        f"{row.params / 1e6:.2f} M",
        f"{row.macs / 1e6:.1f} M",
        f"{row.inference:.2f} x",
        f"{row.training:.2f} x",
    ]


def markdown(rows: Sequence[Row], summary: str, by_size: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """The table, and what its columns mean; below it, accuracy at other sizes if there are any."""
    lines = [summary, "", "| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    lines += ["| " + " | ".join(cells_of(row)) + " |" for row in rows]
    note = (
        f"Accuracy: mean and standard deviation over the seeds. Times: over those of {rows[0].name}, medians, taken in "
        "turn. *: no other model is more accurate in the same time."
    )
    lines += ["", note, ""]
    if by_size:
        sizes = list(next(iter(by_size.values())))
        lines += [
            "| accuracy at | " + " | ".join(f"{size} px" for size in sizes) + " |",
            "|" + "---|" * (1 + len(sizes)),
        ]
        lines += [
            f"| {name} | " + " | ".join(f"{100 * found[size]:.2f} %" for size in sizes) + " |"
            for name, found in by_size.items()
        ]
    return "\n".join(lines).rstrip() + "\n"


def picture(rows: Sequence[Row], by_distance: Mapping[str, Mapping[str, float]] | None = None) -> Figure:
    """Accuracy over the time of inference; the Pareto front is drawn through the models on it.

    Args:
        rows: Of the table.
        by_distance: For mosaics, per model the accuracy at each distance from the corner: drawn beside it.
    """
    distances = any((by_distance or {}).values())
    figure = Figure(figsize=(13.2 if distances else 7.2, 4.6), layout="constrained")
    axis, *others = figure.subplots(1, 1 + distances, squeeze=False)[0]
    if by_distance:
        for beside in others:
            _draw_distances(beside, by_distance)
    front = sorted((row for row in rows if row.best), key=lambda row: row.inference)
    axis.plot([row.inference for row in front], [100 * row.mean for row in front], color="#1f6feb", alpha=0.5)
    for row in rows:
        colour = "#1f6feb" if row.best else "#888888"
        axis.errorbar(row.inference, 100 * row.mean, 100 * (row.spread or 0.0), fmt="o", color=colour, capsize=3)
    axis.margins(x=0.25, y=0.1)
    name_points(axis, [(row.name, row.inference, 100 * row.mean) for row in rows])
    axis.set(xlabel=f"time of inference over that of {rows[0].name}", ylabel="accuracy in %")
    axis.grid(alpha=0.3)
    return figure


def mean_by(key: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Accuracy per model and per distance (``by_distance``) or size (``by_size``), over the seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        for place, accuracy in run.get(key, {}).items():
            found.setdefault(run["cell"], {}).setdefault(place, []).append(accuracy)
    return {name: {place: statistics.mean(values) for place, values in of.items()} for name, of in found.items()}


def _draw_distances(axis: Any, by_distance: Mapping[str, Mapping[str, float]]) -> None:
    for number, (name, accuracies) in enumerate(by_distance.items()):
        places = sorted(accuracies, key=int)
        values = [100 * accuracies[place] for place in places]
        axis.plot([int(p) for p in places], values, marker="os^Dv"[number % 5], color=f"C{number % 10}", label=name)
    axis.set(xlabel="distance from the corner in tiles", ylabel="accuracy in %")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
