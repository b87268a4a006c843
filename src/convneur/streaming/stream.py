"""Exact inference on an image that does not fit in memory.

Stage by stage: tiles pass through what is local, with as many pixels around them as an answer depends on; what
looks at the whole image is a neural memory, which is written token by token and then known. Maps between are on disk.
What comes out is what the model computes on the whole image, but for rounding.

Shape letters: C channels, H W pixels of a map, h w of its token grid, D memory width.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.data import resolve_model_data_config
from torch import Tensor

from convneur.devices import require_finite
from convneur.files import NEW, StrPath, replace_file, write_atomic
from convneur.models import ConvNeur
from convneur.models.weights import weights_hash
from convneur.notes import AlreadyDone
from convneur.outputs import OutputFolder
from convneur.printing import (
    BarColumn,
    Console,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    Told,
)
from convneur.streaming.backbone import BackboneOnDisk
from convneur.streaming.budget import free_bytes
from convneur.streaming.runner import Runner
from convneur.streaming.scratch import Scratch
from convneur.streaming.semantic_fpn import SemanticFpnOnDisk
from convneur.streaming.sources import open_large
from convneur.tasks.pyramid import STRIDES
from convneur.tasks.segmentation.models import Segmenter
from convneur.tasks.segmentation.semantic_fpn import SemanticFPN


@dataclass(frozen=True)
class Streamed:
    """What came out.

    Attributes:
        folder: Where it is.
        features: (1, C4), pooled; None of a segmentation model.
        logits: (1, classes), of a classifier.
        classes: Of a segmentation model, .npy file (H, W) of bytes.
        maps: By number of the stage from 0, .npy files (H, W, C) to be opened with ``numpy.load(path, mmap_mode="r")``.
        seconds: Of this call.
        computed: By this call, rather than by one before with the same settings.
        answers: Of `stream_saved`: the most likely classes and their probabilities, or of a segmentation model all
            classes of the image and their shares of its pixels.
    """

    folder: Path
    features: Tensor | None
    logits: Tensor | None
    classes: Path | None
    maps: dict[int, Path]
    seconds: float
    computed: bool = True
    answers: tuple[tuple[str, float], ...] = ()


def stream(
    model: ConvNeur | Segmenter,
    source: StrPath | Any,
    sink: StrPath,
    *,
    out_indices: Sequence[int] = (),
    memory_limit: float | None = None,
    workers: int = 1,
    tile: tuple[int, int] | None = None,
    scratch: StrPath | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    fill: float | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> Streamed:
    """Run a model on an image of any size, exactly, in bounded memory.

    A call that was killed goes on where it stopped when it is made again, and gives the same bytes; what was written
    between is removed when it ends. The same call again finds what is there.

    Args:
        model: A backbone without global branch or with neural memories, or a Semantic FPN on one. Memories with
            state="mlp" in float64 only, and not with anchor="previous" in chunks.
        source: See `open_large`.
        sink: Folder for what comes out: ``features.npy``, ``logits.npy``, ``classes.npy`` and ``stage_0.npy``, ...
        out_indices: Stages, from 0, whose maps are kept.
        memory_limit: Bytes that this process should have at most. What a device of its own has is not counted. If not
            given, 4 GB, or 1 GB beyond what the process has already where that is more.
        workers: Strips at once, each in a thread of its own.
        tile: Rows of a strip, and columns of what is computed at once of it, in pixels of each map, instead of what is
            fast and fits.
        scratch: Folder for maps between; inside ``sink`` if not given. For each pixel of the image they take about 18
            bytes (convneur_m1), with a decoder of 128 channels 100.
        mean: Per channel, of images in [0, 1]; the model's own if not given.
        std: Likewise.
        fill: What takes the place of missing pixels (NaN, infinite, no data), in numbers of the image.
        progress: Show a bar on the terminal.
        overwrite: Remove what an earlier call with other settings wrote.

    Raises:
        ValueError: If the model or the image does not fit, the limit is too low, or the model answers NaN or infinity.
        FileNotFoundError: If there is no image.
        UnreadableImageError: If it cannot be read, or pixels are missing and there is no ``fill``.
        FileExistsError: If ``sink`` holds what another call wrote, or something else.
        BlockingIOError: If another process is at work in ``sink`` or on the same job in ``scratch``.
        OSError: If the disk is full.
    """
    begun = time.perf_counter()
    backbone, decoder = _parts(model)
    like = next(model.parameters())
    if like.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"a model in {like.dtype} cannot be streamed; give model.float()")
    _check_memory(backbone, like.dtype)
    wrong = [index for index in out_indices if not 0 <= index < len(backbone.stages)]
    if wrong:
        raise ValueError(f"out_indices={tuple(out_indices)} is out of range; give 0 to {len(backbone.stages) - 1}")
    if workers < 1 or (tile is not None and min(tile) < 1):
        raise ValueError("workers, and both sides of a tile, are 1 or more")
    image = open_large(source, fill)
    image.check_channels(backbone.in_chans)
    if image.samples.note and backbone.in_chans == 3:
        warnings.warn(image.samples.note, Told, stacklevel=2)
    if min(image.height, image.width) < backbone.total_stride:
        raise ValueError(
            f"the image of {image.height} x {image.width} px is smaller than the total stride, "
            f"{backbone.total_stride} px"
        )
    known = resolve_model_data_config(backbone)
    look = (tuple(mean or known["mean"]), tuple(std or known["std"]))
    if {len(each) for each in look} != {backbone.in_chans}:
        raise ValueError(f"give mean and std of {backbone.in_chans} channels")
    plan: dict[str, Any] = {
        "image": image.identity,
        "samples": image.samples.meaning,
        "weights": weights_hash(model),
        "memory": repr(backbone.global_config),  # weights fit several
        "mean_std": look,
        "out_indices": sorted(set(out_indices)),
        "tile": tile,
    }
    if fill is not None:
        plan["fill"] = fill
    folder = Path(sink).expanduser()
    with OutputFolder(folder, "stream", overwrite) as output:
        try:
            output.check(plan)
        except AlreadyDone:
            return _found(folder, out_indices, time.perf_counter() - begun)
        output.start(go_on=True)
        with Scratch(folder if scratch is None else Path(scratch).expanduser(), plan, alone=scratch is None) as kept:
            free = free_bytes(memory_limit) // workers
            runner = Runner(kept, like, workers, free, tile)
            wanted = set(range(4)) if decoder is not None else set(out_indices)
            features = logits = classes = None
            training = model.training
            try:
                model.eval()
                body = BackboneOnDisk(backbone, image, look, runner, wanted, 1 if decoder is None else STRIDES[-1])
                head = None if decoder is None else SemanticFpnOnDisk(decoder, runner, (image.height, image.width))
                with _bar(progress) as bar:
                    work = body.work + (head.work if head is not None else 0)
                    task = bar.add_task(f"{image.height} x {image.width} px", total=work)

                    def advance(done: float) -> None:
                        bar.update(task, advance=done)

                    body.run(advance)
                    if head is not None:
                        classes = head.run(body.maps(), advance)
                if head is None:
                    with torch.inference_mode():
                        pooled = body.pooled()
                        features = backbone.forward_head(pooled, pre_logits=True).cpu()
                        logits = backbone.forward_head(pooled).cpu() if backbone.num_classes else None
                        require_finite(features if logits is None else logits)
            finally:
                model.train(training)
            for name, value in (("features", features), ("logits", logits)):
                if value is not None:
                    with replace_file(folder / f"{name}.npy") as fresh:
                        np.save(fresh, value.numpy())
            maps = {
                index: _placed(held.path, folder / f"stage_{index}.npy")
                for index, held in body.maps().items()
                if index in out_indices
            }
            said = None if classes is None else _placed(classes.path, folder / "classes.npy")
            seconds = time.perf_counter() - begun
            write_atomic(folder / "stream.json", json.dumps({"image": image.identity, "seconds": seconds}) + "\n")
            output.finish()
            kept.remove()
            return Streamed(folder, features, logits, said, maps, seconds)


def _found(folder: Path, out_indices: Sequence[int], seconds: float) -> Streamed:
    """What an earlier call wrote."""

    def vector(name: str) -> Tensor | None:
        path = folder / f"{name}.npy"
        return torch.from_numpy(np.load(path, allow_pickle=False)) if path.is_file() else None

    classes = folder / "classes.npy"
    maps = {index: folder / f"stage_{index}.npy" for index in sorted(set(out_indices))}
    said = classes if classes.is_file() else None
    return Streamed(folder, vector("features"), vector("logits"), said, maps, seconds, computed=False)


def _parts(model: ConvNeur | Segmenter) -> tuple[ConvNeur, SemanticFPN | None]:
    """Backbone and decoder of what can be streamed."""
    if isinstance(model, ConvNeur):
        pool = model.head.global_pool.pool_type
        if pool not in ("avg", ""):
            raise ValueError(f"global_pool={pool!r} cannot be streamed; create the model with 'avg'")
        return model, None
    net = model.net if isinstance(model, Segmenter) else model
    if not isinstance(net, SemanticFPN):
        raise ValueError(f"{type(net).__name__} cannot be streamed; a ConvNeur can, and Semantic FPN on one")
    backbone: Any = getattr(net.pyramid.body, "model", net.pyramid.body)
    if not isinstance(backbone, ConvNeur):
        raise ValueError(f"{type(backbone).__name__} cannot be streamed; take a ConvNeur as the backbone")
    return backbone, net


def _check_memory(backbone: ConvNeur, dtype: torch.dtype) -> None:
    """Refuse memories of which rounding decides what they are; docs/results/streaming.md has how far."""
    config = backbone.global_config
    memory = config.memory
    if config.placement == "none" or memory.state != "mlp":
        return
    if memory.anchor == "previous" and memory.chunk_size is not None:
        raise ValueError(
            f"a memory with state='mlp', anchor='previous' and chunk_size={memory.chunk_size} cannot be streamed: each "
            "chunk multiplies rounding, and nothing computes it twice alike; train one with anchor='initial'"
        )
    if dtype != torch.float64:
        raise ValueError(
            "a memory with state='mlp' multiplies rounding too much to be streamed in float32; "
            "give model.double(), or --float64"
        )


def _placed(path: Path, target: Path) -> Path:
    """A second name for a file, so that a call that is killed now still finds the first; a copy on another disk."""
    fresh = target.with_name(f"{NEW}{target.name}")
    for old in (fresh, target):
        old.unlink(missing_ok=True)
    try:
        os.link(path, fresh)
    except OSError:
        shutil.copyfile(path, fresh)
    fresh.replace(target)
    return target


def _bar(shown: bool) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    left = TextColumn("left"), TimeRemainingColumn()
    return Progress(*columns, *left, console=Console(stderr=True), disable=not shown)
