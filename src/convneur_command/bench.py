"""``convneur bench``: how fast models are on this machine, side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from convneur_options.bench import DEFAULTS, BenchConfig


def bench(
    what: Annotated[Literal["latency", "scaling", "profile"], tyro.conf.Positional] = "latency",
    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL ...]")] = (),
    config: Annotated[BenchConfig, tyro.conf.arg(name="")] = DEFAULTS,
    out: Path = Path("runs/bench"),
    json_: Annotated[bool, tyro.conf.arg(name="json")] = False,
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Time models in turn (A B A B) and write a table, a picture, CSV and JSON.

    Leave the machine alone meanwhile: what else runs shows in the spread, which is that of the quartiles.

    Args:
        what: latency: of each model at each size and batch. scaling: how time and memory grow with the pixels. profile:
            where the time of inference goes, part by part.
        names: Models, instead of --models.
        config: How.
        out: Folder for what is written.
        json_: Print the JSON, too.
        overwrite: Replace what an earlier call wrote to --out; without it, results of other settings are refused.
    """
    from convneur.notes import AlreadyDone
    from convneur.printing import Console, print_json, status

    with status("Loading PyTorch"):
        from convneur.bench.run import read_bench, run_bench

    try:
        done = run_bench(what, replace(config, models=(*names, *config.models)), out, overwrite)
    except AlreadyDone:
        if json_:
            print_json(read_bench(what, out), indent=1)
        raise
    if json_:
        print_json(done.facts, indent=1)
    console = Console(stderr=True)
    for table in done.tables:
        console.print(table)
    for each in done.facts.get("not_run", ()):
        console.print(f"Not run: {each['model']}, {each['size']} px, batch {each['batch']}: {each['reason']}")
    picture, csv = done.path.with_suffix(".png"), done.path.with_suffix(".csv")
    console.print(f"Picture: {picture}   CSV: {csv}   numbers: {done.path}")
