"""WebDataset shards: sets too large for single files, read in a row from disk or, if that is allowed, over the network.

``wds:FOLDER`` takes ``train-*.tar``, ``val-*.tar`` and, where it is asked for, ``test-*.tar`` in the folder, and
``classes.txt`` if there are names.
``wds:FILE.json`` describes shards that are elsewhere::

    {"train": ["https://host/train-{0000..1023}.tar"], "train_samples": 1281167,
     "val": ["https://host/val-{00..49}.tar"], "val_samples": 50000, "classes": ["tench", ...]}

Addresses, and ``pipe:`` with a command of the shell, are read only where ``--allow-remote`` says so: whoever wrote the
description decides what is run.

There may be ``test`` and ``test_samples``, too. A sample is an image (.jpg, .png, ...) and a label (.cls, a number from
0) of the same name; see `convneur.data.tars` for names with dots. Samples that lack one of them, or have a negative
label, are left out and named.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from convneur.data import tars
from convneur.data.decode import MAX_PIXELS, UnreadableImageError, decode_image
from convneur.data.labels import number_names, shown_names
from convneur.data.loading import PADDING, Batch, Example, black_example, check_batch, collate, default_workers, seeded
from convneur.data.paths import class_names, is_clutter, read_json
from convneur.data.shard_survey import survey
from convneur.data.sources import Source, need_two
from convneur.data.split_names import Judged, group_files, no_part
from convneur.data.transforms import Transform
from convneur.files import regular_file

MOST_SHARDS = 100_000
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

    def stream(
        self, transform: Transform, batch_size: int, seed: int, rank: int, world: int, max_pixels: int
    ) -> ShardStream:
        """Shuffled, augmented batches."""
        return ShardStream(self, transform, batch_size, seed, rank, world, max_pixels)

    def in_order(self, transform: Transform, batch_size: int, rank: int, world: int, max_pixels: int) -> OrderedShards:
        """All samples once, as they come."""
        return OrderedShards(self, transform, batch_size, rank, world, max_pixels)


def open_shards(spec: str, allow_remote: bool = False, part: Judged = "val", learns: bool = True) -> Source:
    """Find the shards at ``spec``; see the top of this file.

    Args:
        spec: Folder of shards, or a description of them.
        allow_remote: Read addresses that the description names, and run the commands of its ``pipe:``.
        part: To judge by.
        learns: Whether something is learned from the other shards, which must be there then; else all of what is to
            train on is judged by where there are no others.

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
        return _described(path, allow_remote, part, learns)
    files = [file for file in path.glob("*") if file.name.lower().endswith(tars.ENDINGS) and not is_clutter(file.name)]
    groups, rest = group_files(files, f"wds:{spec}")
    learns = learns and part == "val"
    judged = groups.get(part, [])
    if not judged and part == "val" and not learns:
        judged = groups.get("train", [])
    train = groups.get("train", [] if learns else judged)
    if not train or not judged:
        lacking = "train" if learns and not train else part
        hint = "; test-*.tar is for eval --part test" if "test" in groups else ""
        raise FileNotFoundError(
            f"wds:{spec} has no {lacking}-*.tar; give a folder that has {'both' if learns else 'some'}{hint}"
        )
    listed = path / "classes.txt"
    classes = class_names(listed) if listed.exists() else None
    source = _surveyed(f"wds:{spec}", train, judged, classes, part)
    if rest:
        source.notes.append(
            f"{len(rest)} shards of {path} are not used, as their names say no part; the first: {rest[0].name}"
        )
    return source


def _surveyed(
    where: str, train: Sequence[Path], judged: Sequence[Path], classes: list[str] | None, part: Judged
) -> Source:
    """Shards of this machine, looked through."""
    looked = [survey(train, f"{where} train")]
    looked.append(survey(judged, f"{where} {part}") if judged != train else looked[0])
    classes = classes or number_names([looked[0].top], where)
    for found in looked:
        if found.top >= len(classes):
            raise ValueError(
                f"{found.top_name} has the label {found.top}, and there are {len(classes)} classes, numbered from 0; "
                "name more classes, or mend the label"
            )
    if judged != train:
        need_two(classes, where, "at least two classes")
    if len(looked[0].labels) < 2 and judged != train:
        raise ValueError(f"all training samples of {where} are of one class; a classifier needs images of at least two")
    learned, held_out = (
        Shards(tuple(map(str, files)), found.count, len(classes), surveyed=True)
        for files, found in zip((train, judged), looked, strict=True)
    )
    notes = [note for found in looked[: 1 + (judged != train)] for note in found.notes]
    if lacking := [name for number, name in enumerate(classes) if number not in looked[1].labels]:
        notes.append(
            f"{where} {part} has no samples of {len(lacking)} of {len(classes)} classes: {shown_names(lacking)}"
        )
    return Source(learned, held_out, classes, None, notes, f"shards of {part}")


def is_remote(url: str) -> bool:
    """Whether it is more than a path: ``https:``, ``pipe:`` and the like."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", url) is not None  # a single letter is a drive


def _described(path: Path, allow_remote: bool, part: Judged, learns: bool) -> Source:
    told = read_json(path)
    if isinstance(told, dict) and part == "test" and "test" not in told:
        raise no_part(path, part, {"train": "train", "val": "val"})
    names = ["train", part]
    if not learns and isinstance(told, dict):
        names = [name for name in names if name in told] or names
    try:
        classes = [str(name) for name in told["classes"]]
        train, held_out = (
            Shards(_expanded(told[name]), int(told[f"{name}_samples"]), len(classes), allow_remote)
            for name in (names[0], names[-1])
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{path} does not describe shards ({error}); it needs train, train_samples, val, val_samples and classes"
        ) from error
    urls = train.urls + held_out.urls
    remote = next((url for url in urls if is_remote(url)), None)
    if remote is not None and not allow_remote:
        does = "runs a command" if remote.lower().startswith("pipe:") else "reads from elsewhere"
        raise ValueError(
            f"{path} names {remote!r}, which {does}; give files of this machine, or add --allow-remote if you trust "
            "who wrote it"
        )
    if missing := next((url for url in urls if not is_remote(url) and not Path(url).exists()), None):
        raise FileNotFoundError(f"{path} names {missing}, which is not there")
    if remote is not None:
        return Source(train, held_out, classes, held_out=f"shards of {part}")
    source = _surveyed(str(path), [*map(Path, train.urls)], [*map(Path, held_out.urls)], classes, part)
    for name, (said, found) in {names[0]: (train, source.train), names[-1]: (held_out, source.val)}.items():
        if said.count != found.count:
            source.notes.append(
                f"{path} says {said.count:,} samples of {name}, and {found.count:,} are there that can be used"
            )
    return source


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
            label = None if self.label is None else tars.label(self.label, f"{self.key}.cls")
        except ValueError as error:
            raise UnreadableImageError(str(error)) from error
        if self.image is None or label is None:
            raise UnreadableImageError("the sample lacks an image or a .cls label")
        if label < 0:
            raise UnreadableImageError(f"the label {label} means none")
        return label

    def example(self, number: int, transform: Transform, max_pixels: int, classes: int) -> Example:
        """Decoded; an `UnreadableImageError` if that is not possible."""
        label = self.number()
        if label >= classes:
            raise UnreadableImageError(f"the label {label} is none of {classes} classes")
        assert self.image is not None
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


def _samples(shards: Shards, urls: Iterable[str]) -> Iterator[Sample]:
    """Samples of some of the shards, in order; a ValueError if a shard is damaged."""
    for url in urls:
        with _open(url, shards.allow_remote) as file, tars.whole(url):
            mode = "r|*" if is_remote(url) else tars.mode_of(file)
            for found in tars.samples(file, mode, url, tars.content):
                sample = Sample(url, found.key, found.image, found.label)
                if not (shards.surveyed and _is_lost(sample)):
                    yield sample


def _is_lost(sample: Sample) -> bool:
    try:
        sample.number()
    except UnreadableImageError:
        return True
    return False


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
