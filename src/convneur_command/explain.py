"""``convneur explain``: what each stage's memory did with an image, as pages, pictures and numbers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro

from convneur_command.tables import print_table, tell_unreadable


def explain(
    paths: Annotated[tuple[str, ...], tyro.conf.Positional],
    model: str,
    out: Path = Path("runs/explain"),
    image_size: int | None = None,
    max_megapixels: float = 100.0,
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> int:
    """Show what the memory of each stage did with images: gates, surprise, receptive fields; of a classifier, why.

    Writes per image a page to look at, PNG files of its maps, and the numbers as JSON; docs/explain.md tells how to
    read them. Exit code 0 if any image could be explained, 2 if none.

    Args:
        paths: Image files, folders (searched to the bottom) and globs such as 'photos/*.jpg'.
        model: Folder of a run or model (classifier, detector or segmentation model), hf-hub:USER/NAME, or a name such
            as convneur_m1, with random weights, to see what there is to see.
        out: Folder for what is made.
        image_size: Pixels a side, of a detector's or segmentation model's images the shorter one; what the model was
            made for if not given.
        max_megapixels: Larger images are not read.
        overwrite: Replace what an earlier call wrote to --out; without it, results of other settings are refused.
    """
    from convneur.printing import Console

    console = Console(stderr=True)
    with console.status("Loading PyTorch"):
        from convneur.tasks.explain_images import explain as explain_images

    (head, *rows), unreadable = explain_images(
        paths,
        model,
        out,
        image_size=image_size,
        max_megapixels=max_megapixels,
        overwrite=overwrite,
        command=" ".join(["convneur", *sys.argv[1:]]),
    )
    print_table(head, rows)
    return tell_unreadable(rows, unreadable, console)
