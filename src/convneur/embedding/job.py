"""Pooled features of all images of a source, as parquet parts; a job that was killed goes on where it stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from convneur.data.bad_samples import BadSamples
from convneur.data.loading import default_workers
from convneur.data.unlabelled import UnlabelledImages, open_unlabelled
from convneur.devices import device_for
from convneur.embedding.embedder import Embedder, Job
from convneur.embedding.features import FeatureModel, load_features
from convneur.embedding.shard_writer import ShardWriter, WrittenShard
from convneur.files import StrPath
from convneur.interrupts import Interrupts
from convneur.outputs import OutputFolder
from convneur.printing import (
    BarColumn,
    Console,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    status,
)
from convneur.python_calls import python_call
from convneur_options.embedding import DEFAULTS, EmbedConfig
from convneur_options.typed import typed

Compute = Callable[[Sequence[int], Job, Callable[[int], object]], Generator[WrittenShard, None, None]]


class HowFar(NamedTuple):
    """How far a job is: images of all parts, and how many of them are done, this call and those before."""

    total: int
    done: int


class Embedded(NamedTuple):
    """What is in the folder after a call, and what this call did.

    Attributes:
        rows: Features, over all parts.
        unreadable: Images that could not be read, and why.
        parts: In the folder.
        width: D.
        computed: Images of the parts that this call computed.
        seconds: That this took, with the start of the engine.
        notes: What of the source was left out, and why.
    """

    rows: int
    unreadable: dict[str, str]
    parts: int
    width: int
    computed: int
    seconds: float
    notes: Sequence[str] = ()

    @property
    def images_per_second(self) -> float:
        """Of this call; 0 if there was nothing left to do."""
        return self.computed / self.seconds if self.computed else 0.0


@python_call()
def embed(
    source: StrPath,
    model: StrPath,
    out: StrPath,
    config: EmbedConfig = DEFAULTS,
    watch: Callable[[HowFar], object] = lambda far: None,
    overwrite: bool = False,
    progress: bool = True,
) -> Embedded:
    """Compute features and write them to ``part-*.parquet``; parts that are there are left alone.

    A part has the columns ``id`` (string), ``label`` where the source has labels, and ``embedding`` (a list of D
    numbers). ``embed.json`` says what they are made from, ``failed.jsonl`` what could not be read. Delete a part to
    have it made again.

    Args:
        source: Folder of images, parquet files, or shards: see `convneur.data.unlabelled`.
        model: As for `convneur.embedding.features.load_features`.
        out: Folder; created if it is not there.
        config: How.
        watch: Told how far it is, at the beginning and whenever that changes.
        overwrite: Remove the parts of an earlier job that are there, and begin anew.
        progress: Show a bar on the terminal.

    Raises:
        FileNotFoundError: If there is nothing at ``source`` or ``model``.
        ValueError: If one of them cannot be used, the folder was begun with other ones, or too many images are
            unreadable; what is done stays.
        FileExistsError: If the folder holds something else.
        BlockingIOError: If another process fills the folder.
        ImportError: If Ray is needed and missing.
        OSError: If ``out`` is a file, or nothing can be written there.
        KeyboardInterrupt: On Ctrl-C and SIGTERM, with what is done.
    """
    config = typed(config)
    config.check()
    source, model = os.fspath(source), os.fspath(model)
    out = Path(out).expanduser().absolute()
    with _bar(model, watch, progress) as show, OutputFolder(out, "embed", overwrite) as folder:
        compute: Compute = _compute_here
        if config.engine == "ray":
            from convneur.embedding.ray_engine import compute_on_ray

            compute = compute_on_ray
        images = open_unlabelled(source)
        features = load_features(model, config.image_size)
        shards = ShardWriter(out, len(images), config.part_size, features.width, config.half)
        made_from = _made_from(images, features, config)
        if overwrite and not shards.begun(made_from):
            folder.clear()
        shards.claim(made_from)
        shards.tell({"model": model, "source": source, "images": len(images), "parts": len(shards)})
        return _fill(Job(images, features, shards, config), compute, show)


@contextmanager
def _bar(
    model: str, watch: Callable[[HowFar], object], progress: bool
) -> Generator[Callable[[HowFar], object], None, None]:
    """What shows how far a job is, and tells who watches."""
    columns = TextColumn("embedding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not progress)
    with ExitStack() as shown:
        shown.enter_context(status(f"Loading {model} and looking for images", progress))

        def show(far: HowFar) -> None:
            if not bar.tasks:
                shown.close()
                shown.enter_context(bar)
                bar.add_task("", total=far.total, completed=far.done)  # earlier calls do not count as speed
            bar.update(bar.task_ids[0], completed=far.done)
            watch(far)

        try:
            yield show
        except KeyboardInterrupt as stop:
            told = f"{bar.tasks[0].completed:,.0f} images done" if bar.tasks else "nothing done"
            stop.args = (f"stopped, {told}; the same command goes on from the last whole part",)
            raise


def _compute_here(
    wanted: Sequence[int], job: Job, advance: Callable[[int], object]
) -> Generator[WrittenShard, None, None]:
    """Compute and write parts in this process."""
    shards, config = job.shards, job.config
    device = device_for(config.device)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.type, True):
        raise ValueError(f"--device {device} is not to be had on this machine; leave it out, or give cpu")
    count = sum(len(shards.images(number)) for number in wanted)
    workers = min(count // config.batch_size, default_workers()) if config.workers is None else config.workers
    embedder = Embedder(job, workers, device)
    # A loader's process that is left in the middle of handing over a batch would tell of it with a traceback.
    with Interrupts(wait=True) as interrupts:

        def after_batch(count: int) -> None:
            advance(count)
            interrupts.check()

        for part in embedder.compute(wanted, after_batch):
            yield shards.write(part, job.images)


def _fill(job: Job, compute: Compute, watch: Callable[[HowFar], object]) -> Embedded:
    images, features, shards, config = job
    shards.sweep()
    found = shards.found()
    unreadable = BadSamples(len(images), config.max_unreadable)
    before = done = sum(len(shards.images(number)) for number in found)
    wanted = [number for number in range(len(shards)) if number not in found]

    def advance(count: int) -> None:
        nonlocal done
        done += count
        watch(HowFar(len(images), done))

    began = time.perf_counter()
    try:
        advance(0)
        for each in found.values():
            unreadable.add(each.unreadable)
        if wanted:
            with closing(compute(wanted, job, advance)) as computed:
                for each in computed:
                    found[each.number] = each
                    unreadable.add(each.unreadable)
    finally:
        shards.list_unreadable(found)
        shards.sweep()
    seconds = time.perf_counter() - began
    rows = sum(each.rows for each in found.values())
    result = Embedded(rows, unreadable.found, len(found), features.width, done - before, seconds, images.notes)
    facts: dict[str, Any] = {"finished": True, "embedded": rows, "unreadable": len(unreadable.found)}
    if result.computed:
        facts["last_call"] = {
            "images": result.computed,
            "seconds": round(seconds, 3),
            "images_per_second": round(result.images_per_second, 2),
            "engine": config.engine,
            "batch_size": config.batch_size,
        }
    shards.tell(facts)
    return result


def _made_from(images: UnlabelledImages, features: FeatureModel, config: EmbedConfig) -> dict[str, Any]:
    """What decides what is in the parts, but for rounding."""
    return {
        "model": features.identity,
        "preprocessing": asdict(features.preprocessing),
        "source": images.fingerprint,
        "part_size": config.part_size,
        "type": "float16" if config.half else "float32",
        "width": features.width,
        "max_pixels": config.max_pixels,
    }
