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

from convneur.data.bulk.images import BulkImages, FolderImages, fingerprint_of
from convneur.data.bulk.shards import open_shard_images
from convneur.data.bulk.tables import open_tables
from convneur.data.decode import SUFFIXES, image_files
from convneur.data.paths import before_wildcards, matching


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
        return open_shard_images(*_found(spec.removeprefix("wds:"), spec, "*.tar"), spec)
    if "://" in spec or spec.startswith("hf:"):
        raise ValueError(f"{spec} is no file here; download it, or write the data set as parquet files, and give those")
    root, files = _found(spec, spec, "*.parquet")
    if files and all(file.endswith(".parquet") for file in files):
        return open_tables(root, files)
    files = files or sorted(os.path.relpath(path, root) for path in image_files(root))
    files = [file for file in files if Path(file).suffix.lower() in SUFFIXES]
    if not files:
        raise ValueError(f"{spec} holds no images; give images or parquet files (.tar files: wds:{spec})")
    return FolderImages(root, files, fingerprint_of("files", ((file, (root / file).stat().st_size) for file in files)))


def _found(path: str, spec: str, inside: str) -> Found:
    """A file, what a folder has of a kind, or what a glob matches."""
    place = Path(path).expanduser()
    if place.is_dir():
        return Found(place.resolve(), sorted(file.name for file in place.glob(inside)))
    if place.exists():
        return Found(place.resolve().parent, [place.resolve().name])
    fixed = before_wildcards(place)
    files = matching(fixed, str(place.relative_to(fixed)))
    if not files:
        raise FileNotFoundError(f"{spec} does not exist; give a folder of images, parquet files, or wds: and shards")
    return Found(fixed.resolve(), files)
