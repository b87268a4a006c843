"""Pooled features of all images of a source, as parquet parts; a job that was killed goes on where it stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from convneur.data.bad_samples import BadSamples
from convneur.data.decode import MAX_PIXELS
from convneur.data.loading import default_workers
from convneur.data.unlabelled import UnlabelledImages, open_unlabelled
from convneur.files import StrPath
from convneur.inference.embedder import Embedder
from convneur.inference.features import FeatureModel, load_features
from convneur.inference.parts import Done, Parts
from convneur.interrupts import Interrupts
from convneur.outputs import OutputFolder
from convneur.tasks.evaluation import device_for

EngineName = Literal["local", "ray"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class EmbedConfig:
    """How features are computed. The first four decide what comes out, the others who does the work.

    Attributes:
        part_size: Images in a part.
        image_size: Pixels a side; what the model was made for if not given.
        half: Keep float16 instead of float32.
        max_pixels: Larger images count as unreadable.
        max_unreadable: Largest share of images that may be unreadable.
        batch_size: Images at a time; another one changes rounding only.
        workers: Processes that decode images, for each model that computes; None for as many as suit the machine.
        device: To compute on; ``auto`` takes a GPU if there is one.
        engine: ``local`` computes in this process, ``ray`` on a cluster.
        ray_address: Of a cluster, or ``auto`` for the one this machine is in; None starts one on this machine.
        ray_workers: Models that compute at the same time, with ``ray``.
    """

    part_size: int = 4096
    image_size: int | None = None
    half: bool = False
    max_pixels: int = MAX_PIXELS
    max_unreadable: float = 0.01
    batch_size: int = 64
    workers: int | None = None
    device: DeviceName = "auto"
    engine: EngineName = "local"
    ray_address: str | None = None
    ray_workers: int = 2

    def check(self) -> None:
        """Refuse numbers, by the name of their flag, with which nothing can be computed."""
        numbers: dict[str, tuple[float, float]] = {
            "part-size": (self.part_size, 1),
            "image-size": (1 if self.image_size is None else self.image_size, 1),
            "batch-size": (self.batch_size, 1),
            "workers": (self.workers or 0, 0),
            "ray-workers": (self.ray_workers, 1),
            "max-megapixels": (self.max_pixels, 1),
        }
        for flag, (number, least) in numbers.items():
            if number < least:
                raise ValueError(f"--{flag} {number:g} is out of range; give at least {least:g}")
        if not 0 <= self.max_unreadable <= 1:
            raise ValueError(f"--max-unreadable {self.max_unreadable} is out of range; give 0 to 1")


class Progress(NamedTuple):
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


def embed(
    source: StrPath,
    model: StrPath,
    out: StrPath,
    config: EmbedConfig = EmbedConfig(),
    watch: Callable[[Progress], object] = lambda progress: None,
    overwrite: bool = False,
) -> Embedded:
    """Compute features and write them to ``part-*.parquet``; parts that are there are left alone.

    A part has the columns ``id`` (string), ``label`` where the source has labels, and ``embedding`` (a list of D
    numbers). ``embed.json`` says what they are made from, ``failed.jsonl`` what could not be read. Delete a part to
    have it made again.

    Args:
        source: Folder of images, parquet files, or shards: see `convneur.data.unlabelled`.
        model: As for `convneur.inference.features.load_features`.
        out: Folder; created if it is not there.
        config: How.
        watch: Told how far it is, at the beginning and whenever that changes.
        overwrite: Remove the parts of an earlier job that are there, and begin anew.

    Raises:
        FileNotFoundError: If there is nothing at ``source`` or ``model``.
        ValueError: If one of them cannot be used, the folder was begun with other ones, or too many images are
            unreadable; what is done stays.
        FileExistsError: If the folder holds something else.
        BlockingIOError: If another process fills the folder.
        ImportError: If Ray is needed and missing.
        OSError: If ``out`` is a file, or nothing can be written there.
    """
    config.check()
    source, model = os.fspath(source), os.fspath(model)
    out = Path(out).expanduser().absolute()
    with OutputFolder(out, "embed", overwrite) as folder:
        compute = _engine(config)
        images = open_unlabelled(source)
        features = load_features(model, config.image_size)
        parts = Parts(out, len(images), config.part_size, features.width, config.half)
        made_from = _made_from(images, features, config)
        if overwrite and not parts.begun(made_from):
            folder.clear()
        parts.claim(made_from)
        parts.tell({"model": model, "source": source, "images": len(images), "parts": len(parts)})
        return _fill(parts, images, features, config, compute, watch)


Compute = Callable[
    [Sequence[int], Parts, UnlabelledImages, FeatureModel, EmbedConfig, Callable[[int], object]],
    Generator[Done, None, None],
]


def _engine(config: EmbedConfig) -> Compute:
    if config.engine == "local":
        return _compute_here
    from convneur.inference.ray_engine import compute_on_ray

    return compute_on_ray


def _compute_here(
    wanted: Sequence[int],
    parts: Parts,
    images: UnlabelledImages,
    features: FeatureModel,
    config: EmbedConfig,
    advance: Callable[[int], object],
) -> Generator[Done, None, None]:
    """Compute and write parts in this process."""
    device = device_for(config.device)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.type, True):
        raise ValueError(f"--device {device} is not to be had on this machine; leave it out, or give cpu")
    count = sum(len(parts.images(number)) for number in wanted)
    workers = min(count // config.batch_size, default_workers()) if config.workers is None else config.workers
    embedder = Embedder(images, features, parts, config.batch_size, workers, device, config.max_pixels)
    # A loader's process that is left in the middle of handing over a batch would tell of it with a traceback.
    with Interrupts(wait=True) as interrupts:

        def after_batch(count: int) -> None:
            advance(count)
            interrupts.check()

        for part in embedder.compute(wanted, after_batch):
            yield parts.write(part, images)


def _fill(
    parts: Parts,
    images: UnlabelledImages,
    features: FeatureModel,
    config: EmbedConfig,
    compute: Compute,
    watch: Callable[[Progress], object],
) -> Embedded:
    parts.sweep()
    found = parts.found()
    unreadable = BadSamples(len(images), config.max_unreadable)
    before = done = sum(len(parts.images(number)) for number in found)
    wanted = [number for number in range(len(parts)) if number not in found]

    def advance(count: int) -> None:
        nonlocal done
        done += count
        watch(Progress(len(images), done))

    began = time.perf_counter()
    try:
        advance(0)
        for each in found.values():
            unreadable.add(each.unreadable)
        if wanted:
            with closing(compute(wanted, parts, images, features, config, advance)) as computed:
                for each in computed:
                    found[each.number] = each
                    unreadable.add(each.unreadable)
    finally:
        parts.list_unreadable(found)
        parts.sweep()
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
    parts.tell(facts)
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
