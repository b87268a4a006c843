"""WebDataset shards in a row: batches to train on and to judge by; see `convneur.data.formats.shards`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from convneur.data.decode import MAX_PIXELS, UnreadableImageError, decode_image
from convneur.data.formats import tar
from convneur.data.loading import PADDING, Batch, Example, black_example, check_batch, collate, default_workers, seeded
from convneur.data.transforms import Transform

NEEDS = "descriptions of shards need the package webdataset; pip install 'convneur[wds]'"
BUFFER = 1000  # samples that are shuffled among each other, beside the order of the shards


@dataclass(frozen=True)
class Shards:
    """Shards of one split.

    Attributes:
        urls: Paths; or, if ``allow_remote``, whatever webdataset opens.
        count: Samples in all.
        classes: Labels are below it.
        allow_remote: Whether addresses may be read and commands run.
        surveyed: Whether ``count`` was found by looking, and samples without an image or a label are named: they are
            passed over then, and count as unreadable otherwise.
    """

    urls: tuple[str, ...]
    count: int
    classes: int
    allow_remote: bool = False
    surveyed: bool = False

    def __len__(self) -> int:
        return self.count


def is_remote(url: str) -> bool:
    """Whether it is more than a path: ``https:``, ``pipe:`` and the like."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", url) is not None  # a single letter is a drive


@dataclass(frozen=True)
class Sample:
    """An image and its label, as they are stored."""

    shard: str
    key: str
    image: bytes | None = None
    label: bytes | None = None

    @property
    def name(self) -> str:
        """Where it is."""
        return f"{self.shard} {self.key}"

    def number(self) -> int:
        """Its label; an `UnreadableImageError` if it has none, or no image."""
        try:
            label = None if self.label is None else tar.label(self.label, f"{self.key}.cls")
        except ValueError as error:
            raise UnreadableImageError(str(error)) from error
        if self.image is None or label is None:
            raise UnreadableImageError("the sample lacks an image or a .cls label")
        if label < 0:
            raise UnreadableImageError(f"the label {label} means none")
        return label

    @property
    def is_whole(self) -> bool:
        """Whether it has an image and a label."""
        try:
            return self.number() >= 0
        except UnreadableImageError:
            return False

    def example(self, number: int, transform: Transform, max_pixels: int, classes: int) -> Example:
        """Decoded; an `UnreadableImageError` if that is not possible."""
        label = self.number()
        if label >= classes:
            raise UnreadableImageError(f"the label {label} is none of {classes} classes")
        assert self.image is not None
        return Example(transform(decode_image(self.image, max_pixels)), label, number, [])


def _open(shards: Shards, url: str) -> Iterator[tar.Sample[bytes]]:
    if not is_remote(url):
        yield from tar.read(Path(url), tar.content)
        return
    if not shards.allow_remote:
        raise ValueError(f"{url!r} is elsewhere; --allow-remote reads it")
    try:
        from webdataset.gopen import gopen
    except ImportError as error:
        raise ImportError(NEEDS) from error
    with gopen(url) as file, tar.whole(url):
        yield from tar.samples(file, "r|*", url, tar.content)


def _samples(shards: Shards, urls: Iterable[str]) -> Iterator[Sample]:
    """Samples of some of the shards, in order; a ValueError if a shard is damaged."""
    for url in urls:
        for found in _open(shards, url):
            sample = Sample(url, found.key, found.image, found.label)
            if sample.is_whole or not shards.surveyed:
                yield sample


def shard_workers(shards: Shards, workers: int | None, world: int) -> int:
    """Worker processes that have a shard each; a ValueError if more are asked for."""
    if workers is None:
        return min(default_workers(), len(shards.urls) // world)
    readers = max(1, workers) * world
    if readers > len(shards.urls):
        raise ValueError(
            f"{len(shards.urls)} shards cannot feed {readers} readers; give fewer --workers, or more shards"
        )
    return workers


class ShardStream(IterableDataset[Batch]):
    """Shuffled batches of an endless row of samples, cut into epochs; the same for the same seed and worker count.

    Every reader (worker process of a training process) has shards of its own and goes round them; their order is drawn
    anew in each epoch, and samples are shuffled within a buffer. To go on in the middle of an epoch, samples are read
    over without being decoded.
    """

    def __init__(
        self,
        shards: Shards,
        transform: Transform,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        check_batch(shards.count, batch_size, world)
        self.shards, self.transform, self.batch_size, self.seed = shards, transform, batch_size, seed
        self.rank, self.world, self.max_pixels = rank, world, max_pixels
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return self.shards.count // (self.batch_size * self.world)

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        workers, worker = (info.num_workers, info.id) if info is not None else (1, 0)
        worker = (worker + self.start) % workers  # the loader asks its worker 0 first, wherever the epoch goes on
        reader, readers = self.rank * workers + worker, self.world * workers
        mine = range(worker, len(self), workers)
        row = self._shuffled(reader, readers)
        for _ in range(self.batch_size * sum(batch < self.start for batch in mine)):
            next(row)
        for batch in mine:
            if batch >= self.start:
                yield self._batch(list(itertools.islice(row, self.batch_size)), reader)

    def _shuffled(self, reader: int, readers: int) -> Iterator[tuple[int, Sample]]:
        draw = np.random.default_rng([self.seed, self.epoch, reader])
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.shards.urls))
        urls = [self.shards.urls[i] for i in order[reader::readers]]
        number = itertools.count()
        while True:
            buffer: list[tuple[int, Sample]] = []
            for sample in _samples(self.shards, urls):
                entry = (next(number), sample)
                if len(buffer) < BUFFER:
                    buffer.append(entry)
                else:
                    place = int(draw.integers(BUFFER))
                    chosen, buffer[place] = buffer[place], entry
                    yield chosen
            if not buffer:
                raise ValueError(f"{urls[0]} and the other shards of a reader hold no samples; give shards of images")
            yield from (buffer[i] for i in draw.permutation(len(buffer)))

    def _batch(self, samples: list[tuple[int, Sample]], reader: int) -> Batch:
        """Decode samples; one that cannot be read is replaced by the next of the batch that can, and reported."""
        examples: list[Example | None] = []
        unreadable: list[tuple[str, str]] = []
        for number, sample in samples:
            with seeded(self.seed, self.epoch, reader, number):
                try:
                    examples.append(sample.example(number, self.transform, self.max_pixels, self.shards.classes))
                except UnreadableImageError as error:
                    examples.append(None)
                    unreadable.append((sample.name, str(error)))
        readable = [example for example in examples if example is not None]
        if not readable:
            raise ValueError(
                f"none of {len(samples)} samples in a row can be read; the first: {': '.join(unreadable[0])}"
            )
        filled = [example or readable[place % len(readable)] for place, example in enumerate(examples)]
        return collate(filled)._replace(unreadable=unreadable)


class OrderedShards(IterableDataset[Batch]):
    """All samples once, in order; each process judges every world-th, and all as many (with padding)."""

    def __init__(
        self,
        shards: Shards,
        transform: Transform,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.shards, self.transform, self.batch_size = shards, transform, batch_size
        self.rank, self.world, self.max_pixels = rank, world, max_pixels

    def __len__(self) -> int:
        return -(-self.shards.count // (self.world * self.batch_size))

    def __iter__(self) -> Iterator[Batch]:
        row = enumerate(_samples(self.shards, self.shards.urls))
        mine = itertools.islice(row, self.rank, self.shards.count, self.world)
        each = -(-self.shards.count // self.world)
        padded = itertools.chain(mine, itertools.repeat((PADDING, Sample("", ""))))
        for first in range(0, each, self.batch_size):
            examples = []
            for number, sample in itertools.islice(padded, min(self.batch_size, each - first)):
                if number == PADDING:
                    examples.append(black_example(self.transform, PADDING, []))
                    continue
                try:
                    examples.append(sample.example(number, self.transform, self.max_pixels, self.shards.classes))
                except UnreadableImageError as error:
                    examples.append(black_example(self.transform, number, [(sample.name, str(error))]))
            yield collate(examples)
