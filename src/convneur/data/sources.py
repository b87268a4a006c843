"""Labelled images wherever people keep them: one argument, whatever the kind.

| `--data` | what |
|---|---|
| a folder | class folders, with or without ``train``, ``val`` and ``test`` above them |
| a parquet file, or a folder of them | columns ``image`` (bytes) and ``label`` |
| a CSV file | columns ``filename``, ``image`` or ``id``, and ``label``; see `convneur.data.label_lists` |
| ``hf:NAME`` or ``hf:FOLDER`` | a Hugging Face dataset, from the hub or a local copy |
| ``wds:FOLDER`` | WebDataset shards, see `convneur.data.shards` |
| ``digits`` | scikit-learn's handwritten digits, which need no files |
"""

from __future__ import annotations

import bisect
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from convneur.data.labels import Numbered, numbered, shown_names
from convneur.data.paths import class_names, first_line, inside, is_clutter, read_file
from convneur.data.split import Split, share_of, stratified_split
from convneur.data.split_names import Judged, Part, group_files, no_part
from convneur.files import StrPath, regular_file

Labels = npt.NDArray[np.int64]

NO_CLASSES = {"images", "labels", "masks", "annotations", "leftimg8bit", "gtfine", "jpegimages", "imagesets"}


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
        notes: What was left out, and why; for the user.
        held_out: Where ``val`` comes from, in words.
    """

    train: Any
    val: Any
    classes: list[str]
    split: Split | None = None
    notes: list[str] = field(default_factory=list)
    held_out: str = ""


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


def open_source(
    spec: StrPath,
    val_share: float | None = 0.2,
    seed: int = 0,
    allow_remote: bool = False,
    part: Judged = "val",
    learns: bool = True,
) -> Source:
    """Find the images that ``spec`` names; see the top of this file.

    What is called validation is judged by. What is called test is left alone unless ``part`` asks for it; where there
    is nothing to validate by, a share of the training images is held out.

    Args:
        spec: What people give as ``--data``.
        val_share: Share to hold out where the source has no validation images; stratified by class. None to judge by
            all of them, where nothing is learned.
        seed: Of that split.
        allow_remote: Read what a description of data names elsewhere: addresses on the web, and ``pipe:``, which runs
            a command of the shell. Only for descriptions that are trusted as programs are.
        part: To judge by.
        learns: Whether something is learned; where nothing is, data needs no images to train on.

    Raises:
        FileNotFoundError: If there is nothing at ``spec``.
        ValueError: If there are no images, no such part, or two folders or files for a part; and, where something is
            learned, if there are fewer than two classes, or one without images.
        ImportError: If the kind needs a package that is not installed.
    """
    spec = os.fspath(spec)
    learns = learns and val_share is not None
    source = _open(spec, val_share, seed, allow_remote, part, learns)
    labels = getattr(source.train, "labels", None)  # shards are looked through when they are opened
    if labels is not None and learns and source.train is not source.val and len(np.unique(labels)) < 2:
        raise ValueError(
            f"all {len(labels):,} training images of {spec} are of the class {source.classes[int(labels[0])]!r}; a "
            "classifier needs images of at least two"
        )
    return source


def _open(spec: str, val_share: float | None, seed: int, allow_remote: bool, part: Judged, learns: bool) -> Source:
    if spec == "digits":
        return _digits(part)
    if spec.startswith("hf:"):
        from convneur.data.hub import open_hub

        return open_hub(spec.removeprefix("hf:"), val_share, seed, allow_remote, part, learns)
    if spec.startswith("wds:"):
        from convneur.data.shards import open_shards

        return open_shards(spec.removeprefix("wds:"), allow_remote, part, learns)
    root = Path(spec).expanduser()
    if not root.exists():
        raise FileNotFoundError(
            f"--data {spec} does not exist; give a folder of class folders, or one of parquet files"
        )
    if root.is_file() and root.suffix.lower() == ".csv":
        from convneur.data.label_lists import open_label_list

        return open_label_list(root, val_share, seed, part, learns)
    if root.is_file() and root.suffix.lower() != ".parquet":
        raise ValueError(f"--data {spec} is a {root.suffix or 'plain'} file; give a folder, a .csv or a .parquet file")
    if root.is_file():
        return _parquet(root.parent, {"train": [root]}, [], val_share, seed, part, learns)
    files = [path for path in root.iterdir() if path.suffix.lower() == ".parquet" and not is_clutter(path.name)]
    if files:
        return _parquet(root, *group_files(files, root), val_share, seed, part, learns)
    from convneur.data.class_folders import open_class_folders

    try:
        source = open_class_folders(root, val_share, seed, part, learns)
    except ValueError as error:
        refuse_other_tasks(root, error)
        raise
    if {name.lower() for name in source.classes} <= NO_CLASSES:
        refuse_other_tasks(root)
    return source


def refuse_other_tasks(root: Path, cause: ValueError | None = None) -> None:
    """A ValueError if a folder, or what lies beside its annotations, is for detection or for segmentation."""
    from convneur.data.objects.sources import is_for_detection
    from convneur.data.semantic.sources import is_for_segmentation

    for task, fits in (("segmentation", is_for_segmentation), ("detection", is_for_detection)):
        if fits(root):
            raise ValueError(
                f"{root} holds images for {task}, and no folders of classes; convneur train {task} learns from it"
            ) from cause


def _parquet(
    root: Path,
    groups: dict[Part, list[Path]],
    rest: list[Path],
    val_share: float | None,
    seed: int,
    part: Judged,
    learns: bool,
) -> Source:
    notes: list[str] = []
    if rest and "train" not in groups:
        groups = {**groups, "train": rest}
    elif rest:
        notes.append(
            f"{len(rest)} parquet files of {root} are not used, as their names say no part; the first: {rest[0].name}"
        )
    listed = root / "classes.txt"
    known = class_names(listed) if listed.exists() else None

    def read(part: Part, classes: list[str] | None) -> tuple[Images, list[str]]:
        return _table(groups[part], classes or known, notes)

    there = {part: shown_names([file.name for file in files], 2) for part, files in groups.items()}
    return assemble(str(root), there, read, val_share, seed, part, notes, learns)


def _table(files: Sequence[Path], classes: list[str] | None, notes: list[str]) -> tuple[Images, list[str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns, labels = [], []
    for file in files:
        try:
            names = pq.read_schema(regular_file(file)).names
            if missing := {"image", "label"} - set(names):
                raise ValueError(f"{file} has no column {sorted(missing)[0]!r}; it has {', '.join(names)}")
            table = pq.read_table(file, columns=["image", "label"])
            labels += table["label"].to_pylist()
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, ArithmeticError) as error:
            raise ValueError(f"{file} is no parquet file that can be read ({first_line(error)})") from error
        columns.append(table["image"])
    images = TableImages(files, columns, [0] * len(labels))
    return labelled(images, numbered(labels, classes, str(files[0]), images.name), notes)


def _digits(part: Judged) -> Source:
    from convneur.data.digits import load_digits

    if part != "val":
        raise no_part("digits", part, {"train": "train", "val": "val"})
    train, val = load_digits()
    return Source(
        ScanImages(*train), ScanImages(*val), [str(digit) for digit in range(10)], held_out="the digits' own split"
    )


def labelled(images: Any, found: Numbered, notes: list[str]) -> tuple[Images, list[str]]:
    """The images of a table that have a label, and the classes; what was left out goes to ``notes``."""
    notes += found.notes
    labels = np.zeros(len(images), np.int64)
    labels[found.rows] = found.numbers
    images.labels = labels
    return images if len(found.rows) == len(labels) else Subset(images, found.rows), found.classes


def assemble(
    where: str,
    there: Mapping[Part, str],
    read: Callable[[Part, list[str] | None], tuple[Images, list[str]]],
    val_share: float | None,
    seed: int,
    part: Judged,
    notes: list[str],
    learns: bool,
) -> Source:
    """A source of parts, by the one rule which of them is judged by.

    Args:
        where: The data, for messages.
        there: What the parts that there are were called.
        read: Reads one with the classes given, or finds them out.
        val_share: As for `open_source`.
        seed: As for `open_source`.
        part: To judge by.
        notes: For the source.
        learns: Whether there must be something to learn from.

    Raises:
        ValueError: If the part, or what to learn from, is not there.
    """
    if "train" not in there and learns and part == "val":
        raise no_part(where, "train", there)
    if part not in there and (part == "test" or "train" not in there):
        raise no_part(where, part, there)
    if "train" not in there:
        images, classes = read(part, None)
        return Source(images, images, classes, None, notes, there[part])
    images, classes = read("train", None)
    if learns:
        need_two(classes, where, "at least two classes")
    if part in there:
        judged, _ = read(part, classes)
        lacking = [name for number, name in enumerate(classes) if number not in set(np.unique(judged.labels).tolist())]
        if lacking and learns:
            notes.append(
                f"{there[part]} has no images of {len(lacking)} of {len(classes)} classes: {shown_names(lacking)}"
            )
        return Source(images, judged, classes, None, notes, there[part])
    source = split_off(images, classes, val_share, seed, there["train"], notes)
    kept = f" ({there['test']} is kept for eval --part test)" if "test" in there else ""
    return replace(source, held_out=source.held_out + kept)


def split_off(
    images: Images, classes: list[str], val_share: float | None, seed: int, of: str, notes: list[str]
) -> Source:
    """Hold a share of the images out; None to judge by all of them."""
    if val_share is None:
        return Source(images, images, classes, None, notes, f"all of {of}")
    split = stratified_split(images.labels, val_share, seed, classes)
    held_out = share_of(val_share, of, seed)
    return Source(Subset(images, split.train), Subset(images, split.val), classes, split, notes, held_out)


def need_two(classes: Sequence[str], origin: str, wanted: str) -> None:
    """Refuse a source with fewer than two classes."""
    if len(classes) < 2:
        found = f"only one class, {classes[0]!r}" if classes else "no class folders"
        raise ValueError(f"{origin} has {found}; a classifier needs {wanted}")


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
