"""What images by the million have in common, and image files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from convneur.data.paths import read_file
from convneur.data.sources import FileImages, Images


class BulkImages(Images, Protocol):
    """Images that are told apart by their names, and their own labels.

    Attributes:
        labels: Zeros; what is judged has labels, and here nothing is.
        fingerprint: A number for which images there are, by names and sizes of the files; folders above do not count.
        own_labels: Name of Arrow's type of the labels if images have some, such as ``int64`` or ``string``; else None.
        notes: What was left out, and why; for the user.
    """

    fingerprint: str
    own_labels: str | None
    notes: list[str]

    def known_labels(self, first: int, stop: int) -> list[Any]:
        """Labels of the images from ``first`` up to ``stop``, None for those without one."""
        ...


def fingerprint_of(kind: str, rows: Iterable[tuple[Any, ...]]) -> str:
    """A number for what identifies the files of a source: names, sizes, rows."""
    whole = hashlib.sha256(kind.encode())
    for row in rows:
        whole.update(os.fsencode("\n" + "\t".join(map(str, row))))
    return whole.hexdigest()


class FolderImages(FileImages):
    """Image files, named by their paths in a folder."""

    own_labels: str | None = None

    def __init__(self, root: Path, paths: Sequence[str], fingerprint: str, notes: Sequence[str] = ()) -> None:
        super().__init__(paths, [0] * len(paths))
        self.root, self.fingerprint, self.notes = root, fingerprint, list(notes)

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        return read_file(self.root / self.name(index))

    def known_labels(self, first: int, stop: int) -> list[Any]:
        """None: which folder an image is in is said by its name."""
        return [None] * (stop - first)
