"""``convneur demo``: the whole path in minutes, on data that comes with the installation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro


def demo(
    task: Literal["digits", "mosaic"] = "digits",
    out: Path = Path("runs/demo"),
    epochs: int | None = None,
    seed: int = 0,
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Train a small ConvNeur and its local-only baseline, compare them, and write a report with pictures.

    Args:
        task: digits: name handwritten digits (2 minutes on 2 cores). mosaic: mark every tile like the framed one, far
            away in the picture; there the memory is plain to see (10 minutes).
        out: Folder for metrics.json, weights and report.html.
        epochs: Passes over the data, if not the task's own number.
        seed: Of weights, data order and jitter.
        overwrite: Replace what an earlier call wrote to --out; without it, results of other settings are refused.
    """
    from convneur.printing import Console

    console = Console()
    with console.status("Loading PyTorch and Lightning"):
        from convneur.lab.demo import run_demo

    done = run_demo(task, out, epochs, seed, overwrite, console)
    console.print(done.table())
    if task == "digits":
        console.print("One digit needs no view of far away, so both do it alike. Where it counts: --task mosaic")
    console.print(f"Pictures: {out / 'report.html'}   weights: {out / 'convneur'}   numbers: {out / 'metrics.json'}")
