"""Accuracy on ImageNet over latency on this machine: convneur_m3 among other models of its size.

    python benchmarks/peers.py --out docs/results/speed/peers

writes peers.json and peers.png. All models are timed here, in turn (A B A B), each at the size its accuracy was
measured at, fp32, fused for inference as timm's `reparameterize_model` does it: FastViT, RepViT and ConvNeur have
something to fuse, others stay as they are. Accuracies are published ones (peers.csv, a source for each); nobody has
trained a ConvNeur on ImageNet here. It is drawn, as an open marker, at the accuracy of the ConvNeXt that it can be
started from: it then computes the same function, so it has at least that.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure

from convneur.bench import freed_memory_kept
from convneur.bench.latency import Latency, Setting, baseline_of, measure_each
from convneur.files import write_atomic
from convneur.reports.drawing import name_points
from convneur.reports.page import versions

PEERS = Path(__file__).with_suffix(".csv")
STARTED = "open: not trained by us; at the accuracy of the ConvNeXt it can be started from, which it then equals"


@dataclass(frozen=True)
class Point:
    """Where a model stands.

    Attributes:
        model: Its name.
        size: Pixels a side.
        top1: Accuracy on ImageNet-1K, percent.
        started: Whether that is the accuracy of the ConvNeXt it can be started from.
        note: What to know about it, in a word.
        source: Of the accuracy.
    """

    model: str
    size: int
    top1: float
    started: bool
    note: str
    source: str


def points(names: Sequence[str]) -> list[Point]:
    """Published accuracies.

    Raises:
        ValueError: For a model of which none is known.
    """
    with PEERS.open(newline="") as file:
        known = {row["model"]: row for row in csv.DictReader(file)}
    found = []
    for name in names:
        baseline = baseline_of(name)
        row = known.get(baseline or name)
        if row is None:
            raise ValueError(f"no accuracy of {baseline or name} is known; add a line to {PEERS.name}, or leave it out")
        source = f"{row['model']}.{row['weights']}: {row['source']}"
        found.append(Point(name, int(row["size"]), float(row["top1"]), baseline is not None, row["note"], source))
    return found


def draw(stands: Sequence[Point], times: Mapping[int, Sequence[Latency]], threads: int) -> Figure:
    """Accuracy over milliseconds per image, a picture per batch size."""
    figure = Figure(figsize=(9.6, 5.0), layout="constrained")
    for axis, (batch, rows) in zip(figure.subplots(1, len(times), squeeze=False)[0], times.items(), strict=True):
        took = {row.model: row for row in rows}
        shown = [point for point in stands if point.model in took]
        for point in shown:
            row = took[point.model]
            middle = 1e3 * row.seconds / batch
            axis.errorbar(
                middle,
                point.top1,
                xerr=[[middle - 1e3 * row.seconds_low / batch], [1e3 * row.seconds_high / batch - middle]],
                fmt="o",
                color="C3" if point.started else "C0",
                markerfacecolor="white" if point.started else "C0",
                capsize=2,
                zorder=3 if point.started else 2,
            )
        axis.set(xlabel=f"milliseconds per image, batch {batch}", ylabel="ImageNet-1K top-1, %")
        axis.set_xlim(left=0, right=1.5 * max(1e3 * row.seconds / batch for row in rows))
        axis.margins(y=0.15)
        axis.grid(alpha=0.3)
        name_points(axis, [(_label(point), 1e3 * took[point.model].seconds / batch, point.top1) for point in shown])
    figure.supxlabel(
        f"filled: published accuracy; {STARTED}.\n"
        f"fp32, {threads} {'thread' if threads == 1 else 'threads'}, fused for inference; quartiles as bars",
        fontsize=8,
    )
    return figure


def _label(point: Point) -> str:
    size = "" if point.size == 224 else f"{point.size} px"
    return ", ".join(part for part in (point.model, size, point.note) if part)


@freed_memory_kept()
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    with PEERS.open(newline="") as file:
        peers = [row["model"] for row in csv.DictReader(file)]
    parser.add_argument("--models", nargs="+", default=["convneur_m3", *peers])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/peers"), help="path of both files, less endings")
    options = parser.parse_args(arguments)
    stands = points(options.models)
    times, not_run = {}, {}
    for batch in options.batches:
        settings = {point.model: Setting(point.size, batch, fused=True) for point in stands}
        times[batch] = measure_each(settings, torch.device("cpu"), rounds=options.rounds, not_run=not_run)
        print(f"| batch {batch} | px | ms | quartiles | peak MB | top-1 |\n|---|---|---|---|---|---|")
        accuracy = {point.model: f"{point.top1}{' of its start' if point.started else ''}" for point in stands}
        for row in sorted(times[batch], key=lambda row: row.seconds):
            quartiles = f"{1e3 * row.seconds_low:.1f} to {1e3 * row.seconds_high:.1f}"
            cells = (f"{1e3 * row.seconds:.1f}", quartiles, f"{1e-6 * row.peak_bytes:.1f}", accuracy[row.model])
            print(f"| `{row.model}` | {row.size} | {' | '.join(cells)} |")
        print(flush=True)
    for name, reason in not_run.items():
        print(f"not run: {name}: {reason}")
    facts = {
        "note": STARTED,
        "threads": torch.get_num_threads(),
        "rounds": options.rounds,
        "versions": versions(),
        "points": [asdict(point) for point in stands],
        "measurements": [asdict(row) for rows in times.values() for row in rows],
        "not_run": not_run,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(options.out.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")
    draw(stands, times, torch.get_num_threads()).savefig(options.out.with_suffix(".png"), dpi=130)


if __name__ == "__main__":
    main()
