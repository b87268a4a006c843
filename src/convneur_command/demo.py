"""``convneur demo``: the whole path in minutes, on data that comes with the installation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

if TYPE_CHECKING:
    from convneur.lab.demo import PairRecipe, Trained
    from convneur.reports.page import Section

METRIC = {"digits": "accuracy", "mosaic": "iou"}
WORDS = {"accuracy": "held-out accuracy", "iou": "held-out IoU", "loss": "training loss"}


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
            away in the picture; there the memory is plain to see (some minutes more).
        out: Folder for metrics.json, weights and report.html.
        epochs: Passes over the data, if not the task's own number.
        seed: Of weights, data order and jitter.
        overwrite: Replace what an earlier call wrote to --out; without it, results of other settings are refused.
    """
    from dataclasses import asdict, replace

    from convneur.outputs import OutputFolder
    from convneur.printing import Console

    console = Console()
    with console.status("Loading PyTorch and Lightning"):
        from convneur.lab.demo import DEMO, MOSAIC

    recipe = replace({"digits": DEMO, "mosaic": MOSAIC}[task], seed=seed)
    if epochs is not None:
        if epochs < 1:
            raise ValueError(f"--epochs {epochs} is out of range; give at least 1")
        recipe = replace(recipe, epochs=epochs)
    with OutputFolder(out, "demo", overwrite) as folder:
        folder.check(asdict(recipe))
        folder.start()
        _train(out, recipe, console)
        folder.finish()


def _train(out: Path, recipe: PairRecipe, console: Any) -> None:
    """Train, compare, and write everything."""
    from convneur.interrupts import stopped
    from convneur.lab.demo import train_pair
    from convneur.training.callbacks import Interrupted

    pair: dict[str, Trained] = {}
    try:
        for name, trained in train_pair(recipe, console):
            pair[name] = trained
            _keep(out, recipe, pair)
    except Interrupted as stop:
        line = f"stopped; what was done is in {out}, and the same command starts afresh"
        raise stopped(stop.number, line) from stop
    rows = _compare(recipe, pair)
    _keep(out, recipe, pair, rows)
    _show(console, recipe, rows)
    _report(out, recipe, pair, rows)
    console.print(f"Pictures: {out / 'report.html'}   weights: {out / 'convneur'}   numbers: {out / 'metrics.json'}")


def _keep(out: Path, recipe: PairRecipe, pair: dict[str, Trained], rows: dict[str, Any] | None = None) -> None:
    """Write weights and numbers of what is done so far."""
    import json
    from dataclasses import asdict

    from convneur.files import write_atomic
    from convneur.models import save_model
    from convneur.reports.page import versions

    name, trained = list(pair.items())[-1]
    if rows is None:
        save_model(trained.model, out / name, trained.model_args)
    kept = {
        "recipe": asdict(recipe),
        "versions": versions(),
        "models": {
            name: {"finished": t.finished, "curve": t.curve, **((rows or {}).get(name, {}))} for name, t in pair.items()
        },
    }
    write_atomic(out / "metrics.json", json.dumps(kept, indent=2) + "\n")


def _compare(recipe: PairRecipe, pair: dict[str, Trained]) -> dict[str, dict[str, float]]:
    """Score, parameters, MACs and speed of each."""
    from functools import partial

    import torch

    from convneur.bench import count_cost, throughput
    from convneur.models import create_model

    images = torch.rand(64, 1, recipe.image_size, recipe.image_size)
    speed = throughput({name: trained.model for name, trained in pair.items()}, images)
    rows = {}
    for name, trained in pair.items():
        cost = count_cost(partial(create_model, **trained.model_args), recipe.image_size)
        metric = METRIC[recipe.task]
        rows[name] = {
            metric: trained.curve[-1][metric],
            "params": cost.params,
            "macs": cost.macs,
            "images_per_second": speed[name],
        }
    return rows


def _cells(recipe: PairRecipe, rows: dict[str, dict[str, float]]) -> list[list[str]]:
    metric = METRIC[recipe.task]
    head = ["model", WORDS[metric], "parameters", "MACs", "images/s"]
    score = "{:.1%}" if metric == "accuracy" else "{:.3f}"
    return [head] + [
        [
            name,
            score.format(row[metric]),
            f"{row['params'] / 1e3:,.0f} k",
            f"{row['macs'] / 1e6:,.1f} M",
            f"{row['images_per_second']:,.0f}",
        ]
        for name, row in rows.items()
    ]


def _show(console: Any, recipe: PairRecipe, rows: dict[str, dict[str, float]]) -> None:
    from convneur.printing import Table

    head, *body = _cells(recipe, rows)
    table = Table(title={"digits": "Handwritten digits", "mosaic": "Mosaics of digits"}[recipe.task])
    for index, cell in enumerate(head):
        table.add_column(cell, justify="right" if index else "left")
    for row in body:
        table.add_row(*row)
    console.print(table)


def _report(out: Path, recipe: PairRecipe, pair: dict[str, Trained], rows: dict[str, dict[str, float]]) -> None:
    from convneur.reports import figures, write_report
    from convneur.reports.page import Section, versions

    metric = METRIC[recipe.task]
    ours, baseline = (rows[name][metric] for name in ("convneur", "local-only"))
    what = {
        "digits": "1,797 real scans of handwritten digits, 360 of them held out",
        "mosaic": "mosaics of handwritten digits: mark every tile like the framed one in the corner; "
        "the digits of the held-out pictures were never seen",
    }[recipe.task]
    sections = [
        Section(
            "Numbers",
            "Speed was measured with the two taking turns. In models as small as these the memory is a larger share of "
            "the work than in convneur_m1 to m4, for whose cost see docs/results/speed.md.",
            table=_cells(recipe, rows),
        ),
        Section(
            "Learning curves",
            "Both saw the same pictures in the same order.",
            figures.curves({n: t.curve for n, t in pair.items()}, {"loss": WORDS["loss"], metric: WORDS[metric]}),
        ),
    ]
    sections += _digit_sections(pair) if recipe.task == "digits" else _mosaic_sections(recipe, pair)
    lead = f"A small ConvNeur and its local-only baseline on {what}. "
    lead += f"{WORDS[metric].capitalize()}: {ours:.3f} and {baseline:.3f}."
    told = ", ".join(f"{k} {v}" for k, v in versions().items())
    note = f"convneur demo --task {recipe.task} --epochs {recipe.epochs} --seed {recipe.seed}   ({told})"
    write_report(out / "report.html", "ConvNeur demo", lead, sections, note)


def _digit_sections(pair: dict[str, Trained]) -> list[Section]:
    from convneur.data.photos import sample_photo
    from convneur.explain import gate_maps
    from convneur.reports import figures
    from convneur.reports.page import Section

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


def _mosaic_sections(recipe: PairRecipe, pair: dict[str, Trained]) -> list[Section]:
    import torch

    from convneur.lab.demo import digits_for, held_out_batches
    from convneur.reports import figures
    from convneur.reports.page import Section

    images, targets = held_out_batches(recipe, digits_for(recipe)[1])[0]
    images, targets = images[:3], targets[:3]
    with torch.inference_mode():
        answers = {name: trained.model(images)[:, 0].sigmoid() for name, trained in pair.items()}
    return [
        Section(
            "What each one marks",
            "Green is marked, the stronger the surer. The framed tile in the corner asks.",
            figures.marks(images, targets, answers),
        )
    ]
