"""What a long job has done so far, on disk: maps in files that strips are written into, and a journal of steps done."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convneur.files import write_atomic
from convneur.locks import acquire, release
from convneur.streaming.regions import Span

NAME, JOURNAL = ".convneur-scratch-", "journal.txt"


class Scratch:
    """A folder of maps, each (rows, ...), and the steps that are done; this process's alone until the context is left.

    Args:
        parent: Where the folder is, under a name that follows from the plan.
        plan: What the job is.
        alone: Nobody else can be at work there.

    Raises:
        BlockingIOError: If another process is at work there.
    """

    def __init__(self, parent: Path, plan: Mapping[str, Any], alone: bool) -> None:
        words = json.dumps(dict(plan), sort_keys=True)
        name = hashlib.sha256(words.encode()).hexdigest()[:12]
        self.folder = folder = parent / f"{NAME}{name}"
        parent.mkdir(parents=True, exist_ok=True)
        if folder.is_symlink():
            raise OSError(f"{folder} is a link; remove it, or give another --scratch")
        self._claim = None if alone else acquire(parent / f".convneur-lock-{name}", f"--scratch {parent}")
        folder.mkdir(exist_ok=True)
        self.journal = folder / JOURNAL
        text = self.journal.read_text(encoding="utf-8") if self.journal.is_file() else ""
        whole = text[: text.rfind("\n") + 1]  # a line that was cut off is a step that is done again
        if whole != text:
            self.journal.write_text(whole, encoding="utf-8")
        self.done = set(whole.splitlines())
        self._lock = threading.Lock()

    def finish(self, step: str) -> None:
        """Note that a step is done; what it wrote must be written."""
        with self._lock:
            with self.journal.open("a", encoding="utf-8") as file:
                file.write(f"{step}\n")
            self.done.add(step)

    def remember(self, name: str, found: dict[str, Any]) -> dict[str, Any]:
        """What was found when the job began, which a call that goes on must find, too."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            write_atomic(path, json.dumps(found))
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kept

    def create(self, name: str, shape: tuple[int, ...], dtype: str) -> Map:
        """A map that can be written; it goes on from what is there, if it has the same shape."""
        return Map(self.folder / f"{name}.npy", shape, dtype)

    def drop(self, name: str) -> None:
        """Remove a map that is not needed any more."""
        (self.folder / f"{name}.npy").unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._claim is not None:
            release(self._claim)


class Map:
    """An array in a .npy file, of which a few rows are in memory at a time.

    Args:
        path: Of the file; made if it is not there or has another shape.
        shape: (rows, ...).
        dtype: As NumPy names it.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self.offset: int
        if path.is_file():
            there = np.load(path, mmap_mode="r", allow_pickle=False)
            if there.shape == shape and there.dtype == self.dtype:
                self.offset = there.offset
                return
        made = np.lib.format.open_memmap(path, mode="w+", dtype=self.dtype, shape=shape)
        self.offset = made.offset
        _reserve(path)

    # Not mapped into memory: a fault for each page made writes two thirds slower, and one for which there is no room on
    # the disk kills the process.

    def read(self, rows: Span, columns: Span | None = None) -> NDArray[Any]:
        """Some rows, or some columns of them, (rows, columns, ...)."""
        count = (self.shape[1] if columns is None else columns.length,) if len(self.shape) > 1 else ()
        values = np.empty((rows.length, *count, *self.shape[2:]), self.dtype)
        with self.path.open("rb") as file:
            for start, part in self._pieces(rows, columns, values):
                file.seek(start)
                if file.readinto(part) != part.nbytes:
                    raise OSError(errno.EIO, "the file is shorter than it was", str(self.path))
        return values

    def whole(self) -> NDArray[Any]:
        """All of it."""
        return self.read(Span(0, self.shape[0]))

    def write(self, values: NDArray[Any], rows: Span, columns: Span | None = None) -> None:
        """Put values (rows, columns, ...) there."""
        with self.path.open("r+b") as file:
            for start, part in self._pieces(rows, columns, np.ascontiguousarray(values, self.dtype)):
                file.seek(start)
                file.write(part)

    def _pieces(self, rows: Span, columns: Span | None, values: NDArray[Any]) -> Iterator[tuple[int, memoryview]]:
        """What lies together in the file: where it begins, and the values."""
        row = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        first = self.offset + rows.start * row
        if columns is None or columns.length == self.shape[1]:
            yield first, values.data.cast("B")
            return
        left = columns.start * row // self.shape[1]
        for number, line in enumerate(values):
            yield first + number * row + left, line.data.cast("B")


def _reserve(path: Path) -> None:
    """Take the room on the disk now, rather than find out after hours that there is none."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                return  # a file system that cannot; then it shows when it is full
            path.unlink()
            raise
