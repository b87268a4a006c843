"""Labelled images wherever people keep them: one argument, whatever the kind.

| `--data` | what |
|---|---|
| a folder | class folders, with or without ``train`` and ``val`` above them |
| a parquet file, or a folder of them | columns ``image`` (bytes) and ``label`` |
| ``hf:NAME`` or ``hf:FOLDER`` | a Hugging Face dataset, from the hub or a local copy |
| ``wds:FOLDER`` | WebDataset shards, see `convneur.data.shards` |
| ``digits`` | scikit-learn's handwritten digits, which need no files |
"""

from __future__ import annotations

import bisect
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from convneur.data.decode import image_files
from convneur.data.paths import inside, read_file, read_text
from convneur.data.split import Split, stratified_split
from convneur.files import regular_file

Labels = npt.NDArray[np.int64]
TRAIN_NAMES = ("train", "training")
MOST_CLASSES = 1_000_000
VAL_NAMES = ("val", "valid", "validation", "test", "testing")


class Images(Protocol):
    """Encoded images with labels, read one at a time; safe to be used from several processes.

    Attributes:
        labels: Class of each image, a number that counts from 0.
    """

    labels: Labels

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes:
        """Return the encoded image; an OSError if it is gone."""
        ...

    def name(self, index: int) -> str:
        """Where the image is, for messages."""
        ...


@dataclass(frozen=True)
class Source:
    """Images to train on and held-out ones.

    Attributes:
        train: To learn from.
        val: To judge by.
        classes: Names, in the order of the labels.
        split: How ``val`` was taken from the images, if the source itself did not say.
    """

    train: Any
    val: Any
    classes: list[str]
    split: Split | None = None


class FileImages:
    """Image files."""

    def __init__(self, paths: Sequence[str], labels: Sequence[int]) -> None:
        # Arrays rather than lists: workers share their memory, where counting references would copy a list's pages.
        self.paths = np.array(paths, dtype=np.bytes_) if all(map(str.isascii, paths)) else np.array(paths)
        self.labels: Labels = np.array(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        """Return the file's bytes."""
        return read_file(self.name(index))

    def name(self, index: int) -> str:
        """Path of the file."""
        path = self.paths[index]
        return path.decode() if isinstance(path, bytes) else str(path)


class TableImages:
    """Rows of parquet files, kept in memory as they are stored; rows are found across files."""

    def __init__(self, files: Sequence[Path], columns: Sequence[Any], labels: Sequence[int]) -> None:
        self.files, self.columns = list(files), list(columns)
        self.starts = np.cumsum([0, *map(len, columns)]).tolist()
        self.labels: Labels = np.array(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def _find(self, index: int) -> tuple[int, int]:
        file = bisect.bisect_right(self.starts, index) - 1
        return file, index - self.starts[file]

    def read(self, index: int) -> bytes:
        """Return the bytes in the image column."""
        file, row = self._find(index)
        return image_bytes(self.columns[file][row].as_py(), self.files[file].parent)

    def name(self, index: int) -> str:
        """File and row."""
        file, row = self._find(index)
        return f"{self.files[file]} row {row}"


class ScanImages:
    """Digits (N, 1, S, S) in [0, 1] as grey PNG files in memory: ink is white on black."""

    def __init__(self, scans: Tensor, labels: Tensor) -> None:
        self.pixels = (scans[:, 0] * 255).round().byte().numpy()
        self.labels: Labels = labels.numpy()

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        """Encode one scan."""
        buffer = io.BytesIO()
        Image.fromarray(self.pixels[index]).save(buffer, "PNG")
        return buffer.getvalue()

    def name(self, index: int) -> str:
        """Number of the scan."""
        return f"digits {index}"


class Subset:
    """Some of the images of a source."""

    def __init__(self, images: Images, indices: Sequence[int]) -> None:
        self.images, self.indices = images, np.array(indices, dtype=np.int64)
        self.labels: Labels = images.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> bytes:
        """Read from the source."""
        return self.images.read(int(self.indices[index]))

    def name(self, index: int) -> str:
        """Name in the source."""
        return self.images.name(int(self.indices[index]))


def open_source(spec: str, val_share: float | None = 0.2, seed: int = 0, allow_remote: bool = False) -> Source:
    """Find the images that ``spec`` names; see the top of this file.

    Args:
        spec: What people give as ``--data``.
        val_share: Share to hold out where the source has no validation images; stratified by class. None to judge by
            all of them, where nothing is learned.
        seed: Of that split.
        allow_remote: Read what a description of data names elsewhere: addresses on the web, and ``pipe:``, which runs
            a command of the shell. Only for descriptions that are trusted as programs are.

    Raises:
        FileNotFoundError: If there is nothing at ``spec``.
        ValueError: If there are no images, fewer than two classes, or a class without images.
        ImportError: If the kind needs a package that is not installed.
    """
    if spec == "digits":
        return _digits()
    if spec.startswith("hf:"):
        from convneur.data.hub import open_hub

        return open_hub(spec.removeprefix("hf:"), val_share, seed, allow_remote)
    if spec.startswith("wds:"):
        from convneur.data.shards import open_shards

        return open_shards(spec.removeprefix("wds:"), allow_remote)
    root = Path(spec).expanduser()
    if not root.exists():
        raise FileNotFoundError(
            f"--data {spec} does not exist; give a folder of class folders, or one of parquet files"
        )
    files = [root] if root.is_file() else sorted(root.glob("*.parquet"))
    if root.is_file() and root.suffix != ".parquet":
        raise ValueError(f"--data {spec} is a {root.suffix or 'plain'} file; give a folder, or a .parquet file")
    return _parquet(files, val_share, seed) if files else _folder(root, val_share, seed)


def _folder(root: Path, val_share: float | None, seed: int) -> Source:
    train, val = (next((root / n for n in names if (root / n).is_dir()), None) for names in (TRAIN_NAMES, VAL_NAMES))
    classes = _class_folders(train or root)
    images = _files(train or root, classes)
    if train is None or val is None:
        return split_off(images, classes, val_share, seed)
    unknown = sorted(set(_subfolders(val)) - set(classes))
    if unknown:
        raise ValueError(f"{val} has classes that {train} has not: {', '.join(unknown[:5])}; make them the same")
    return Source(images, _files(val, classes, may_lack=True), classes)


def _class_folders(root: Path) -> list[str]:
    classes = _subfolders(root)
    _check_classes(classes, str(root), "folders of images, one a class")
    return classes


def _subfolders(root: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))


def _files(root: Path, classes: Sequence[str], may_lack: bool = False) -> FileImages:
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        before = len(paths)
        paths += image_files(root / name)
        if len(paths) == before and not may_lack:
            raise ValueError(f"{root / name} has no images; add some (.jpg, .png, .webp, ...) or remove the folder")
        labels += [label] * (len(paths) - before)
    if not paths:
        raise ValueError(f"{root} has no images; add some (.jpg, .png, .webp, ...)")
    return FileImages(paths, labels)


def _parquet(files: Sequence[Path], val_share: float | None, seed: int) -> Source:
    def named(names: Sequence[str]) -> list[Path]:
        return [
            file for file in files if any(file.stem == n or file.stem.startswith((f"{n}-", f"{n}_")) for n in names)
        ]

    train, val = named(TRAIN_NAMES), named(VAL_NAMES)
    listed = files[0].parent / "classes.txt"
    classes = read_text(listed).splitlines() if listed.exists() else None
    images, classes = _table(train or [file for file in files if file not in val] or files, classes)
    return (
        Source(images, _table(val, classes)[0], classes)
        if train and val
        else split_off(images, classes, val_share, seed)
    )


def _table(files: Sequence[Path], classes: list[str] | None) -> tuple[TableImages, list[str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns, labels = [], []
    for file in files:
        try:
            names = pq.read_schema(regular_file(file)).names
            if missing := {"image", "label"} - set(names):
                raise ValueError(f"{file} has no column {sorted(missing)[0]!r}; it has {', '.join(names)}")
            table = pq.read_table(file, columns=["image", "label"])
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{file} is no parquet file that can be read ({str(error).splitlines()[0]})") from error
        columns.append(table["image"])
        labels += table["label"].to_pylist()
    numbers, classes = numbered(labels, classes, str(files[0]))
    return TableImages(files, columns, numbers), classes


def _digits() -> Source:
    from convneur.data.digits import load_digits

    train, val = load_digits()
    return Source(ScanImages(*train), ScanImages(*val), [str(digit) for digit in range(10)])


def split_off(images: Images, classes: list[str], val_share: float | None, seed: int) -> Source:
    """Hold a share of the images out; None to judge by all of them."""
    if val_share is None:
        return Source(images, images, classes)
    split = stratified_split(images.labels, val_share, seed)
    return Source(Subset(images, split.train), Subset(images, split.val), classes, split)


def image_bytes(value: Any, folder: Path, *others: Path) -> bytes:
    """What an image column holds: bytes, or a struct of bytes and path as Hugging Face writes it.

    Args:
        value: Of a row.
        folder: Of the data, which paths are relative to and may not leave.
        *others: Folders that they may lead to as well.

    Raises:
        OSError: If it holds neither, or the file is gone or outside of the folder.
    """
    if isinstance(value, dict):
        path = value.get("path")
        value = value.get("bytes") or (_linked(path, folder, *others) if isinstance(path, str) and path else None)
    if not isinstance(value, bytes):
        raise OSError("the row holds no image bytes")
    return value


def _linked(path: str, *folders: Path) -> bytes:
    try:
        return read_file(inside(folders[0], path, *folders[1:]))
    except ValueError as error:
        raise OSError(str(error)) from error


def numbered(labels: Sequence[Any], classes: list[str] | None, origin: str) -> tuple[list[int], list[str]]:
    """Labels as numbers from 0, and the names of the classes; a ValueError if they are none, or there are none."""
    if not labels:
        raise ValueError(f"{origin} has no rows; give data with images")
    if any(label is None for label in labels):
        raise ValueError(f"{origin} has rows without a label; remove them")
    if not all(isinstance(label, str) for label in labels) and not all(isinstance(label, int) for label in labels):
        raise ValueError(f"{origin} has labels that are neither all numbers from 0 nor all names")
    if isinstance(labels[0], str):
        classes = classes or sorted(set(labels))
        number = {name: i for i, name in enumerate(classes)}
        if unknown := sorted(set(labels) - set(classes)):
            raise ValueError(
                f"{origin} has labels that are no class: {', '.join(unknown[:5])}; the classes are {classes}"
            )
        labels = [number[label] for label in labels]
    else:
        classes = classes or number_names(labels, origin)
        if min(labels) < 0 or max(labels) >= len(classes):
            raise ValueError(f"{origin} has labels from {min(labels)} to {max(labels)} and {len(classes)} classes")
    _check_classes(classes, origin, "at least two classes")
    return list(labels), classes


def number_names(labels: Iterable[int], origin: str) -> list[str]:
    """Names of classes that only numbers are known of; a ValueError if there would be too many."""
    if (top := max(labels)) >= MOST_CLASSES:
        raise ValueError(f"{origin} has a label {top}, and {MOST_CLASSES:,} classes are the most; number them from 0")
    return [str(number) for number in range(top + 1)]


def _check_classes(classes: Sequence[str], origin: str, wanted: str) -> None:
    if len(classes) < 2:
        found = f"only one class, {classes[0]!r}" if classes else "no class folders"
        raise ValueError(f"{origin} has {found}; a classifier needs {wanted}")
