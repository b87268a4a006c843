"""Rows of parquet files, read where they lie."""

from __future__ import annotations

import bisect
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convneur.data.bulk.images import fingerprint_of
from convneur.data.paths import first_line
from convneur.data.sources import Labels, image_bytes
from convneur.files import regular_file


class ParquetImages:
    """Rows of parquet files. A process holds the images of one row group, the one it reads from.

    Args:
        root: Folder of the files.
        files: Their names.
        groups: Rows of each row group, file by file.
        own_labels: Type of the labels, None if there are none.
        fingerprint: See `BulkImages`.
        unlabelled: Numbers of the files without labels.
        notes: See `BulkImages`.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        groups: Sequence[Sequence[int]],
        own_labels: str | None,
        fingerprint: str,
        unlabelled: Collection[int] = (),
        notes: Sequence[str] = (),
    ) -> None:
        self.root, self.files = root, list(files)
        self.places = [(file, group) for file, rows in enumerate(groups) for group in range(len(rows))]
        self.starts = np.cumsum([0, *(count for rows in groups for count in rows)]).tolist()
        self.first_rows = np.cumsum([0, *map(sum, groups)]).tolist()
        self.labels: Labels = np.zeros(self.starts[-1], dtype=np.int64)
        self.own_labels, self.fingerprint = own_labels, fingerprint
        self.unlabelled, self.notes = frozenset(unlabelled), list(notes)
        self._held: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": (-1, None)}

    def read(self, index: int) -> bytes:
        """Return the bytes in the image column; an OSError if the row group is damaged."""
        group = bisect.bisect_right(self.starts, index) - 1
        if self._held[0] != group:
            self._held = (group, self._column(group, "image"))
        return image_bytes(
            self._held[1][index - self.starts[group]].as_py(), (self.root / self.files[self.places[group][0]]).parent
        )

    def name(self, index: int) -> str:
        """File and row."""
        file = bisect.bisect_right(self.first_rows, index) - 1
        return f"{self.files[file]}:{index - self.first_rows[file]}"

    def known_labels(self, first: int, stop: int) -> list[Any]:
        """Those in the column ``label``."""
        if self.own_labels is None:
            return [None] * (stop - first)
        found: list[Any] = []
        group = bisect.bisect_right(self.starts, first) - 1
        while self.starts[group] < stop:
            start = self.starts[group]
            rows = slice(max(first - start, 0), min(stop, self.starts[group + 1]) - start)
            if self.places[group][0] in self.unlabelled:
                found += [None] * (rows.stop - rows.start)
            else:
                labels = self._column(group, "label")[rows.start : rows.stop].to_pylist()
                found += map(_text, labels) if self.own_labels == "string" else labels
            group += 1
        return found

    def _column(self, group: int, name: str) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file, number = self.places[group]
        try:
            with pq.ParquetFile(self.root / self.files[file]) as table:
                column = table.read_row_group(number, columns=[name])[name]
        except pa.ArrowException as error:
            raise OSError(f"row group {number} is damaged ({first_line(error)})") from error
        if len(column) != self.starts[group + 1] - self.starts[group]:
            raise OSError(f"row group {number} is damaged: it has {len(column):,} rows and says another number")
        return column


def open_tables(root: Path, files: Sequence[str]) -> ParquetImages:
    """Read what parquet files say of themselves.

    Raises:
        ValueError: If a file is damaged or has no column ``image``, or there are no rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    groups: list[list[int]] = []
    kinds: dict[int, Any] = {}  # of labels, by number of the file
    for number, file in enumerate(files):
        try:
            with pq.ParquetFile(regular_file(root / file)) as table:
                schema, metadata = table.schema_arrow, table.metadata
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{root / file} is no parquet file that can be read ({first_line(error)})") from error
        if "image" not in schema.names:
            raise ValueError(f"{root / file} has no column 'image'; it has {', '.join(schema.names)}")
        groups.append([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)])
        if "label" in schema.names:
            kinds[number] = schema.field("label").type
    own, notes = _label_type(list(kinds.values()))
    if own is not None and len(kinds) < len(files):
        first = next(file for number, file in enumerate(files) if number not in kinds)
        notes.append(
            f"{len(files) - len(kinds)} of {len(files)} parquet files have no column 'label'; the first: {first}"
        )
    print_of = fingerprint_of(
        "tables", ((f, (root / f).stat().st_size, *rows) for f, rows in zip(files, groups, strict=True))
    )
    unlabelled = set(range(len(files))) - kinds.keys()
    images = ParquetImages(root, files, groups, own, print_of, unlabelled, notes)
    if not len(images):
        raise ValueError(f"{root / files[0]} has no rows; give data with images")
    return images


def _label_type(kinds: Sequence[Any]) -> tuple[str | None, list[str]]:
    """Name of the type that holds the labels of all files, and what to tell; None if there are no labels."""
    names = {_name_of(kind) for kind in kinds}
    if None in names:
        odd = next(kind for kind in kinds if _name_of(kind) is None)
        return None, [f"the column 'label' holds {odd}, which is no label; none are written"]
    if len(names) > 1:
        names = {"double"} if names <= {"int64", "uint64", "double"} else {"string"}
    return next(iter(names), None), []


def _name_of(kind: Any) -> str | None:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _name_of(kind.value_type)
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind):
        return "uint64" if kind == pa.uint64() else "int64"
    if pa.types.is_floating(kind):
        return "double"
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return "string" if any(each(kind) for each in text) else None


def _text(label: Any) -> str | None:
    if isinstance(label, bytes):
        return label.decode("utf-8", "backslashreplace")
    return None if label is None else str(label)
