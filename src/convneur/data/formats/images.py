"""What every format gives: encoded images that are read by number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from convneur.data.paths import inside, read_file

LabelArray = npt.NDArray[np.int64]


class Images(Protocol):
    """Encoded images with labels, read one at a time; safe to be used from several processes.

    Attributes:
        labels: Class of each image, a number that counts from 0.
    """

    labels: LabelArray

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """Return the encoded image; an OSError if it is gone."""
        ...

    def name(self, index: int) -> str:
        """Where the image is, for messages."""
        ...


class FileImages:
    """Image files; their paths are from ``root`` on."""

    def __init__(self, paths: Sequence[str], labels: Sequence[int] | None = None, root: Path | None = None) -> None:
        # Arrays rather than lists: workers share their memory, where counting references would copy a list's pages.
        self.paths = np.array(paths, dtype=np.bytes_) if all(map(str.isascii, paths)) else np.array(paths)
        self.labels: LabelArray = np.zeros(len(paths), np.int64) if labels is None else np.array(labels, np.int64)
        self.root = root

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        return read_file(self.name(index))

    def name(self, index: int) -> str:
        """Path of the file."""
        path = self.identity(index)
        return path if self.root is None else str(self.root / path)

    def identity(self, index: int) -> str:
        """Path from ``root`` on."""
        path = self.paths[index]
        return path.decode() if isinstance(path, bytes) else str(path)


class Subset:
    """Some of the images of a source."""

    def __init__(self, images: Images, indices: Sequence[int]) -> None:
        self.images, self.indices = images, np.array(indices, dtype=np.int64)
        self.labels: LabelArray = images.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> bytes:
        """Read from the source."""
        return self.images.read(int(self.indices[index]))

    def name(self, index: int) -> str:
        """Name in the source."""
        return self.images.name(int(self.indices[index]))


def whole_of(images: Any) -> tuple[Any, LabelArray]:
    """The images that a subset, perhaps of a subset, was taken from, and their numbers there."""
    numbers = np.arange(len(images))
    while isinstance(images, Subset):
        images, numbers = images.images, images.indices[numbers]
    return images, numbers


def stored_bytes(value: Any) -> bytes | None:
    """The bytes in an image column: alone, or in a struct of bytes and path as Hugging Face writes it."""
    value = value.get("bytes") or None if isinstance(value, dict) else value
    return value if isinstance(value, bytes) else None


def image_bytes(value: Any, folder: Path, *others: Path) -> bytes:
    """What an image column holds, or what its path leads to.

    Args:
        value: Of a row.
        folder: Of the data, which paths are relative to and may not leave.
        *others: Folders that they may lead to as well.

    Raises:
        OSError: If it holds neither, or the file is gone or outside of the folder.
    """
    found = stored_bytes(value)
    if found is not None:
        return found
    path = value.get("path") if isinstance(value, dict) else None
    if not isinstance(path, str) or not path:
        raise OSError("the row holds no image bytes")
    try:
        return read_file(inside(folder, path, *others))
    except ValueError as error:
        raise OSError(str(error)) from error
