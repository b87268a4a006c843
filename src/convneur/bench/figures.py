"""Pictures of measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from convneur.bench.latency import Latency


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


def scaling(found: Sequence[Latency], slopes: Mapping[str, float]) -> Figure:
    """Milliseconds over megapixels, both logarithmic, with the exponent of each model."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axis = figure.subplots()
    for name in dict.fromkeys(row.model for row in found):
        rows = [row for row in found if row.model == name]
        exponent = f", exponent {slopes[name]:.2f}" if name in slopes else ""
        axis.plot(
            [row.size**2 / 1e6 for row in rows],
            [1e3 * row.seconds for row in rows],
            marker="o",
            label=name + exponent,
        )
    axis.set(xlabel="megapixels", ylabel="milliseconds", xscale="log", yscale="log")
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    return figure
