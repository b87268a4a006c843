"""Where images by the million are: one argument, whatever the kind.

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

import os
from pathlib import Path
from typing import NamedTuple

from convneur.data import tars
from convneur.data.bulk.images import BulkImages, FolderImages, fingerprint_of
from convneur.data.bulk.shards import open_shard_images
from convneur.data.bulk.tables import open_tables
from convneur.data.image_files import find_image_files, sort_files, unused_notes
from convneur.data.paths import before_wildcards, is_clutter, matching


class Found(NamedTuple):
    """Files that a source names, in order, relative to their folder."""

    root: Path
    files: list[str]


def open_bulk(spec: str) -> BulkImages:
    """Find the images that ``spec`` names; see the top of this file.

    Raises:
        FileNotFoundError: If there is nothing at ``spec``.
        ValueError: If there are no images, or a file is damaged or of another kind.
    """
    if spec.startswith("wds:"):
        return open_shard_images(*_found(spec.removeprefix("wds:"), spec, tars.ENDINGS), spec)
    if "://" in spec or spec.startswith("hf:"):
        raise ValueError(f"{spec} is no file here; download it, or write the data set as parquet files, and give those")
    root, files = _found(spec, spec, (".parquet",))
    if files and all(file.lower().endswith(".parquet") for file in files):
        return open_tables(root, files)
    # Files are those of a glob, or a single one; a folder without parquet files is looked through.
    found = sort_files([root / file for file in files]) if files else find_image_files(root)
    notes = unused_notes(found.unused)
    names = sorted(os.path.relpath(file, root) for file in found.files)
    if not names:
        told = f" ({notes[0]})" if notes else ""
        raise ValueError(f"{spec} holds no images; give images or parquet files (.tar files: wds:{spec}){told}")
    sizes = ((name, (root / name).stat().st_size) for name in names)
    return FolderImages(root, names, fingerprint_of("files", sizes), notes)


def _found(path: str, spec: str, endings: tuple[str, ...]) -> Found:
    """A file, what a folder has of an ending, or what a glob matches."""
    place = Path(path).expanduser()
    if place.is_dir():
        files = sorted(file.name for file in place.iterdir() if file.name.lower().endswith(endings))
        return Found(place.resolve(), [file for file in files if not is_clutter(file)])
    if place.exists():
        return Found(place.resolve().parent, [place.resolve().name])
    fixed = before_wildcards(place)
    files = matching(fixed, str(place.relative_to(fixed)))
    if not files:
        raise FileNotFoundError(f"{spec} does not exist; give a folder of images, parquet files, or wds: and shards")
    return Found(fixed.resolve(), files)
