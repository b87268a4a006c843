"""Images by the million, of which nothing is learned: one argument, whatever the kind.

| source | images | identity of an image |
|---|---|---|
| a folder | image files in it, to the bottom | path in the folder |
| a parquet file, a folder of them, or a glob | rows of the column ``image`` | ``FILE:ROW`` |
| ``wds:`` with a folder of shards, a shard or a glob | images in the ``.tar`` files | ``SHARD:KEY`` |
| a glob | image files | path from the folder before the first wildcard on |

Labels are no condition here: a column ``label`` and ``.cls`` files are handed on as they are. Order is that of the
names, so that it is the same wherever the same files are.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convneur.data.formats.images import FileImages, LabelArray
from convneur.data.formats.parquet import ParquetImages
from convneur.data.formats.tar import ENDINGS, TarImages
from convneur.data.image_files import find_image_files, sort_files, unused_notes
from convneur.data.paths import before_wildcards, is_clutter, matching


class UnlabelledImages:
    """Images that are distinguished by their names, which are the same wherever the files are.

    Args:
        images: Of a format; it has ``read``, ``identity``, and ``known_labels`` if they have labels.
        fingerprint: A number for which images there are, by names and sizes of the files; folders above do not count.
        own_labels: Name of Arrow's type of the labels if images have some, such as ``int64`` or ``string``; else None.
        notes: What was left out, and why; for the user.

    Attributes:
        labels: Zeros; what is judged has labels, and here nothing is.
    """

    def __init__(self, images: Any, fingerprint: str, own_labels: str | None = None, notes: Sequence[str] = ()) -> None:
        self.images, self.fingerprint, self.own_labels, self.notes = images, fingerprint, own_labels, list(notes)
        self.labels: LabelArray = np.zeros(len(images), np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        """Return the encoded image; an OSError if it is gone or damaged."""
        content: bytes = self.images.read(index)
        return content

    def name(self, index: int) -> str:
        """What the image is known by."""
        return str(self.images.identity(index))

    def known_labels(self, first: int, stop: int) -> list[Any]:
        """Labels of the images from ``first`` up to ``stop``, None for those without one."""
        if self.own_labels is None:
            return [None] * (stop - first)
        labels = self.images.known_labels(first, stop)
        return [*map(_text, labels)] if self.own_labels == "string" else labels


def open_unlabelled(spec: str) -> UnlabelledImages:
    """Find the images that ``spec`` names; see the top of this file.

    Raises:
        FileNotFoundError: If there is nothing at ``spec``.
        ValueError: If there are no images, or a file is damaged or of another kind.
    """
    if spec.startswith("wds:"):
        return _shards(*_found(spec.removeprefix("wds:"), spec, ENDINGS), spec)
    if "://" in spec or spec.startswith("hf:"):
        raise ValueError(f"{spec} is no file here; download it, or write the data set as parquet files, and give those")
    root, files = _found(spec, spec, (".parquet",))
    if files and all(file.lower().endswith(".parquet") for file in files):
        return _tables(root, files)
    # Files are those of a glob, or a single one; a folder without parquet files is looked through.
    found = sort_files([root / file for file in files]) if files else find_image_files(root)
    notes = unused_notes(found.unused)
    names = sorted(os.path.relpath(file, root) for file in found.files)
    if not names:
        told = f" ({notes[0]})" if notes else ""
        raise ValueError(f"{spec} holds no images; give images or parquet files (.tar files: wds:{spec}){told}")
    sizes = ((name, (root / name).stat().st_size) for name in names)
    return UnlabelledImages(FileImages(names, root=root), _fingerprint("files", sizes), notes=notes)


def _found(path: str, spec: str, endings: tuple[str, ...]) -> tuple[Path, list[str]]:
    """Files that a source names, from their folder on: one, those of an ending in a folder, or what a glob matches."""
    place = Path(path).expanduser()
    if place.is_dir():
        files = sorted(file.name for file in place.iterdir() if file.name.lower().endswith(endings))
        return place.resolve(), [file for file in files if not is_clutter(file)]
    if place.exists():
        return place.resolve().parent, [place.resolve().name]
    fixed = before_wildcards(place)
    files = matching(fixed, str(place.relative_to(fixed)))
    if not files:
        raise FileNotFoundError(f"{spec} does not exist; give a folder of images, parquet files, or wds: and shards")
    return fixed.resolve(), files


def _tables(root: Path, files: Sequence[str]) -> UnlabelledImages:
    images = ParquetImages(root, files)
    if not len(images):
        raise ValueError(f"{root / files[0]} has no rows; give data with images")
    own, notes = _label_type(list(images.kinds.values()))
    if own is not None and len(images.kinds) < len(files):
        first = next(file for number, file in enumerate(files) if number not in images.kinds)
        notes.append(
            f"{len(files) - len(images.kinds)} of {len(files)} parquet files have no column 'label'; the first: {first}"
        )
    rows = ((f, (root / f).stat().st_size, *groups) for f, groups in zip(files, images.groups, strict=True))
    return UnlabelledImages(images, _fingerprint("tables", rows), own, notes)


def _shards(root: Path, shards: Sequence[str], spec: str) -> UnlabelledImages:
    images = TarImages(root, shards)
    if not len(images):
        raise ValueError(f"{spec} holds no images; give shards (.tar) of images, or a folder of them")
    known = [label for label in images.own if label is not None]
    own = None if not known else "string" if isinstance(known[0], str) else "int64"
    notes = []
    if several := images.several:
        notes.append(
            f"{len(several):,} samples have several images, of which the first is used; the first: {several[0]}"
        )
    sizes = ((shard, (root / shard).stat().st_size) for shard in shards)
    return UnlabelledImages(images, _fingerprint("shards", sizes), own, notes)


def _fingerprint(kind: str, rows: Iterable[tuple[Any, ...]]) -> str:
    """A number for what identifies the files of a source: names, sizes, rows."""
    whole = hashlib.sha256(kind.encode())
    for row in rows:
        whole.update(os.fsencode("\n" + "\t".join(map(str, row))))
    return whole.hexdigest()


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
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    kinds = {
        "bool": (types.is_boolean,),
        "uint64": (types.is_uint64,),
        "int64": (types.is_integer,),
        "double": (types.is_floating,),
        "string": (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary),
    }
    return next((name for name, those in kinds.items() if any(fits(kind) for fits in those)), None)


def _text(label: Any) -> str | None:
    if isinstance(label, bytes):
        return label.decode("utf-8", "backslashreplace")
    return None if label is None else str(label)
