"""Exact inference on an image that does not fit in memory.

Stage by stage: strips of rows pass through what is local, with as many rows around them as an answer depends on; what
looks at the whole image is a neural memory, which is written token by token and then known. Maps between are on disk.
What comes out is what the model computes on the whole image, but for rounding.

Shape letters: C channels, H W pixels of a map, h w of its token grid, D memory width.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from timm.data import resolve_model_data_config
from torch import Tensor

from convneur.files import write_atomic
from convneur.inference.job import Job
from convneur.inference.scratch import Scratch
from convneur.inference.sources import open_large
from convneur.models import ConvNeur


@dataclass(frozen=True)
class Streamed:
    """What came out.

    Attributes:
        folder: Where it is.
        features: (1, C4), pooled.
        logits: (1, classes); None if the model has no classifier.
        maps: By number of the stage from 0, .npy files (H, W, C) to be opened with ``numpy.load(path, mmap_mode="r")``.
        seconds: Of this call.
    """

    folder: Path
    features: Tensor
    logits: Tensor | None
    maps: dict[int, Path]
    seconds: float


def stream(
    model: ConvNeur,
    source: str | Path | Any,
    sink: str | Path,
    *,
    out_indices: Sequence[int] = (),
    memory_limit: float = 4e9,
    workers: int = 1,
    rows: int | None = None,
    scratch: str | Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    progress: bool = True,
) -> Streamed:
    """Run a backbone on an image of any size, exactly, in bounded memory.

    A call that was killed goes on where it stopped when it is made again, and gives the same bytes; what was written
    between is removed when it ends.

    Args:
        model: Without a global branch, or with neural memories of any configuration.
        source: See `open_large`.
        sink: Folder for what comes out: ``features.npy``, ``logits.npy`` and ``stage_0.npy``, ...
        out_indices: Stages, from 0, whose maps are kept.
        memory_limit: Bytes that this process should have at most. What a device of its own has is not counted.
        workers: Strips at once, each in a thread of its own.
        rows: Rows of a strip, in rows of each stage's map, instead of as many as fit.
        scratch: Folder for maps between; inside ``sink`` if not given. They take about 18 bytes for each pixel of the
            image (convneur_m1).
        mean: Per channel, of images in [0, 1]; the model's own if not given.
        std: Likewise.
        progress: Show a bar on the terminal.

    Raises:
        ValueError: If the model or the image does not fit, or the limit is too low.
        FileNotFoundError: If there is no image.
        UnreadableImageError: If it cannot be read.
        OSError: If the disk is full.
    """
    begun = time.perf_counter()
    wrong = [index for index in out_indices if not 0 <= index < len(model.stages)]
    if wrong:
        raise ValueError(f"out_indices={tuple(out_indices)} is out of range; give 0 to {len(model.stages) - 1}")
    if workers < 1 or (rows is not None and rows < 1):
        raise ValueError("workers and rows are 1 or more")
    if model.head.global_pool.pool_type not in ("avg", ""):
        raise ValueError(
            f"global_pool={model.head.global_pool.pool_type!r} cannot be streamed; create the model with 'avg'"
        )
    image = open_large(source)
    image.check_channels(model.in_chans)
    if min(image.height, image.width) < model.total_stride:
        raise ValueError(
            f"the image of {image.height} x {image.width} px is smaller than the total stride, {model.total_stride} px"
        )
    known = resolve_model_data_config(model)
    look = (tuple(mean or known["mean"]), tuple(std or known["std"]))
    if {len(each) for each in look} != {model.in_chans}:
        raise ValueError(f"give mean and std of {model.in_chans} channels")
    folder = Path(sink).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    kept = Scratch(
        folder if scratch is None else Path(scratch).expanduser(),
        {
            "image": image.identity,
            "model": _fingerprint(model),
            "mean_std": look,
            "out_indices": sorted(set(out_indices)),
            "rows": rows,
        },
        alone=scratch is None,
    )
    training = model.training
    try:
        job = Job(model.eval(), image, look, kept, set(out_indices), memory_limit, workers, rows)
        with _bar(progress) as bar:
            task = bar.add_task(f"{image.height} x {image.width} px", total=job.work)
            pooled = job.run(lambda done: bar.update(task, advance=done))
        with torch.inference_mode():
            features = model.forward_head(pooled, pre_logits=True).cpu()
            logits = model.forward_head(pooled).cpu() if model.num_classes else None
    finally:
        model.train(training)
    maps = {}
    for index, path in job.outputs().items():
        maps[index] = folder / f"stage_{index}.npy"
        shutil.move(path, maps[index])
    for name, value in (("features", features), ("logits", logits)):
        if value is not None:
            np.save(folder / f"{name}.npy", value.numpy())
    seconds = time.perf_counter() - begun
    write_atomic(folder / "stream.json", json.dumps({"image": image.identity, "seconds": seconds}) + "\n")
    kept.remove()
    return Streamed(folder, features, logits, maps, seconds)


def _fingerprint(model: ConvNeur) -> str:
    """What tells these weights and settings from others."""
    found = hashlib.sha256(repr(model.global_config).encode())
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
    return found.hexdigest()


def _bar(shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        disable=not shown,
    )
