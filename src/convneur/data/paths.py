"""Files that may come from strangers: what is opened, how much of it is read, and where a path in a file may lead."""

from __future__ import annotations

import fnmatch
import glob
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from convneur.files import regular_file
from convneur.json_files import parse_json

LARGEST_FILE = 2**30  # bytes of an image or an annotation file: they are read whole
LARGEST_TEXT = 2**24  # bytes of lists, tables and descriptions
# What systems and programs leave beside people's files, in small letters; nobody means it when they give a folder.
CLUTTER = frozenset(
    {
        "__macosx",
        ".ds_store",
        "thumbs.db",
        "desktop.ini",
        ".ipynb_checkpoints",
        ".appledouble",
        "@eadir",
        "$recycle.bin",
    }
)


def read_file(path: Path | str, most: int = LARGEST_FILE) -> bytes:
    """The bytes of a file.

    Args:
        path: Of a regular file.
        most: Bytes that it may have.

    Raises:
        OSError: As `regular_file`, or if the file is larger.
    """
    with regular_file(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(f"{path} has {size / 1e6:,.0f} MB; a file of its kind may have {most / 1e6:,.0f}")
        return file.read(size)  # for a limit of a gigabyte Python would ask for one


def read_text(path: Path | str, most: int = LARGEST_TEXT) -> str:
    """The text of a file, without a byte order mark, as `read_file`; a ValueError that names the file if it is none."""
    try:
        return read_file(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is no UTF-8 text, from byte {error.start} on; save it as UTF-8 (text editors have it in their "
            "list of encodings)"
        ) from error


def read_lines(path: Path | str, most: int = LARGEST_TEXT) -> list[tuple[int, str]]:
    """Lines of a file that have something on them, without blanks at either end, with their numbers from 1 on; as
    `read_text`."""
    lines = enumerate(read_text(path, most).splitlines(), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def read_json(path: Path | str, most: int = LARGEST_TEXT) -> Any:
    """What a JSON file holds, as `read_text` and `parse_json`; a ValueError that names the file if it is none.

    NaN and infinite numbers, which JSON has not and many programs write, are read.
    """
    text = read_text(path, most)
    try:
        return parse_json(text, most, finite=False)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def class_names(path: Path | str) -> list[str]:
    """Names of classes from a file with one a line; spaces around them and empty lines do not count.

    Raises:
        ValueError: If the file is no text, names nothing, or a name twice.
    """
    names = [line for _, line in read_lines(path)]
    if not names:
        raise ValueError(f"{path} names no classes; write one name a line")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{path} names {twice[0]!r} twice; give each class a name of its own")
    return names


def first_line(error: Exception) -> str:
    """What went wrong, in one line: what libraries say of a file may fill a screen, or be nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def is_clutter(name: str) -> bool:
    """Whether a file or folder of that name was left by a system or a program, such as ``.DS_Store``, ``._a.jpg``."""
    return name.startswith("._") or name.lower() in CLUTTER


def inside(folder: Path | str, name: str, *others: Path | str) -> Path:
    """Where a path that stands in a file leads, which must be in the folder of the data.

    The folders may be links of the user's own; a link in them that leads out does not count as in them.

    Args:
        folder: That the path is relative to.
        name: The path, as the file has it.
        *others: Folders that it may lead to as well.

    Raises:
        ValueError: If it leads elsewhere, or is no path.
    """
    shown = repr(name if len(name) <= 200 else f"{name[:200]}...")
    if not name or "\0" in name:
        raise ValueError(f"{shown} is no path")
    path = Path(folder) / name
    real = os.path.realpath(path)
    if not any(Path(real).is_relative_to(os.path.realpath(each)) for each in (folder, *others)):
        raise ValueError(f"{shown} leads out of {folder}; paths in a file must stay in the folder of the data")
    return path


def walk(folder: Path | str) -> Iterator[Path]:
    """All files in a folder and the folders in it, but clutter, by name of the folder, then of the file.

    Links are followed, but no folder is entered twice, and not by a link where there is a way without.
    """
    entered: set[tuple[int, int]] = set()
    places: list[tuple[str, list[str]]] = []
    starts = [str(folder)]
    for start in starts:  # it grows
        for place, folders, files in _walk_down(start):
            there = os.stat(place)  # noqa: PTH116  of what a link leads to
            if (there.st_dev, there.st_ino) in entered:
                folders.clear()
                continue
            entered.add((there.st_dev, there.st_ino))
            folders[:] = [each for each in folders if not is_clutter(each)]
            places.append((place, [each for each in files if not is_clutter(each)]))
            starts += sorted(path for path in (os.path.join(place, each) for each in folders) if os.path.islink(path))  # noqa: PTH114, PTH118
    for place, files in sorted(places):
        yield from (Path(place) / file for file in sorted(files))


def _walk_down(folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk`, which before Python 3.12 calls itself for each folder in a folder."""
    try:
        yield from os.walk(folder)
    except RecursionError:
        raise ValueError(f"{folder} has too many folders in each other; give one that is nearer to the files") from None


def before_wildcards(pattern: Path) -> Path:
    """The folder above the first part of a pattern that has a wildcard."""
    return Path(*itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts[:-1]))


def matching(folder: Path, pattern: str) -> list[str]:
    """Files in a folder that a pattern fits, relative to it, by name; ``**`` stands for any folders, as in `glob`.

    `glob` follows links without end where they lead in a circle; here no folder is entered twice.
    """
    parts = Path(pattern).parts
    if "**" in parts:
        files = (path.relative_to(folder) for path in walk(folder))
        return sorted(str(file) for file in files if _fits(file.parts, parts))
    names = glob.glob(pattern, root_dir=folder)  # noqa: PTH207  pathlib gives no relative paths
    return sorted(name for name in names if (folder / name).is_file() and not any(map(is_clutter, Path(name).parts)))


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern or not parts:
        return not parts and all(each == "**" for each in pattern)
    hidden = parts[0].startswith(".") and not pattern[0].startswith(".")
    if pattern[0] == "**":
        return _fits(parts, pattern[1:]) or (not hidden and _fits(parts[1:], pattern))
    return not hidden and fnmatch.fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])
