"""Pictures for reports. Figures are made without pyplot, so nothing global is touched and no window opens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from convneur.reports.drawing import drawable

COUNTED, NAMED = 20, 60  # up to so many classes a confusion matrix shows counts, and names
COLOURS = {"convneur": "#1f6feb", "local-only": "#d1701f"}


def curves(histories: Mapping[str, Sequence[Mapping[str, float]]], metrics: Mapping[str, str]) -> Figure:
    """Learning curves, one panel per metric.

    Args:
        histories: Rows with ``step`` and the metrics, by name of the model.
        metrics: Label of the panel by key of the metric.
    """
    figure = Figure(figsize=(5 * len(metrics), 3.2), layout="constrained")
    for axis, (key, label) in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics.items(), strict=True):
        for name, rows in histories.items():
            points = [(row["step"], row[key]) for row in rows if key in row]
            axis.plot(*zip(*points, strict=True), label=drawable(name), color=COLOURS.get(name)) if points else None
        axis.set(xlabel="step", ylabel=label)
        axis.grid(alpha=0.3)
        axis.legend()
    return figure


def confusion(matrices: Mapping[str, Tensor], classes: Sequence[str]) -> Figure:
    """Confusion matrices side by side: rows are the truth, columns the answers; counts and names where they fit."""
    count = len(classes)
    side = min(11.0, max(4.2, 1.6 + 0.42 * count))
    figure = Figure(figsize=(side * len(matrices) + 0.2, side), layout="constrained")
    for axis, (name, matrix) in zip(figure.subplots(1, len(matrices), squeeze=False)[0], matrices.items(), strict=True):
        axis.imshow(matrix.numpy(), cmap="Blues")
        axis.set(title=drawable(name), xlabel="answer", ylabel="truth")
        if count > NAMED:
            continue
        for place, number in enumerate(matrix.flatten().tolist() if count <= COUNTED else ()):
            row, column = divmod(place, count)
            if number:
                dark = number > matrix.max() / 2
                axis.text(column, row, number, ha="center", va="center", color="white" if dark else "black", fontsize=8)
        axis.set(xticks=range(count), yticks=range(count))
        long = max(map(len, classes)) > 3
        names = [drawable(name) for name in classes]
        axis.set_xticklabels(names, rotation=90 if long else 0, fontsize=8 if long else None)
        axis.set_yticklabels(names, fontsize=8 if long else None)
    return figure


def gates(image: Tensor, maps: Sequence[Tensor]) -> Figure:
    """A photograph and, per stage, its mean gate and its most varied channel.

    Args:
        image: (3, H, W) or (1, H, W) in [0, 1].
        maps: Per stage (C, h, w) in [0, 1].
    """
    figure = Figure(figsize=(3.1 * (len(maps) + 1), 5.4), layout="constrained")
    axes = figure.subplots(2, len(maps) + 1)
    for axis in axes.flat:
        axis.set_axis_off()
    axes[0, 0].imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray")
    axes[0, 0].set_title("photograph")
    for column, stage in enumerate(maps, start=1):
        liveliest = stage[int(stage.flatten(1).std(1, correction=0).argmax())]
        for axis, picture, what in ((axes[0, column], stage.mean(0), "mean"), (axes[1, column], liveliest, "channel")):
            shown = axis.imshow(picture.numpy(), cmap="magma")
            axis.set_title(f"stage {column}, {what} gate", fontsize=10)
            figure.colorbar(shown, ax=axis, fraction=0.046)
    return figure


def marks(pictures: Tensor, targets: Tensor, answers: Mapping[str, Tensor]) -> Figure:
    """Mosaics, what is to be marked, and what each model marks.

    Args:
        pictures: (B, 1, H, W) in [0, 1].
        targets: (B, h, w): 1 to be marked, 0 not, below 0 the tile that asks.
        answers: (B, h, w) probabilities, by name of the model.
    """
    columns = {"truth": (targets == 1).float(), **answers}
    figure = Figure(figsize=(3 * len(columns), 3.2 * len(pictures)), layout="constrained")
    axes = figure.subplots(len(pictures), len(columns), squeeze=False)
    for row, picture in enumerate(pictures):
        height, width = picture.shape[-2:]
        for axis, (name, values) in zip(axes[row], columns.items(), strict=True):
            axis.imshow(picture[0].numpy(), cmap="gray")
            overlay = torch.zeros(*values.shape[-2:], 4)
            overlay[..., 1] = 0.8
            overlay[..., 3] = 0.55 * values[row] * (targets[row] >= 0)
            axis.imshow(overlay.numpy(), extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="nearest")
            axis.set_axis_off()
            axis.set_title(name if row == 0 else "")
    return figure


def reliability(confidence: Tensor, accuracy: Tensor, share: Tensor) -> Figure:
    """Accuracy over confidence, per bin; the area of a dot is the share of the images in it."""
    figure = Figure(figsize=(4.4, 4.2), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="#888", linewidth=1)
    axis.scatter(confidence.numpy(), accuracy.numpy(), s=(600 * share).clamp(min=4).numpy(), color=COLOURS["convneur"])
    axis.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axis.grid(alpha=0.3)
    return figure


def gallery(pictures: Sequence[Tensor], captions: Sequence[str], columns: int = 4) -> Figure:
    """Pictures (3, H, W) in [0, 1] with a caption each, whose names are drawable."""
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(2.7 * columns, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, picture, caption in zip(axes.flat, pictures, captions, strict=False):
        axis.imshow(picture.permute(1, 2, 0).numpy())
        axis.set_title(caption, fontsize=9)
    return figure
