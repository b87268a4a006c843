"""Tar files of samples, as WebDataset has them: read in a row, or each image from where it begins."""

from __future__ import annotations

import lzma
import math
import re
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

import numpy as np

from convneur.data.decode import SUFFIXES
from convneur.data.formats.images import FileImages
from convneur.data.paths import LARGEST_FILE, is_clutter
from convneur.files import regular_file

T = TypeVar("T")
ENDINGS = (".tar", ".tar.gz", ".tgz")  # of shards, in small letters
LARGEST_HEADER = 2**20  # bytes of names and attributes of a member
LARGEST_LABEL = 200  # bytes of a .cls file
META = re.compile(r"__[^/]*__($|/)")  # names that WebDataset keeps for itself
_DAMAGE = (tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError, EOFError, OSError)
_HEADERS = frozenset("xgXLKN")  # kinds of members that describe the next one


class _Member(tarfile.TarInfo):
    """A member whose damage ends in an error: `tarfile` takes a damaged header for the end of the file."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> _Member:
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf and not any(buf):  # which is how a tar ends
                raise
            raise tarfile.ReadError(f"it is cut off or damaged: {error}") from error
        if member.size < 0 or (member.type.decode("latin-1") in _HEADERS and member.size > LARGEST_HEADER):
            raise tarfile.ReadError(f"a header of {member.size:,} bytes")
        return member


def members(file: IO[bytes], mode: Any, origin: str) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """The files in a tar, in order, with the tar to extract each from before the next.

    Args:
        file: That holds it.
        mode: As `tarfile.open` has it: ``r:`` for an uncompressed file, ``r|*`` for any stream.
        origin: What to call it.

    Raises:
        ValueError: If it is no whole tar, or has members that are neither files nor folders; one line.
    """
    tar: Any
    with whole(origin), tarfile.open(fileobj=file, mode=mode, tarinfo=_Member) as tar:
        for member in tar:
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise tarfile.ReadError(f"{member.name!r} is a link, a device or has holes; it may hold plain files")
            if member.size < 0:
                raise tarfile.ReadError(f"{member.name!r} has {member.size} bytes")
            yield member, tar
            tar.members.clear()  # or it would keep them all
        if mode == "r:":
            file.seek(tar.offset)
            if any(file.read(LARGEST_HEADER)):
                raise tarfile.ReadError("it goes on after its end")


def mode_of(file: IO[bytes]) -> str:
    """How `members` has to open a file: a compressed one is read from its beginning to its end."""
    head = file.read(6)
    file.seek(0)
    return "r|*" if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")) else "r:"


class ShardError(ValueError):
    """A shard that is damaged, or holds what is refused; one line with its name."""


@contextmanager
def whole(origin: str) -> Iterator[None]:
    """Turn what damaged tars raise into a `ShardError`."""
    try:
        yield
    except ShardError:
        raise
    except (*_DAMAGE, zlib.error, lzma.LZMAError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ShardError(f"{origin} is no whole shard of images and .cls labels ({reason})") from error


def content(member: tarfile.TarInfo, tar: tarfile.TarFile, most: int = LARGEST_FILE) -> bytes:
    """The bytes of a member; a ValueError if there are more than ``most``, or it is cut off."""
    if member.size > most:
        raise ValueError(f"{member.name!r} has {member.size:,} bytes; it may have {most:,}")
    file = tar.extractfile(member)
    found = file.read() if file is not None else b""
    if len(found) != member.size:
        raise ValueError(f"{member.name!r} is cut off")
    return found


def label(content: bytes, name: str) -> int | None:
    """The number in a ``.cls`` file, None if it is empty; below 0 it means no class.

    Raises:
        ValueError: If it is no whole number.
    """
    text = content.strip()
    if not text:
        return None
    if re.fullmatch(rb"[-+]?[0-9]+", text):
        return int(text)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number.is_integer():  # nor NaN, nor infinite
        raise ValueError(f"{name!r} is no number from 0")
    return int(number)


@dataclass
class Sample(Generic[T]):
    """Files that belong together.

    Attributes:
        key: Name of the sample.
        image: What was taken of the first image.
        label: Content of the ``.cls`` file.
        more: Names of further images, which are not used.
    """

    key: str
    image: T | None = None
    label: bytes | None = None
    more: list[str] = field(default_factory=list)


@dataclass
class _Group(Generic[T]):
    """Files in a row whose names are the same up to the first dot.

    WebDataset takes those for one sample, as in ``7.left.png``, ``7.right.png`` and ``7.cls``. Names may also have dots
    of their own, as in ``photo.v1.jpg`` and ``photo.v2.jpg``: then each has a label of its own, or there is nothing
    that holds them together.
    """

    base: str
    images: dict[str, tuple[T, str]] = field(default_factory=dict)  # by name up to the last dot; of each the first
    labels: dict[str, bytes] = field(default_factory=dict)
    more: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    names: set[str] = field(default_factory=set)
    apart: bool = False  # whether one of them had a label of its own

    def take_whole(self, stem: str) -> Iterator[Sample[T]]:
        """Hand out a sample whose name has a dot as soon as it is whole: there may be a shard full of them."""
        if stem != self.base and stem in self.images and stem in self.labels:
            self.apart = True
            yield Sample(stem, self.images.pop(stem)[0], self.labels.pop(stem), self.more.pop(stem, []))

    def finish(self) -> Iterator[Sample[T]]:
        """What is left."""
        together = self.base in self.labels or self.base in self.images
        if together and not self.apart and not (self.images.keys() & self.labels.keys() - {self.base}):
            (image, _), *others = self.images.values() or [(None, "")]
            more = [name for _, name in others] + [name for names in self.more.values() for name in names]
            yield Sample(self.base, image, self.labels.pop(self.base, None), more)
        else:
            every = self.labels.get(self.base)
            for stem, (image, _) in self.images.items():
                yield Sample(stem, image, self.labels.pop(stem, every), self.more[stem])
            if self.images and every is not None:
                self.labels.pop(self.base, None)
        for stem, content in self.labels.items():
            yield Sample(stem, None, content)


def samples(
    file: IO[bytes], mode: Any, origin: str, take: Callable[[tarfile.TarInfo, tarfile.TarFile], T]
) -> Iterator[Sample[T]]:
    """The samples of a shard, in order: files in a row that belong together by their names.

    Args:
        file: That holds it.
        mode: As for `members`.
        origin: What to call it.
        take: What to keep of an image.

    Raises:
        ValueError: As `members`, or if a label is too long.
    """
    group: _Group[T] | None = None
    before = ""
    for member, tar in members(file, mode, origin):
        base, stem, ending = _taken_apart(member.name)
        if not ending or META.match(member.name) or any(map(is_clutter, member.name.split("/"))):
            continue
        if group is not None and (base != group.base or f"{stem}.{ending}" in group.names):
            yield from group.finish()
            group = None
        if group is None:
            group, before = _Group(base), stem
        if stem != before:
            yield from group.take_whole(before)
        before = stem
        group.names.add(f"{stem}.{ending}")
        if ending == "cls":
            group.labels[stem] = content(member, tar, LARGEST_LABEL)
        elif is_image(ending) and stem not in group.images:
            group.images[stem] = take(member, tar), member.name
        elif is_image(ending):
            group.more[stem].append(member.name)
    if group is not None:
        yield from group.finish()


def _taken_apart(name: str) -> tuple[str, str, str]:
    """A name up to its first dot and up to its last one, with the folder, and what is behind the last, in small
    letters; that is empty for names without either."""
    folder, slash, file = name.rpartition("/")
    base, (stem, dot, ending) = file.partition(".")[0], file.rpartition(".")
    return folder + slash + base, folder + slash + stem, ending.lower() if dot and base else ""


def is_image(kind: str) -> bool:
    """Whether files of that ending, in small letters and without the dot, are images."""
    return f".{kind}" in SUFFIXES


def read(
    path: Path, take: Callable[[tarfile.TarInfo, tarfile.TarFile], T], seekable: bool = False
) -> Iterator[Sample[T]]:
    """The samples of a shard on this machine, in order.

    Args:
        path: Of the shard.
        take: What to keep of an image.
        seekable: Refuse a shard that cannot be read from the middle.

    Raises:
        ValueError: If it is damaged or, where that is asked for, compressed.
    """
    with regular_file(path).open("rb") as file, whole(str(path)):
        mode = mode_of(file)
        if seekable and mode != "r:":
            raise ValueError("it is compressed, and cannot be read from the middle")
        yield from samples(file, mode, str(path), take)


class TarImages:
    """Images in uncompressed tar files, found by where they begin; their headers are read once, not the images.

    Args:
        root: Folder of the shards.
        shards: Their names.

    Attributes:
        own: What the ``.cls`` file of each image says, None without one: a number, or else text.
        several: Samples with several images, of which the first is used.

    Raises:
        ValueError: If a shard is damaged or compressed.
    """

    def __init__(self, root: Path, shards: Sequence[str]) -> None:
        self.root, self.shards = root, list(shards)
        self.own: list[int | str | None] = []
        self.several: list[str] = []
        keys: list[str] = []
        places: list[tuple[int, int, int]] = []
        for number, shard in enumerate(shards):
            labels: dict[str, int | str | None] = {}
            began = len(keys)
            for sample in read(root / shard, _place, seekable=True):
                key = f"{shard}:{sample.key}"
                if sample.label is not None:
                    labels[key] = _own(sample.label)
                if sample.image is not None:
                    keys.append(key)
                    places.append((number, *sample.image))
                if sample.more:
                    self.several.append(key)
            self.own += [labels.get(key) for key in keys[began:]]
        if any(isinstance(label, str) for label in self.own):
            self.own = [None if label is None else str(label) for label in self.own]
        self.keys = FileImages(keys)  # which holds them in an array
        self.labels = self.keys.labels
        self.places = np.array(places, np.int64).reshape(-1, 3)  # shard, first byte and length

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        """Return the bytes of the image; an OSError if the shard is cut off."""
        shard, first, length = self.places[index].tolist()
        if length > LARGEST_FILE:
            raise OSError(f"it has {length:,} bytes; an image may have {LARGEST_FILE:,}")
        with (self.root / self.shards[shard]).open("rb") as file:
            file.seek(first)
            content = file.read(length)
        if len(content) < length:
            raise OSError("the shard is cut off")
        return content

    def identity(self, index: int) -> str:
        """Shard and key."""
        return self.keys.identity(index)

    name = identity

    def known_labels(self, first: int, stop: int) -> list[Any]:
        """Of the images from ``first`` up to ``stop``."""
        return self.own[first:stop]


def _place(member: tarfile.TarInfo, tar: tarfile.TarFile) -> tuple[int, int]:
    return member.offset_data, member.size


def _own(content: bytes) -> int | str | None:
    """A label as it is handed on: numbers, or else text; nothing is learned from it here."""
    try:
        number = label(content, "")
    except ValueError:
        return content.decode("utf-8", "backslashreplace").strip()
    return number if number is None or abs(number) < 2**63 else str(number)
