"""Images that a CSV file labels, as Kaggle has them: a row for each, with its file, its label and perhaps its part.

A file is named by its path from the folder of the CSV file, or by the end of that path; its ending may be missing, as
in columns of ids. Either way exactly one image must fit.
"""

from __future__ import annotations

import csv
import io
import posixpath
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from convneur.data.decode import SUFFIXES
from convneur.data.formats.images import FileImages, Images
from convneur.data.image_files import find_image_files, unused_notes
from convneur.data.paths import LARGEST_FILE, read_text
from convneur.data.split import Source, Wanted, assemble, labelled, listed_classes
from convneur.data.split_names import Part, find_parts, part_of
from convneur.json_files import shown

FILES = ("filename", "file_name", "image", "image_id", "id")  # names of the column, the first that is there
LABEL, SPLIT = "label", "split"
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,8})(\.[0-9]+)?")  # 007 is a name


@dataclass(frozen=True)
class _Row:
    line: int
    file: str
    label: str
    split: str


def open_label_list(file: Path, wanted: Wanted) -> Source:
    """Find the images that a CSV file labels.

    Raises:
        FileNotFoundError: If an image is not there.
        ValueError: If it is no such file, an image is named twice, a name fits several, or a split is no part; one line
            with file and line.
    """
    rows = _rows(file)
    paths, notes = _paths(file, rows)
    labels = _labels(rows)
    names = {row.split: row for row in rows if row.split}
    parts = find_parts(names, f"{file}, column {SPLIT}")
    if names and (odd := [row for row in rows if part_of(row.split) is None]):
        raise ValueError(
            f"{file}, line {odd[0].line}: the split {shown(odd[0].split)} is no part; write train, val or test"
        )
    known = listed_classes(file.parent)

    def read(part: Part, classes: list[str] | None) -> tuple[Images, list[str]]:
        own = [number for number, row in enumerate(rows) if not parts or row.split == parts[part]]
        return labelled(
            FileImages([paths[number] for number in own]),
            [labels[number] for number in own],
            classes or known,
            str(file),
            notes,
            lambda place: f"{file}, line {rows[own[place]].line},",
        )

    there: dict[Part, str] = {part: f"split {name}" for part, name in parts.items()} or {"train": file.name}
    return assemble(str(file), there, read, wanted, notes)


def _rows(file: Path) -> list[_Row]:
    reader = csv.reader(io.StringIO(read_text(file, LARGEST_FILE), newline=""))
    rows = []
    try:
        head = [name.strip().lower() for name in next(reader, [])]
        named = next((name for name in FILES if name in head), None)
        if named is None or LABEL not in head:
            lacking = LABEL if named else ", ".join(FILES[:-1]) + f" or {FILES[-1]}"
            raise ValueError(
                f"{file} has no column {lacking}; its first line is {shown(','.join(head))}, and must name the columns"
            )
        for values in reader:
            if not any(map(str.strip, values)):
                continue
            if len(values) != len(head):
                raise ValueError(
                    f"{file}, line {reader.line_num} has {len(values)} values for {len(head)} columns; put values that "
                    "have commas into quotes"
                )
            row = dict(zip(head, map(str.strip, values), strict=True))
            rows.append(_Row(reader.line_num, row[named], row[LABEL], row.get(SPLIT, "")))
            for what in (named, LABEL):
                if not row[what]:
                    raise ValueError(f"{file}, line {reader.line_num} has no {what}; add it, or remove the row")
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num} cannot be read as CSV ({error})") from error
    if not rows:
        raise ValueError(f"{file} has no rows; give a file with an image and a label in each")
    return rows


def _labels(rows: Sequence[_Row]) -> list[float] | list[str]:
    """Numbers, if all are; else names."""
    labels = [row.label for row in rows]
    return [*map(float, labels)] if all(map(_NUMBER.fullmatch, labels)) else labels


def _paths(file: Path, rows: Sequence[_Row]) -> tuple[list[str], list[str]]:
    """The image of each row, and what to tell of others."""
    folder, seen = _Folder(file.parent), dict[str, int]()
    fitting = [folder.fitting(row.file) for row in rows]
    if missing := [row for row, ways in zip(rows, fitting, strict=True) if not ways]:
        unused = "".join(f"; {note}" for note in unused_notes(folder.unused))
        raise FileNotFoundError(
            f"{file}, line {missing[0].line}: there is no image {shown(missing[0].file)} in {file.parent} "
            f"({len(missing)} of {len(rows)} are missing){unused}"
        )
    for row, (way, *others) in zip(rows, fitting, strict=True):
        if others:
            raise ValueError(
                f"{file}, line {row.line}: {shown(row.file)} may be {way} or {others[0]}; write the path from "
                f"{file.parent}, with its ending"
            )
        if (line := seen.setdefault(way, row.line)) != row.line:
            raise ValueError(f"{file}, line {row.line}: {way} stands in line {line}, too; remove one of them")
    return [str(file.parent / way) for way in seen], unused_notes(folder.unused)


class _Folder:
    """Images of a folder by the ends of their paths; those are looked up, so that no name leads out of it."""

    def __init__(self, folder: Path) -> None:
        found = find_image_files(folder)
        self.unused = found.unused
        self.ways = [PurePath(path).relative_to(folder).as_posix() for path in found.files]
        self.deepest = max((way.count("/") for way in self.ways), default=0)
        self.ends: dict[int, dict[str, list[str]]] = {}

    def fitting(self, name: str) -> list[str]:
        """Paths that a name may mean: the one that it is as a whole, or those that end with it."""
        name = posixpath.normpath(name.replace("\\", "/"))
        bare, ending = posixpath.splitext(name)
        alike = [way for way in self._ending(bare) if way.endswith(ending)] if ending.lower() in SUFFIXES else []
        alike = alike or self._ending(name)
        return [way for way in alike if name in (way, posixpath.splitext(way)[0])] or alike

    def _ending(self, bare: str) -> list[str]:
        """Paths that end so, but for the ending of the file."""
        depth = bare.count("/")
        if depth > self.deepest:
            return []
        if depth not in self.ends:
            ends = self.ends[depth] = defaultdict(list)
            for way in self.ways:
                steps = way.split("/")
                if len(steps) > depth:
                    ends[posixpath.splitext("/".join(steps[-depth - 1 :]))[0]].append(way)
        return self.ends[depth].get(bare, [])
