"""Batches whose content depends on the seed, the epoch and the place in the epoch, and on nothing else.

Which images make a batch follows from (seed, epoch); how an image is augmented follows from (seed, epoch, index). So
neither the number of worker processes nor a crash in between changes what the model sees, and a run goes on at the
exact sample by starting an epoch's batches later.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from convneur.data.decode import MAX_PIXELS, UnreadableImageError, decode_image
from convneur.data.formats.images import Images
from convneur.data.shared_pixels import SharedPixels
from convneur.data.transforms import Transform

T = TypeVar("T")
UNKNOWN = -1  # label of an image that could not be read, where it is not replaced by another
PADDING = -1  # index of an image that is there only to give every process as many


class Batch(NamedTuple):
    """Images (B, C, H, W), labels (B,), their indices in the source (B,), and which files could not be read and why."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    unreadable: list[tuple[str, str]]


class Example(NamedTuple):
    """One image of a batch."""

    image: Tensor
    label: int
    number: int
    unreadable: list[tuple[str, str]]


def collate(examples: Sequence[Example]) -> Batch:
    """Stack examples to a batch."""
    return Batch(
        torch.stack([e.image for e in examples]),
        torch.tensor([e.label for e in examples]),
        torch.tensor([e.number for e in examples]),
        [note for e in examples for note in e.unreadable],
    )


class ImageCache:
    """The decoded images of a source; as many as fit are kept, so that later epochs need not decode them again.

    All processes that load share what is kept.

    Args:
        images: Encoded.
        max_pixels: Larger images are refused.
        keep_bytes: Memory that may be used for decoded images.
    """

    def __init__(self, images: Images, max_pixels: int = MAX_PIXELS, keep_bytes: int = 0) -> None:
        self.images, self.max_pixels = images, max_pixels
        self.kept = SharedPixels(len(images), keep_bytes) if keep_bytes else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Image.Image:
        """Raises `UnreadableImageError` or `OSError` where there is no picture."""
        picture = None if self.kept is None else self.kept.get(index)
        if picture is None:
            encoded: Any = self.images.read(index)
            if isinstance(encoded, Image.Image):  # given in memory
                return encoded
            picture = decode_image(encoded, self.max_pixels)
            if self.kept is not None:
                self.kept.put(index, picture)
        return picture


def next_usable(images: Any, wanted: int, load: Callable[[int], T]) -> tuple[int, T, list[tuple[str, str]]]:
    """What there is of an image, or of the next that can be used.

    Args:
        images: All of them.
        wanted: Number of the image.
        load: Raises `UnreadableImageError` or `OSError` where one cannot be used.

    Returns:
        Its number, what ``load`` gave, and which files could not be used on the way and why.

    Raises:
        ValueError: If none can be used.
    """
    unreadable: list[tuple[str, str]] = []
    for step in range(len(images)):
        index = (wanted + step) % len(images)
        try:
            return index, load(index), unreadable
        except (UnreadableImageError, OSError) as error:
            unreadable.append((images.name(index), str(error)))
    raise ValueError(f"none of {len(images)} images can be read; the first: {': '.join(unreadable[0])}")


class TrainImages(Dataset[Example]):
    """Augmented images by (epoch, index). One that cannot be read is replaced by the next that can, and reported."""

    def __init__(self, pictures: ImageCache, transform: Transform, seed: int) -> None:
        self.pictures, self.images, self.transform, self.seed = pictures, pictures.images, transform, seed

    def __getitem__(self, key: tuple[int, int]) -> Example:
        epoch, wanted = key
        index, picture, unreadable = next_usable(self.images, wanted, self.pictures.__getitem__)
        with seeded(self.seed, epoch, index):
            return Example(self.transform(picture), int(self.images.labels[index]), index, unreadable)


class EvalImages(Dataset[Example]):
    """Images in order. One that cannot be read is black with the label `UNKNOWN`, and reported."""

    def __init__(self, pictures: ImageCache, transform: Transform) -> None:
        self.pictures, self.images, self.transform = pictures, pictures.images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        if index == PADDING:
            return black_example(self.transform, index, [])
        try:
            picture = self.pictures[index]
        except (UnreadableImageError, OSError) as error:
            return black_example(self.transform, index, [(self.images.name(index), str(error))])
        return Example(self.transform(picture), int(self.images.labels[index]), index, [])


def black_example(transform: Transform, index: int, unreadable: list[tuple[str, str]]) -> Example:
    """What stands for an image that counts nowhere."""
    return Example(transform(Image.new("RGB", (32, 32))), UNKNOWN, index, unreadable)


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Shuffled batches of (epoch, index), the same for the same seed; what is left over of an epoch is dropped.

    With several processes all see the same global batches, each its own part of them.

    Args:
        count: Images in the set.
        batch_size: Images per batch of one process.
        seed: Of the order.
        rank: Number of this process.
        world: How many there are.
    """

    def __init__(self, count: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        check_batch(count, batch_size, world)
        self.count, self.batch_size, self.seed, self.rank, self.world = count, batch_size, seed, rank, world
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return self.count // (self.batch_size * self.world)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        order = np.random.default_rng([self.seed, epoch]).permutation(self.count).tolist()
        for batch in range(self.start, len(self)):
            first = (batch * self.world + self.rank) * self.batch_size
            yield [(epoch, index) for index in order[first : first + self.batch_size]]


def check_batch(count: int, batch_size: int, world: int) -> None:
    """Refuse a batch, of each of ``world`` processes, that no epoch could fill."""
    if batch_size * world > count:
        what, fix = f"a batch of {batch_size}", "give a smaller --batch-size"
        if world > 1:
            what, fix = f"{what} in each of {world} processes", f"{fix}, or fewer --fit.devices"
        raise ValueError(f"{what} is larger than the set of {count} images; {fix}")


class TrainLoader(DataLoader[Any]):
    """A loader that can start in the middle of an epoch; Lightning keeps its state in the checkpoint.

    ``order`` is what decides which batches come: it has ``epoch`` and ``start``. Whoever trains sets ``done``, the
    batches of the epoch that were trained on; the loader itself knows only which ones it has fetched.
    """

    def __init__(self, order: Any, **arguments: Any) -> None:
        # The loader draws a seed for its workers; with a generator of its own that changes no other random number.
        super().__init__(generator=torch.Generator(), **arguments)
        self.order = order
        self.done = 0

    def set_epoch(self, epoch: int) -> None:
        """Go on to another epoch, from its first batch on."""
        if epoch != self.order.epoch:
            self.order.epoch, self.order.start, self.done = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """Where to go on."""
        if self.done >= len(self.order):
            return {"epoch": self.order.epoch + 1, "start": 0}
        return {"epoch": self.order.epoch, "start": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there at the next pass."""
        self.order.epoch, self.order.start, self.done = state["epoch"], state["start"], state["start"]


class DistributedEvalSampler(Sampler[int]):
    """Every world-th index in order: each process evaluates its own, none twice, and all as many (with padding)."""

    def __init__(self, count: int, rank: int = 0, world: int = 1) -> None:
        self.indices = list(range(rank, count, world))
        self.indices += [PADDING] * (-(-count // world) - len(self.indices))

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Random numbers that follow from ``key``; those of the main process go on afterwards as if nothing was drawn."""
    kept = None
    if get_worker_info() is None:
        kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        if kept is not None:
            random.setstate(kept[0])
            np.random.set_state(kept[1])
            torch.set_rng_state(kept[2])


def ignore_interrupts(_worker: int) -> None:
    """Let a worker process live on when Ctrl-C reaches it, as long as the process that trains needs it.

    Where that process ends while it fetches a batch, the thread that hands over memory is left without it. That is no
    error of the worker's, and not worth a traceback.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _except_when_left  # which `multiprocessing.resource_sharer` calls in its thread


def _except_when_left(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def default_workers() -> int:
    """Worker processes that keep a model fed and leave it cores to compute on: half of the cores, 1 to 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores // 2))
