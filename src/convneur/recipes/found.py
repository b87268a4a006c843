"""What a training run says before its first epoch: what it found, what it left out, and what comes of it where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from convneur.data.labels import shown_names
from convneur.printing import Console
from convneur.recipes.runs import RunConfig, is_first
from convneur.tasks.evaluation import device_for

NAMED = 10  # classes


def tell_found(source: Any, config: RunConfig, recipe: Any, world: int, out: Path, console: Console) -> None:
    """Say it, in the first process.

    Args:
        source: Images of any task.
        config: Of the run.
        recipe: With ``backbone``, ``epochs``, ``batch_size`` and ``fit``.
        world: Processes.
        out: Folder of the run.
        console: Where.
    """
    if not is_first():
        return
    classes = list(source.code.classes) if hasattr(source, "code") else list(source.classes)
    where = f" ({source.held_out})" if getattr(source, "held_out", "") else ""
    console.print(f"data: {config.data}, classes: {shown_names(classes, NAMED)}")
    console.print(f"to train on: {_counted(source.train)}; to judge by: {_counted(source.val)}{where}")
    for note in getattr(source, "notes", ()):
        console.print(note, style="yellow")
    device = device_for(recipe.fit.accelerator)
    name = torch.cuda.get_device_name() if device.type == "cuda" else str(device)
    several = f", {world} processes" if world > 1 else ""
    console.print(
        f"{config.model}, preset {recipe.backbone.preset}, {recipe.epochs} epochs of batches of {recipe.batch_size} on "
        f"{name}{several}; into {out}"
    )


def _counted(images: Any) -> str:
    """How many images there are, and objects on them."""
    told = f"{len(images):,} images"
    if not hasattr(images, "objects"):
        return told
    counts = [len(each) for each in images.objects]
    return f"{told} with {sum(counts):,} objects ({sum(not count for count in counts):,} with none)"
