"""Pictures of measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure

from convneur.bench.latency import Latency
from convneur.bench.parts import OTHER, Profile, rank


def latencies(found: Sequence[Latency]) -> Figure:
    """A line of dots per model: milliseconds per image, with quartiles, a colour per batch size and image size."""
    names = list(dict.fromkeys(row.model for row in found))
    settings = list(dict.fromkeys((row.batch, row.size) for row in found))
    figure = Figure(figsize=(7.2, 1.4 + 0.32 * len(names)), layout="constrained")
    axis = figure.subplots()
    for number, (batch, size) in enumerate(settings):
        rows = [row for row in found if (row.batch, row.size) == (batch, size)]
        middle = [1e3 * row.seconds / batch for row in rows]
        errors = [
            [1e3 * (row.seconds - row.seconds_low) / batch for row in rows],
            [1e3 * (row.seconds_high - row.seconds) / batch for row in rows],
        ]
        places = [names.index(row.model) for row in rows]
        axis.errorbar(
            middle, places, xerr=errors, fmt="o", color=f"C{number}", label=f"batch {batch}, {size} px", capsize=3
        )
    axis.set(xlabel="milliseconds per image", yticks=range(len(names)))
    axis.set_yticklabels(names)
    axis.set_xlim(left=0)
    axis.invert_yaxis()
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def scaling(found: Sequence[Latency], slopes: Mapping[str, float], peak_slopes: Mapping[str, float]) -> Figure:
    """Milliseconds and peak memory over megapixels, all logarithmic, with the exponent of each model."""
    kinds = [("milliseconds", "seconds", 1e3, slopes), ("peak memory, MB", "peak_bytes", 1e-6, peak_slopes)]
    if all(row.peak_bytes is None for row in found):
        kinds.pop()
    figure = Figure(figsize=(7.2, 4.2 * len(kinds)), layout="constrained")
    for axis, (label, field, factor, exponents) in zip(
        figure.subplots(len(kinds), squeeze=False)[:, 0], kinds, strict=True
    ):
        for name in dict.fromkeys(row.model for row in found):
            rows = [row for row in found if row.model == name and getattr(row, field) is not None]
            exponent = f", exponent {exponents[name]:.2f}" if name in exponents else ""
            axis.plot(
                [row.size**2 / 1e6 for row in rows],
                [factor * getattr(row, field) for row in rows],
                marker="o",
                label=name + exponent,
            )
        axis.set(xlabel="megapixels", ylabel=label, xscale="log", yscale="log")
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    return figure


def profiles(found: Sequence[Profile]) -> Figure:
    """A bar per model, size and batch: milliseconds per image, part after part."""
    parts = list(dict.fromkeys(part.part for profile in found for part in profile.parts))
    parts.sort(key=rank)
    colours = matplotlib.colormaps["tab20"]
    figure = Figure(figsize=(8.6, 2.2 + 0.45 * len(found)), layout="constrained")
    axis = figure.subplots()
    left = [0.0] * len(found)
    for number, part in enumerate(parts):
        widths = []
        for profile in found:
            seconds = sum(each.seconds for each in profile.parts if each.part == part)
            widths.append(1e3 * seconds / profile.batch)
        colour = "lightgrey" if part == OTHER else colours(number % 20)
        axis.barh(range(len(found)), widths, left=left, label=part, color=colour, edgecolor="white", linewidth=0.5)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axis.set(xlabel="milliseconds per image", yticks=range(len(found)))
    axis.set_yticklabels(
        [
            f"{profile.model}{', fused' if profile.fused else ''}\nbatch {profile.batch}, {profile.size} px"
            for profile in found
        ]
    )
    axis.invert_yaxis()
    axis.grid(alpha=0.3, axis="x")
    axis.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    return figure
