"""Rows of parquet files, read where they lie."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convneur.data.bulk.images import fingerprint_of
from convneur.data.sources import Labels, image_bytes
from convneur.files import regular_file


class ParquetImages:
    """Rows of parquet files. A process holds the images of one row group, the one it reads from.

    Args:
        root: Folder of the files.
        files: Their names.
        groups: Rows of each row group, file by file.
        own_labels: Type of the column ``label``, None if there is none.
        fingerprint: See `BulkImages`.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[str],
        groups: Sequence[Sequence[int]],
        own_labels: str | None,
        fingerprint: str,
    ) -> None:
        self.root, self.files = root, list(files)
        self.places = [(file, group) for file, rows in enumerate(groups) for group in range(len(rows))]
        self.starts = np.cumsum([0, *(count for rows in groups for count in rows)]).tolist()
        self.first_rows = np.cumsum([0, *map(sum, groups)]).tolist()
        self.labels: Labels = np.zeros(self.starts[-1], dtype=np.int64)
        self.own_labels, self.fingerprint = own_labels, fingerprint
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
            found += self._column(group, "label")[max(first - start, 0) : stop - start].to_pylist()
            group += 1
        return found

    def _column(self, group: int, name: str) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file, number = self.places[group]
        try:
            with pq.ParquetFile(self.root / self.files[file]) as table:
                return table.read_row_group(number, columns=[name])[name]
        except pa.ArrowException as error:
            raise OSError(f"row group {number} is damaged ({str(error).splitlines()[0]})") from error


def open_tables(root: Path, files: Sequence[str]) -> ParquetImages:
    """Read what parquet files say of themselves.

    Raises:
        ValueError: If a file is damaged or has no column ``image``, or there are no rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    groups, kinds = [], set()
    for file in files:
        try:
            with pq.ParquetFile(regular_file(root / file)) as table:
                schema, metadata = table.schema_arrow, table.metadata
        except (pa.ArrowInvalid, OSError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{root / file} is no parquet file that can be read ({reason})") from error
        if "image" not in schema.names:
            raise ValueError(f"{root / file} has no column 'image'; it has {', '.join(schema.names)}")
        groups.append([metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)])
        kinds.add(_label_type(schema.field("label").type) if "label" in schema.names else None)
    own = kinds.pop() if len(kinds) == 1 else None  # labels that only some files have, or of two kinds, are no labels
    print_of = fingerprint_of(
        "tables", ((f, (root / f).stat().st_size, *rows) for f, rows in zip(files, groups, strict=True))
    )
    images = ParquetImages(root, files, groups, own, print_of)
    if not len(images):
        raise ValueError(f"{root / files[0]} has no rows; give data with images")
    return images


def _label_type(kind: Any) -> str | None:
    import pyarrow as pa

    if pa.types.is_integer(kind):
        return "int64"
    return "string" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else None
