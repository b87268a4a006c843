"""A photograph and what a model made of it. Figures are made without pyplot, as those of reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from torch import Tensor

from convneur.explain.layers import Layer


def overlays(picture: Tensor, layers: Sequence[Layer], titles: Sequence[str]) -> Figure:
    """A photograph, and maps: above over the photograph, below alone at the same places; each has a colour bar.

    Args:
        picture: (3, H, W) in [0, 1].
        layers: Maps of it.
        titles: One for each.
    """
    height, width = picture.shape[-2:]
    pixels = picture.permute(1, 2, 0).numpy()
    tall = min(3.0, max(0.4, height / width))
    # Places are counted in widths of a picture rather than found by a layout, which takes as long as all the drawing.
    across, down = 1.08 * (len(layers) + 1), 2 * tall + 0.42
    figure = Figure(figsize=(3.0 * across, 3.0 * down))

    def place(column: int, top: float, share: float, size: float) -> Any:
        left = 1.08 * column + 0.04 + (1 - share) / 2
        return figure.add_axes((left / across, 1 - (top + size) / down, share / across, size / down))

    def framed(column: int, top: float) -> Any:
        axis = place(column, top, 1.0, tall)
        axis.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
        axis.set_axis_off()
        return axis

    photograph = framed(0, 0.12)
    photograph.imshow(pixels, extent=(0, width, height, 0))
    photograph.set_title("photograph", fontsize=10)
    for column, (layer, title) in enumerate(zip(layers, titles, strict=True), start=1):
        over, alone = framed(column, 0.12), framed(column, 0.17 + tall)
        over.imshow(pixels, extent=(0, width, height, 0))
        over.set_title(title, fontsize=10)
        rows, columns = layer.covered
        painted = layer.scale.paint(layer.values)
        for axis, opacity in ((over, 0.6), (alone, 1.0)):
            axis.imshow(painted, extent=(0, columns, rows, 0), alpha=opacity, interpolation="nearest")
        shades = ScalarMappable(layer.scale.norm, layer.scale.colours)
        bar = figure.colorbar(shades, cax=place(column, 0.22 + 2 * tall, 0.8, 0.04), orientation="horizontal")
        numbers, written = zip(*layer.scale.ticks()[::2], strict=True)
        bar.set_ticks(numbers, labels=written)
        bar.minorticks_off()
    return figure
