"""``convneur embed``: features of millions of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from convneur_options.embedding import DEFAULTS, EmbedConfig


def embed(
    source: Annotated[str, tyro.conf.Positional],
    model: str,
    out: Path = Path("runs/embed"),
    config: Annotated[EmbedConfig, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(name="")] = DEFAULTS,
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False,
) -> None:
    """Compute pooled features of images and write them as parquet; the same command goes on where it was stopped.

    A classifier gives what its last layer sees, a detector or a segmentation model the mean over its backbone's last
    map.

    Args:
        source: Folder of images (searched to the bottom), parquet file with a column image, folder of such, a glob of
            either, or wds:FOLDER of WebDataset shards.
        model: Folder of a run or model, hf-hub:USER/NAME, or a timm name with pretrained weights.
        out: Folder for part-00000.parquet and so on, embed.json, and failed.jsonl if images could not be read.
        config: How.
        overwrite: Replace what an earlier call wrote to --out; without it, results of other settings are refused.
    """
    from convneur.printing import Console, status, tell_notes

    with status("Loading PyTorch"):
        from convneur.embedding import embed as embed_images
    done = embed_images(source, model, out, config, overwrite=overwrite)
    console = Console(stderr=True)
    tell_notes(done.notes, console)
    if done.unreadable:
        console.print(f"{len(done.unreadable)} images could not be read: {out / 'failed.jsonl'}")
    speed = f"{done.images_per_second:,.1f} images/s" if done.computed else "nothing was left to do"
    parts = "1 part" if done.parts == 1 else f"{done.parts:,} parts"
    Console().print(f"{done.rows:,} embeddings of {done.width} numbers in {parts}: {out}   ({speed})")
