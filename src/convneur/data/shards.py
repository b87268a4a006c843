"""WebDataset shards: sets too large for single files, read in a row from disk or over the network.

``wds:FOLDER`` takes ``train-*.tar`` and ``val-*.tar`` in the folder, and ``classes.txt`` if there are names.
``wds:FILE.json`` describes shards that are elsewhere::

    {"train": ["https://host/train-{0000..1023}.tar"], "train_samples": 1281167,
     "val": ["https://host/val-{00..49}.tar"], "val_samples": 50000, "classes": ["tench", ...]}

A sample is an image (.jpg, .png, ...) and a label (.cls, a number from 0) of the same name.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from convneur.data.decode import MAX_PIXELS, SUFFIXES, UnreadableImageError, decode_image
from convneur.data.loading import PADDING, Batch, Example, black_example, check_batch, collate, default_workers, seeded
from convneur.data.sources import TRAIN_NAMES, VAL_NAMES, Source
from convneur.data.transforms import Transform

BUFFER = 1000  # samples that are shuffled among each other, beside the order of the shards


@dataclass(frozen=True)
class Shards:
    """Shards of one split, and how many samples they hold."""

    urls: tuple[str, ...]
    count: int

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


def open_shards(spec: str) -> Source:
    """Find the shards at ``spec``; see the top of this file.

    Raises:
        FileNotFoundError: If there are none.
        ImportError: If the package webdataset is missing.
        ValueError: If what is there does not fit.
    """
    try:
        import webdataset  # noqa: F401  a clear message now rather than in a worker process
    except ImportError as error:
        raise ImportError("wds: needs the package webdataset; pip install 'convneur[wds]'") from error
    path = Path(spec).expanduser()
    if path.suffix == ".json" and path.is_file():
        return _described(path)
    train, val = (sorted(p for name in names for p in path.glob(f"{name}-*.tar")) for names in (TRAIN_NAMES, VAL_NAMES))
    if not train or not val:
        raise FileNotFoundError(f"wds:{spec} has no {'val' if train else 'train'}-*.tar; give a folder that has both")
    (train_count, top), (val_count, val_top) = _survey(train), _survey(val)
    listed = path / "classes.txt"
    classes = listed.read_text().splitlines() if listed.is_file() else [str(i) for i in range(top + 1)]
    if max(top, val_top) >= len(classes) or len(classes) < 2:
        raise ValueError(f"wds:{spec} has labels up to {max(top, val_top)} and {len(classes)} classes")
    return Source(Shards(tuple(map(str, train)), train_count), Shards(tuple(map(str, val)), val_count), classes)


def _described(path: Path) -> Source:
    import braceexpand

    try:
        told = json.loads(path.read_text())
        train, val = (
            Shards(tuple(u for url in told[name] for u in braceexpand.braceexpand(url)), int(told[f"{name}_samples"]))
            for name in ("train", "val")
        )
        return Source(train, val, [str(name) for name in told["classes"]])
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} does not describe shards ({error}); it needs train, train_samples, val, val_samples and classes"
        ) from error


def _survey(paths: list[Path]) -> tuple[int, int]:
    """Samples in local shards, and the largest label."""
    import tarfile

    count, top = 0, 0
    for path in paths:
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.name.endswith(".cls"):
                        file = tar.extractfile(member)
                        assert file is not None
                        count, top = count + 1, max(top, int(file.read()))
        except (tarfile.TarError, ValueError) as error:
            raise ValueError(f"{path} is no whole shard of images and .cls labels ({error})") from error
    return count, top


def _samples(urls: Iterator[str]) -> Iterator[dict[str, Any]]:
    from webdataset.tariterators import tarfile_samples

    return tarfile_samples({"url": url} for url in urls)


def _name(sample: dict[str, Any]) -> str:
    return f"{sample.get('__url__', '')} {sample['__key__']}"


def _example(sample: dict[str, Any], number: int, transform: Transform, max_pixels: int) -> Example:
    image = next((value for key, value in sample.items() if f".{key.rsplit('.', 1)[-1]}" in SUFFIXES), None)
    if image is None or "cls" not in sample:
        raise UnreadableImageError("the sample lacks an image or a .cls label")
    return Example(transform(decode_image(image, max_pixels)), int(sample["cls"]), number, [])


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

    def _shuffled(self, reader: int, readers: int) -> Iterator[tuple[int, dict[str, Any]]]:
        draw = np.random.default_rng([self.seed, self.epoch, reader])
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.shards.urls))
        urls = [self.shards.urls[i] for i in order[reader::readers]]
        number = itertools.count()
        while True:
            buffer: list[tuple[int, dict[str, Any]]] = []
            for sample in _samples(iter(urls)):
                entry = (next(number), sample)
                if len(buffer) < BUFFER:
                    buffer.append(entry)
                else:
                    place = int(draw.integers(BUFFER))
                    chosen, buffer[place] = buffer[place], entry
                    yield chosen
            yield from (buffer[i] for i in draw.permutation(len(buffer)))

    def _batch(self, samples: list[tuple[int, dict[str, Any]]], reader: int) -> Batch:
        """Decode samples; one that cannot be read is replaced by the next of the batch that can, and reported."""
        examples: list[Example | None] = []
        unreadable: list[tuple[str, str]] = []
        for number, sample in samples:
            with seeded(self.seed, self.epoch, reader, number):
                try:
                    examples.append(_example(sample, number, self.transform, self.max_pixels))
                except UnreadableImageError as error:
                    examples.append(None)
                    unreadable.append((_name(sample), str(error)))
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
        row = enumerate(_samples(iter(self.shards.urls)))
        mine = itertools.islice(row, self.rank, self.shards.count, self.world)
        each = -(-self.shards.count // self.world)
        padded = itertools.chain(mine, itertools.repeat((PADDING, {})))
        for first in range(0, each, self.batch_size):
            examples = []
            for number, sample in itertools.islice(padded, min(self.batch_size, each - first)):
                if number == PADDING:
                    examples.append(black_example(self.transform, PADDING, []))
                    continue
                try:
                    examples.append(_example(sample, number, self.transform, self.max_pixels))
                except UnreadableImageError as error:
                    examples.append(black_example(self.transform, number, [(_name(sample), str(error))]))
            yield collate(examples)
