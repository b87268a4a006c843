"""``convneur predict``: name images, find objects on them, or mark their pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from convneur_command.tables import print_table, printed_for_programs, tell_unreadable
from convneur_options.use import PredictOptions

DEFAULTS = PredictOptions()


def predict(
    paths: Annotated[tuple[str, ...], tyro.conf.Positional],
    model: str,
    format: Literal["table", "jsonl", "csv"] = "table",
    out: Path | None = None,
    trust: tyro.conf.FlagCreatePairsOff[bool] = False,
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False,
    options: Annotated[PredictOptions, tyro.conf.arg(name=""), tyro.conf.FlagCreatePairsOff] = DEFAULTS,
) -> int:
    """Name images, draw what a detector finds, or mark the class of every pixel, as the model can.

    Exit code 0 if any image could be read, 2 if none.

    Args:
        paths: Image files, folders (searched to the bottom) and globs such as 'photos/*.jpg'.
        model: Folder of a run or model, hf-hub:USER/NAME, a timm name with pretrained weights, a file of convneur
            export, or a .safetensors or .ckpt file of a finished run.
        format: Table for people; JSON lines or CSV for programs.
        out: Folder for the pictures of a detector or a segmentation model; for detections.json with all detections in
            COCO's form; for masks, PNG files whose numbers are the classes. runs/predict if not given.
        trust: Load a .pt2 of convneur export, which runs the code in it: only for files from people you trust. Other
            models need none.
        overwrite: Replace what an earlier call wrote to --out; without it, results of other settings are refused.
        options: How the model is asked.
    """
    from convneur.printing import Console

    console = Console(stderr=True)
    with console.status("Loading PyTorch"):
        from convneur.api import predict as ask

    rows, unreadable = ask(paths, model, out, trust=trust, overwrite=overwrite, **asdict(options))
    if rows:
        _print(rows, format)
    return tell_unreadable(rows, unreadable, console)


def _print(rows: Sequence[dict[str, Any]], format: str) -> None:
    """Answers on standard output: of classifiers labels, of detectors counts, of segmentation models shares."""
    if "top" in rows[0]:
        _print_labels(rows, format)
    elif "objects" in rows[0]:
        flat = [[row["file"], each["label"], each["score"], *each["box"]] for row in rows for each in row["objects"]]
        if not printed_for_programs(rows, format, ["file", "label", "score", "x0", "y0", "x1", "y1"], flat):
            counts = [Counter(each["label"] for each in row["objects"]).most_common() for row in rows]
            found = [", ".join(f"{number} {label}" for label, number in each) or "nothing" for each in counts]
            cells = [[row["file"], what, row["picture"]] for row, what in zip(rows, found, strict=True)]
            print_table(["file", "found", "picture"], cells)
    else:
        flat = [[row["file"], name, share] for row in rows for name, share in row["shares"].items()]
        if not printed_for_programs(rows, format, ["file", "class", "share"], flat):
            most = [sorted(row["shares"].items(), key=lambda each: -each[1])[:4] for row in rows]
            told = [", ".join(f"{name} {share:.0%}" for name, share in each) for each in most]
            cells = [[row["file"], what, row["overlay"]] for row, what in zip(rows, told, strict=True)]
            print_table(["file", "most of it", "overlay"], cells)


def _print_labels(rows: Sequence[dict[str, Any]], format: str) -> None:
    from convneur.printing import Console, Table

    flat = [
        [str(row["file"]), *(x for answer in row["top"] for x in (answer["label"], answer["score"]))] for row in rows
    ]
    answers = (max(map(len, flat)) - 1) // 2
    head = ["file", *(f"{what}{i + 1}" for i in range(answers) for what in ("label", "score"))]
    if printed_for_programs(rows, format, head, flat):
        return
    table = Table(box=None, header_style="bold")
    table.add_column("file", overflow="fold")
    for i in range(answers):
        table.add_column("label" if i == 0 else f"{i + 1}.", style=None if i == 0 else "dim", overflow="fold")
        table.add_column("", justify="right", style=None if i == 0 else "dim")
    for file, *rest in flat:
        table.add_row(file, *(x if isinstance(x, str) else f"{x:.1%}" for x in rest))
    Console().print(table)
