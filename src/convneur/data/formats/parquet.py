"""Parquet files: images in a column ``image``, labels perhaps in a column ``label``.

Files may be larger than memory. In order, as evaluation and embedding go, rows are read where they lie, a few at a
time, of a page of the column that is held. To be read in any order, as training does, images are copied once into a
temporary file: pages can be read from the beginning of their row group only, and that may be all of the file.
"""

from __future__ import annotations

import bisect
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import reduction
from pathlib import Path
from typing import Any

import numpy as np

from convneur.data.formats.images import Images, LabelArray, image_bytes, stored_bytes, whole_of
from convneur.data.labels import shown_names
from convneur.data.paths import first_line
from convneur.data.split import Source, Wanted, assemble, labelled, listed_classes
from convneur.data.split_names import Part
from convneur.files import regular_file

AT_A_TIME = 64  # rows that are held
MANY = 2**16  # labels
BUFFER = 2**20  # bytes of a column that are read ahead; without it and with pre_buffer, all of a row group are


class ParquetImages:
    """Rows of parquet files.

    Args:
        root: Folder of the files.
        files: Their names.
        need: Columns that each must have.

    Attributes:
        groups: Rows of each row group, file by file.
        kinds: Arrow's type of the labels, by number of the file; files without labels are not there.

    Raises:
        ValueError: If a file is damaged, or lacks a column.
    """

    def __init__(self, root: Path, files: Sequence[str], need: Sequence[str] = ("image",)) -> None:
        self.root, self.files = root, list(files)
        self.groups: list[list[int]] = []
        self.kinds: dict[int, Any] = {}
        for number, file in enumerate(files):
            with _open(root / file) as table:
                schema, metadata = table.schema_arrow, table.metadata
            if missing := [column for column in need if column not in schema.names]:
                raise ValueError(f"{root / file} has no column {missing[0]!r}; it has {', '.join(schema.names)}")
            self.groups.append([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)])
            if "label" in schema.names:
                self.kinds[number] = schema.field("label").type
        self.places = [(file, group) for file, rows in enumerate(self.groups) for group in range(len(rows))]
        self.starts = np.cumsum([0, *(count for rows in self.groups for count in rows)]).tolist()
        self.first_rows = np.cumsum([0, *map(sum, self.groups)]).tolist()
        self.labels: LabelArray = np.zeros(self.starts[-1], np.int64)
        self.copied: _Copies | None = None
        self._forget()

    def _forget(self) -> None:
        self._group, self._first = -1, 0
        self._rows: Any = ()  # from the row _first on
        self._more: Iterator[tuple[int, Any]] = iter(())

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_group": -1, "_first": 0, "_rows": (), "_more": iter(())}

    def read(self, index: int) -> bytes:
        """Return the bytes in the image column; an OSError if the row group is damaged."""
        found = None if self.copied is None else self.copied.read(index)
        if found is not None:
            return found
        if not self._first <= index < self._first + len(self._rows):
            self._go_to(index)
        file, _ = self._find(index)
        return image_bytes(self._rows[index - self._first].as_py(), (self.root / self.files[file]).parent)

    def _go_to(self, index: int) -> None:
        """Hold the rows around one: go on from where we are, or begin its row group anew."""
        group = bisect.bisect_right(self.starts, index) - 1
        if group != self._group or index < self._first:
            self._forget()
            self._group, self._more = group, self._batches(group, "image")
        try:
            for first, rows in self._more:
                if index < first + len(rows):
                    self._first, self._rows = first, rows
                    return
        except OSError:
            self._forget()
            raise
        self._forget()
        raise self._damage(group, "it has fewer rows than it says")

    def _damage(self, group: int, why: object) -> OSError:
        file, number = self.places[group]
        return OSError(f"row group {number} of {self.root / self.files[file]} is damaged ({why})")

    def _batches(self, group: int, column: str, most: int = AT_A_TIME) -> Iterator[tuple[int, Any]]:
        """Values of a column of a row group, with the number of the first; an OSError if it is damaged."""
        import pyarrow as pa

        file, number = self.places[group]
        first = self.starts[group]
        try:
            with _open(self.root / self.files[file]) as table:
                for batch in table.iter_batches(most, row_groups=[number], columns=[column], use_threads=False):
                    yield first, batch.column(0)
                    first += len(batch)
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, ValueError, ArithmeticError) as error:
            raise self._damage(group, first_line(error)) from error

    def _find(self, index: int) -> tuple[int, int]:
        file = bisect.bisect_right(self.first_rows, index) - 1
        return file, index - self.first_rows[file]

    def name(self, index: int) -> str:
        """File and row."""
        file, row = self._find(index)
        return f"{self.root / self.files[file]} row {row}"

    def identity(self, index: int) -> str:
        """File, as the source names it, and row."""
        file, row = self._find(index)
        return f"{self.files[file]}:{row}"

    def known_labels(self, first: int, stop: int) -> list[Any]:
        """What the column ``label`` has of the rows from ``first`` up to ``stop``; None in files without."""
        found: list[Any] = []
        for group in range(bisect.bisect_right(self.starts, first) - 1, bisect.bisect_left(self.starts, stop)):
            start, end = self.starts[group : group + 2]
            values: list[Any] = [None] * (end - start)
            if self.places[group][0] in self.kinds:
                values = [each for _, batch in self._batches(group, "label", MANY) for each in batch.to_pylist()]
            if len(values) != end - start:
                raise self._damage(group, "it has another number of rows than it says")
            found += values[max(first - start, 0) : stop - start]
        return found

    def copy(self, rows: Sequence[int] | LabelArray) -> None:
        """Get ready to have these rows read in any order; those without bytes of their own stay where they are.

        Raises:
            OSError: If there is no room for them, or a file is damaged.
        """
        if not hasattr(os, "pread"):
            return  # Windows, where processes cannot share a file without a name
        self.copied = self.copied or _Copies(len(self))
        wanted = self.copied.lacks(rows)
        for group, (start, stop) in enumerate(zip(self.starts, self.starts[1:], strict=False)):
            if not wanted[start:stop].any():
                continue
            for first, values in self._batches(group, "image"):
                for index in (first + np.flatnonzero(wanted[first : first + len(values)])).tolist():
                    self.copied.add(index, stored_bytes(values[index - first].as_py()))
        self.copied.file.flush()


class _Copies:
    """Images by number in a file without a name, which is gone with the last process that has it."""

    def __init__(self, count: int) -> None:
        self.places = np.zeros((count, 2), np.int64)  # first byte and length; a length of 0 means none
        self.file: Any = tempfile.TemporaryFile()  # noqa: SIM115
        self.end = 0

    def lacks(self, rows: Sequence[int] | LabelArray) -> Any:
        """Which of all images are among the rows and not there."""
        found = np.zeros(len(self.places), np.bool_)
        found[rows] = True
        return found & (self.places[:, 1] == 0)

    def add(self, index: int, content: bytes | None) -> None:
        if content is None:
            return
        try:
            self.file.write(content)
        except OSError as error:
            folder = tempfile.gettempdir()
            raise OSError(
                f"images cannot be copied to {folder} ({error.strerror}); make room, or set TMPDIR to a folder "
                "that has some"
            ) from error
        self.places[index] = self.end, len(content)
        self.end += len(content)

    def read(self, index: int) -> bytes | None:
        first, length = self.places[index].tolist()
        return os.pread(self.file.fileno(), length, first) if length else None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"file": reduction.DupFd(self.file.fileno())}  # to a worker that is not forked

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"file": os.fdopen(state["file"].detach(), "rb")}


def open_parquet(root: Path, groups: dict[Part, list[Path]], rest: Sequence[Path], wanted: Wanted) -> Source:
    """Labelled images of parquet files in a folder.

    Args:
        root: The folder.
        groups: Files of each part.
        rest: Those whose names say no part: they are to train on where no others are.
        wanted: What is asked of them.

    Raises:
        ValueError: If a file is damaged, or has no column ``image`` or ``label``.
    """
    notes: list[str] = []
    if rest and "train" not in groups:
        groups = {**groups, "train": list(rest)}
    elif rest:
        notes.append(
            f"{len(rest)} parquet files of {root} are not used, as their names say no part; the first: {rest[0].name}"
        )
    known = listed_classes(root)

    def read(part: Part, classes: list[str] | None) -> tuple[Images, list[str]]:
        images = ParquetImages(root, [file.name for file in groups[part]], ("image", "label"))
        try:
            labels = images.known_labels(0, len(images))
        except OSError as error:
            raise ValueError(str(error)) from error
        return labelled(images, labels, classes or known, str(groups[part][0]), notes, images.name)

    there = {part: shown_names([file.name for file in files], 2) for part, files in groups.items()}
    return assemble(str(root), there, read, wanted, notes)


def read_in_any_order(images: Any) -> None:
    """Get images ready to be read in any order: to be called once, before worker processes begin."""
    whole, numbers = whole_of(images)
    if isinstance(whole, ParquetImages):
        whole.copy(numbers)


@contextmanager
def _open(file: Path) -> Iterator[Any]:
    """A parquet file; a ValueError if it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(regular_file(file), buffer_size=BUFFER, pre_buffer=False)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} is no parquet file that can be read ({first_line(error)})") from error
    with table:
        yield table
