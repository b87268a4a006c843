"""Which images a run learned from and which it held out: kept with the run, and compared with other data.

An image is known by its name below the folder of the data and by its size, so data may be moved or spelled otherwise.
"""

from __future__ import annotations

import filecmp
import gzip
import json
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from convneur.data.digits import ScanImages
from convneur.data.formats.images import Subset, whole_of
from convneur.data.objects.annotations import ObjectImages
from convneur.data.semantic.sources import PixelImages
from convneur.data.shards import Shards
from convneur.files import write_atomic

FILE = "images.json.gz"
MOST_BYTES = 2**31  # of the list, unpacked
ROW = re.compile(r"(.*\.parquet) row \d+", re.IGNORECASE | re.DOTALL)  # how the rows of a table are named

Listed = list[tuple[str, int]]


@dataclass(frozen=True)
class Contents:
    """Images of a run.

    Attributes:
        root: Folder or file of the data; what is not on this disk by its name.
        train: Name and size of each image to train on, in order; of shards, of each shard.
        val: The same of the held-out images.
    """

    root: str
    train: Listed
    val: Listed

    @classmethod
    def of(cls, source: Any, data: str) -> Contents:
        """Those of a source that was opened from ``data``."""
        return cls(place_of(data), listed(source.train, data), listed(source.val, data))

    def has_same_images(self, other: Contents) -> bool:
        """Whether they are the same, in the same order, wherever they are."""
        return (self.train, self.val) == (other.train, other.val)


def place_of(data: str) -> str:
    """Where data is, however it is spelled: a path without links; a name of what is not on this disk stays."""
    path = _path(data)
    return os.path.realpath(path) if path.exists() else data


def is_same_place(one: str, other: str) -> bool:
    """Whether two ways to name data mean the same."""
    return one == other or place_of(one) == place_of(other)


def write_contents(folder: Path, contents: Contents) -> None:
    """Keep them in the folder of a run."""
    write_atomic(folder / FILE, gzip.compress(json.dumps(asdict(contents)).encode(), mtime=0))


def read_contents(folder: Path) -> Contents | None:
    """Those of a run; None if it is of an earlier version, which kept none.

    Raises:
        ValueError: If they are damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with gzip.open(path) as file:
            content = file.read(MOST_BYTES + 1)
        found = json.loads(content)
        lists = [[(str(name), int(size)) for name, size in found[part]] for part in ("train", "val")]
        return Contents(str(found["root"]), *lists)
    except (OSError, EOFError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is damaged ({reason}); train anew with another --out") from error


def listed(images: Any, data: str) -> Listed:
    """Name below the folder of the data, and size, of each image; of shards, of each shard."""
    if isinstance(images, Shards):
        return [(_below(url, data), _size(url)) for url in images.urls]
    base, numbers = whole_of(images)
    if isinstance(base, ScanImages):  # in memory, where the parts have the same names
        return [(f"scan {zlib.crc32(base.pixels[number].tobytes()):08x}", 0) for number in numbers.tolist()]
    rows = getattr(base, "rows", None)  # of the package datasets: its parts have rows of the same numbers
    if rows is not None:
        return [(f"{rows.split} row {number}", int(rows.data.nbytes)) for number in numbers.tolist()]
    names = [base.name(number) for number in numbers.tolist()]
    size_of = lru_cache(maxsize=1024)(_size)  # rows of a table have that of the table
    sizes = [size_of(_table(name) or name) for name in names]
    return [(_below(name, data), size) for name, size in zip(names, sizes, strict=True)]


def not_learned(images: Any, data: str, contents: Contents) -> list[int]:
    """Numbers of the images that are none of those a run learned from; of shards, of the shards.

    An image of the same name and size as one that was learned from is that one, unless that one is still where it was
    and has other bytes. Below another folder the names of the folders that both have must agree, or the bytes. A table
    or shard of another name is the one that has its bytes.
    """
    learned, held_out = _by_file_name(contents.train), _by_file_name(contents.val)
    folder, root = _folder(data), _folder(contents.root)
    stays = place_of(data) == contents.root

    def was_learned(name: str, size: int) -> bool:
        key = (PurePath(name).name, size)
        alike, own = learned.get(key, []), held_out.get(key, [])
        if name in alike and stays:
            return True
        if name in own and name not in alike:
            return False
        here = folder / name
        for each in [name] if name in alike else alike:
            there = root / each
            if here.is_file() and there.is_file():
                if filecmp.cmp(here, there, shallow=False):
                    return True
            elif _ends_alike(name, each) and not any(_ends_alike(name, other) for other in own):
                return True
        return False

    first_names = _first_names(images, folder, contents)
    found = [(first_names(name, size), size) for name, size in listed(images, data)]
    return [number for number, each in enumerate(found) if not was_learned(*each)]


def _first_names(images: Any, folder: Path, contents: Contents) -> Callable[[str, int], str]:
    """Of what is in a table or shard that was copied to another name: the name that the run knows."""
    file_of: Callable[[str], str] = str if isinstance(images, Shards) else _table
    known = {file_of(name): size for name, size in (*contents.train, *contents.val)}
    of_size: dict[int, list[str]] = defaultdict(list)
    for file, size in known.items():
        of_size[size].append(file)

    @lru_cache(maxsize=1024)
    def first(file: str, size: int) -> str:
        here = folder / file
        for other in () if known.get(file) == size else of_size.get(size, ()):
            there = _folder(contents.root) / other
            if here.is_file() and there.is_file() and filecmp.cmp(here, there, shallow=False):
                return other
        return file

    def renamed(name: str, size: int) -> str:
        file = file_of(name)
        return first(file, size) + name[len(file) :] if file else name

    return renamed


def pick(images: Any, numbers: Sequence[int]) -> Any:
    """Some of the images of a source, of the same kind."""
    return images.part(numbers) if isinstance(images, PixelImages | ObjectImages) else Subset(images, numbers)


def smaller(source: Any, count: int, seed: int) -> Any:
    """A source with ``count`` of its training images, or with all; those that are drawn stay in their order.

    0 stands for all. The classes are not looked at: images with several objects have several.
    """
    if not 0 < count < len(source.train):
        return source
    drawn = np.random.default_rng(seed).permutation(len(source.train))[:count]
    return replace(source, train=pick(source.train, sorted(drawn.tolist())))


def _by_file_name(images: Listed) -> dict[tuple[str, int], list[str]]:
    found: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name, size in images:
        found[PurePath(name).name, size].append(name)
    return found


def _ends_alike(one: str, other: str) -> bool:
    """Whether one of two paths is the other below some folder."""
    a, b = PurePath(one).parts, PurePath(other).parts
    count = min(len(a), len(b))
    return a[-count:] == b[-count:]


def _path(data: str) -> Path:
    return Path(data.removeprefix("hf:").removeprefix("wds:")).expanduser()


def _folder(data: str) -> Path:
    """What names of images are relative to."""
    path = _path(data)
    return path.parent if path.is_file() else path


def _table(name: str) -> str:
    """The table that a name means a row of; none for a file, whatever is in its name."""
    found = ROW.fullmatch(name)
    return found[1] if found else ""


def _below(name: str, data: str) -> str:
    """A name as it is below the folder of the data."""
    folder = f"{_folder(data)}{os.sep}"
    return name[len(folder) :] if name.startswith(folder) else name


def _size(path: str) -> int:
    """Bytes of a file; -1 if it is gone, or elsewhere."""
    try:
        return os.stat(path).st_size  # noqa: PTH116  a Path for each of a million takes longer than the answer
    except OSError:
        return -1
