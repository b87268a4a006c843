"""WebDataset shards: sets too large for single files, read in a row from disk or, if that is allowed, over the network.

``wds:FOLDER`` takes ``train-*.tar`` and ``val-*.tar`` in the folder, and ``classes.txt`` if there are names.
``wds:FILE.json`` describes shards that are elsewhere::

    {"train": ["https://host/train-{0000..1023}.tar"], "train_samples": 1281167,
     "val": ["https://host/val-{00..49}.tar"], "val_samples": 50000, "classes": ["tench", ...]}

Addresses, and ``pipe:`` with a command of the shell, are read only where ``--allow-remote`` says so: whoever wrote the
description decides what is run.

A sample is an image (.jpg, .png, ...) and a label (.cls, a number from 0) of the same name.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from convneur.data import tars
from convneur.data.decode import MAX_PIXELS, UnreadableImageError, decode_image
from convneur.data.loading import PADDING, Batch, Example, black_example, check_batch, collate, default_workers, seeded
from convneur.data.paths import read_json, read_text
from convneur.data.sources import TRAIN_NAMES, VAL_NAMES, Source, number_names
from convneur.data.transforms import Transform
from convneur.files import regular_file

MOST_SHARDS = 100_000
NEEDS = "descriptions of shards need the package webdataset; pip install 'convneur[wds]'"
META = re.compile(r"__[^/]*__($|/)")  # names that WebDataset keeps for itself
BUFFER = 1000  # samples that are shuffled among each other, beside the order of the shards


@dataclass(frozen=True)
class Shards:
    """Shards of one split.

    Attributes:
        urls: Paths; or, if ``allow_remote``, whatever webdataset opens.
        count: Samples in all.
        classes: Labels are below it.
        allow_remote: Whether addresses may be read and commands run.
    """

    urls: tuple[str, ...]
    count: int
    classes: int
    allow_remote: bool = False

    def __len__(self) -> int:
        return self.count

    def stream(
        self, transform: Transform, batch_size: int, seed: int, rank: int, world: int, max_pixels: int
    ) -> ShardStream:
        """Shuffled, augmented batches."""
        return ShardStream(self, transform, batch_size, seed, rank, world, max_pixels)

    def in_order(self, transform: Transform, batch_size: int, rank: int, world: int, max_pixels: int) -> OrderedShards:
        """All samples once, as they come."""
        return OrderedShards(self, transform, batch_size, rank, world, max_pixels)


def open_shards(spec: str, allow_remote: bool = False) -> Source:
    """Find the shards at ``spec``; see the top of this file.

    Args:
        spec: Folder of shards, or a description of them.
        allow_remote: Read addresses that the description names, and run the commands of its ``pipe:``.

    Raises:
        FileNotFoundError: If there are none.
        ImportError: If the package webdataset is needed and missing.
        ValueError: If what is there does not fit, or would have to be read from elsewhere.
    """
    path = Path(spec).expanduser()
    if is_remote(spec):
        raise ValueError(
            f"wds:{spec} is no file here; give a folder of shards, or write a .json file that describes them"
        )
    if path.suffix == ".json" and path.exists():
        return _described(path, allow_remote)
    train, val = (sorted(p for name in names for p in path.glob(f"{name}-*.tar")) for names in (TRAIN_NAMES, VAL_NAMES))
    if not train or not val:
        raise FileNotFoundError(f"wds:{spec} has no {'val' if train else 'train'}-*.tar; give a folder that has both")
    (train_count, top), (val_count, val_top) = _survey(train), _survey(val)
    listed = path / "classes.txt"
    classes = read_text(listed).splitlines() if listed.exists() else number_names([top], f"wds:{spec}")
    if max(top, val_top) >= len(classes) or len(classes) < 2:
        raise ValueError(f"wds:{spec} has labels up to {max(top, val_top)} and {len(classes)} classes")
    learned, judged = (
        Shards(tuple(map(str, files)), count, len(classes)) for files, count in ((train, train_count), (val, val_count))
    )
    return Source(learned, judged, classes)


def is_remote(url: str) -> bool:
    """Whether it is more than a path: ``https:``, ``pipe:`` and the like."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", url) is not None  # a single letter is a drive


def _described(path: Path, allow_remote: bool) -> Source:
    told = read_json(path)
    try:
        classes = [str(name) for name in told["classes"]]
        train, val = (
            Shards(_expanded(told[name]), int(told[f"{name}_samples"]), len(classes), allow_remote)
            for name in ("train", "val")
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{path} does not describe shards ({error}); it needs train, train_samples, val, val_samples and classes"
        ) from error
    remote = next((url for url in train.urls + val.urls if is_remote(url)), None)
    if remote is not None and not allow_remote:
        does = "runs a command" if remote.lower().startswith("pipe:") else "reads from elsewhere"
        raise ValueError(
            f"{path} names {remote!r}, which {does}; give files of this machine, or add --allow-remote if you trust "
            "who wrote it"
        )
    if missing := next((url for url in train.urls + val.urls if not is_remote(url) and not Path(url).exists()), None):
        raise FileNotFoundError(f"{path} names {missing}, which is not there")
    return Source(train, val, classes)


def _expanded(urls: Iterable[str]) -> tuple[str, ...]:
    """Patterns such as ``{000..127}`` written out."""
    try:
        import braceexpand
    except ImportError as error:
        raise ImportError(NEEDS) from error
    urls = [urls] if isinstance(urls, str) else urls
    for url in urls:
        for first, last in re.findall(r"(-?\d+)\.\.(-?\d+)", url):
            if len(first) > 12 or len(last) > 12 or abs(int(last) - int(first)) >= MOST_SHARDS:
                raise ValueError(f"{url!r} stands for more than {MOST_SHARDS:,} shards")
    every = tuple(itertools.islice((u for url in urls for u in braceexpand.braceexpand(url)), MOST_SHARDS + 1))
    if not 0 < len(every) <= MOST_SHARDS:
        raise ValueError(f"there are no shards, or more than {MOST_SHARDS:,}")
    return every


def _survey(paths: list[Path]) -> tuple[int, int]:
    """Samples in local shards, and the largest label."""
    count, top = 0, 0
    for path in paths:
        with regular_file(path).open("rb") as file, tars.whole(str(path)):
            for member, tar in tars.members(file, tars.mode_of(file), str(path)):
                if tars.key_and_kind(member.name)[1] == "cls":
                    found = tars.label(tars.content(member, tar, tars.LARGEST_LABEL), member.name)
                    count, top = count + 1, max(top, found)
    return count, top


@dataclass
class Sample:
    """Files of the same name: the first image, and the label."""

    shard: str
    key: str
    image: bytes | None = None
    label: bytes | None = None

    @property
    def name(self) -> str:
        """Where it is."""
        return f"{self.shard} {self.key}"

    def example(self, number: int, transform: Transform, max_pixels: int, classes: int) -> Example:
        """Decoded; an `UnreadableImageError` if that is not possible."""
        if self.image is None or self.label is None:
            raise UnreadableImageError("the sample lacks an image or a .cls label")
        try:
            label = tars.label(self.label, f"{self.key}.cls")
        except ValueError as error:
            raise UnreadableImageError(str(error)) from error
        if label >= classes:
            raise UnreadableImageError(f"the label {label} is none of {classes} classes")
        return Example(transform(decode_image(self.image, max_pixels)), label, number, [])


def _open(url: str, allow_remote: bool) -> IO[bytes]:
    if not is_remote(url):
        return regular_file(url).open("rb")
    if not allow_remote:
        raise ValueError(f"{url!r} is elsewhere; --allow-remote reads it")
    try:
        from webdataset.gopen import gopen
    except ImportError as error:
        raise ImportError(NEEDS) from error
    stream: IO[bytes] = gopen(url)
    return stream


def _samples(urls: Iterable[str], allow_remote: bool) -> Iterator[Sample]:
    """Samples of shards, in order; a ValueError if a shard is damaged."""
    for url in urls:
        with _open(url, allow_remote) as file, tars.whole(url):
            sample: Sample | None = None
            mode = "r|*" if is_remote(url) else tars.mode_of(file)
            for member, tar in tars.members(file, mode, url):
                key, kind = tars.key_and_kind(member.name)
                if not kind or key.endswith("/") or not key or META.match(member.name):
                    continue
                if sample is None or key != sample.key:
                    if sample is not None:
                        yield sample
                    sample = Sample(url, key)
                if kind == "cls" and sample.label is None:
                    sample.label = tars.content(member, tar, tars.LARGEST_LABEL)
                elif tars.is_image(kind) and sample.image is None:
                    sample.image = tars.content(member, tar)
            if sample is not None:
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
            for sample in _samples(urls, self.shards.allow_remote):
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
        row = enumerate(_samples(self.shards.urls, self.shards.allow_remote))
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
