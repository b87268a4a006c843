"""A folder of parquet parts that is filled in any order, by any number of processes, and never twice.

``part-00000.parquet`` holds the features of the first ``part_size`` images of a source, and so on. A part appears under
its name when it is whole; what could not be read is in its metadata, so that rows and failures appear together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from convneur.data.unlabelled import UnlabelledImages
from convneur.files import NEW, remove_entry, replace_file, write_atomic
from convneur.json_files import read_json
from convneur.models.metadata import as_object, within
from convneur.notes import first_difference
from convneur.printing import json_text

ABOUT = "embed.json"
FAILED = "failed.jsonl"
UNREADABLE = b"unreadable"  # in a part's metadata: identities and reasons, as JSON


class Shard(NamedTuple):
    """Features of one part.

    Attributes:
        number: Of the part, from 0.
        indices: Of the images in their source, ascending, without those that could not be read.
        features: (len(indices), D).
        unreadable: Which images could not be read, and why.
    """

    number: int
    indices: list[int]
    features: npt.NDArray[np.float32]
    unreadable: list[tuple[str, str]]


class WrittenShard(NamedTuple):
    """A part that is there: its rows, and which images could not be read and why."""

    number: int
    rows: int
    unreadable: list[tuple[str, str]]


class ShardWriter:
    """The parts of one source in one folder.

    Args:
        out: The folder.
        count: Images in the source.
        size: Images in a part; the last has what is left.
        width: D of the features.
        half: Keep float16 instead of float32.
    """

    def __init__(self, out: Path, count: int, size: int, width: int, half: bool = False) -> None:
        self.out, self.count, self.size, self.width, self.half = out, count, size, width, half

    def __len__(self) -> int:
        return -(-self.count // self.size)

    def images(self, number: int) -> range:
        """Indices of the images of a part."""
        return range(number * self.size, min((number + 1) * self.size, self.count))

    def path(self, number: int) -> Path:
        """Where a part is, or will be."""
        return self.out / f"part-{number:05d}.parquet"

    def write(self, part: Shard, images: UnlabelledImages) -> WrittenShard:
        """Write a part, whole."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        kind = pa.float16() if self.half else pa.float32()
        values = pa.array(part.features.astype(np.float16 if self.half else np.float32).reshape(-1), kind)
        columns = {"id": pa.array([_printable(images.name(index)) for index in part.indices], pa.string())}
        if images.own_labels is not None:
            own, first = self.images(part.number), part.number * self.size
            labels = images.known_labels(own.start, own.stop)
            columns["label"] = pa.array([labels[i - first] for i in part.indices], images.own_labels)
        columns["embedding"] = pa.FixedSizeListArray.from_arrays(values, self.width)
        unreadable = [(_printable(name), _printable(reason)) for name, reason in part.unreadable]
        table = pa.table(columns).replace_schema_metadata({UNREADABLE: json.dumps(unreadable)})
        with replace_file(self.path(part.number)) as fresh:
            pq.write_table(table, fresh)
        return WrittenShard(part.number, len(part.indices), unreadable)

    def find(self, number: int) -> WrittenShard | None:
        """A part, if it is there and whole."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            metadata = pq.read_metadata(self.path(number))
            unreadable = [(name, reason) for name, reason in json.loads((metadata.metadata or {})[UNREADABLE])]
        except FileNotFoundError:
            return None
        except (OSError, KeyError, ValueError, pa.ArrowException):  # cut off by a failing disk, or of somebody else
            return None
        whole = metadata.num_rows + len(unreadable) == len(self.images(number))
        return WrittenShard(number, metadata.num_rows, unreadable) if whole else None

    def found(self) -> dict[int, WrittenShard]:
        """All parts that are there."""
        every = (self.find(number) for number in range(len(self)))
        return {done.number: done for done in every if done is not None}

    def count_try(self, number: int) -> int:
        """How often a part was begun since the last `sweep`, now included; who dies of it leaves the count behind."""
        tries = self.out / f".part-{number:05d}.tries"
        with tries.open("a", encoding="utf-8") as file:
            file.write("x")
        return tries.stat().st_size

    def sweep(self) -> None:
        """Remove what killed processes left half written, and counts of tries; for when nobody writes."""
        for path in (*self.out.glob(f"{NEW}*"), *self.out.glob(".part-*")):
            remove_entry(path)

    def claim(self, made_from: Mapping[str, Any]) -> None:
        """Keep what decides what is in the parts; a folder begun with something else is refused.

        Raises:
            ValueError: If it was, with the first difference.
        """
        now = json.loads(json.dumps(made_from))
        kept = read_about(self.out)
        if kept is None:
            self.tell({"made_from": now, "finished": False})
            return
        with within(f"{self.out / ABOUT} is damaged"):
            was = as_object(kept.get("made_from", {}), "made_from")
        other = first_difference(was, now)
        if other:
            raise ValueError(
                f"--out {self.out} was begun with {other}; give the same again, add --overwrite to replace it, or give "
                "another --out"
            )

    def begun(self, made_from: Mapping[str, Any]) -> bool:
        """Whether the same job is there and not finished."""
        kept = read_about(self.out) or {"finished": True}
        other = first_difference(kept.get("made_from", {}), json.loads(json.dumps(made_from)))
        return not kept.get("finished") and other is None

    def tell(self, facts: Mapping[str, Any]) -> None:
        """Add facts to embed.json."""
        write_atomic(self.out / ABOUT, json.dumps((read_about(self.out) or {}) | dict(facts), indent=2) + "\n")

    def list_unreadable(self, found: Mapping[int, WrittenShard]) -> None:
        """Write failed.jsonl: a line for each image that could not be read; no file if all could."""
        lines = [
            json_text({"id": name, "reason": reason}) + "\n"
            for _, done in sorted(found.items())
            for name, reason in done.unreadable
        ]
        if lines:
            write_atomic(self.out / FAILED, "".join(lines))
        else:
            (self.out / FAILED).unlink(missing_ok=True)


def read_about(out: Path) -> dict[str, Any] | None:
    """What embed.json says; None if there is none, a ValueError if it is damaged."""
    try:
        return read_json(out / ABOUT, "give another --out")
    except FileNotFoundError:
        return None


def _printable(text: str) -> str:
    """Names of files may hold bytes that are no text, and parquet takes text only."""
    return text.encode("utf-8", "backslashreplace").decode()
