"""What commands keep beside what they wrote: from what it was made, whether it is whole, and which files are theirs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from convneur.files import write_atomic

OURS = ".convneur-"  # names that begin so are ours in any folder: notes, locks, files that are being written


class AlreadyDone(FileExistsError):  # noqa: N818  it is no error of the user's: commands end well
    """What is to be made is there, whole; ``told`` is what was kept to be told again."""

    def __init__(self, message: str, told: Any = None) -> None:
        super().__init__(message)
        self.told = told


def compare(kept: Mapping[str, Any], made_from: Mapping[str, Any], named: str) -> None:
    """Refuse to replace what was made from something else.

    Args:
        kept: Result of a note.
        made_from: All that decides what comes out, as JSON can hold it.
        named: How the user gave the place.

    Raises:
        AlreadyDone: If it is there, whole.
        FileExistsError: If something else is.
    """
    other = first_difference(kept.get("made_from", {}), as_json(made_from))
    if other:
        raise FileExistsError(f"{named} was made with {other}; add --overwrite to replace it, or give another --out")
    if kept.get("finished"):
        raise AlreadyDone(done_line(named), kept.get("told"))


def done_line(named: str) -> str:
    """That there is nothing to do."""
    return f"{named} holds what this command makes, finished; add --overwrite to make it again"


def first_difference(was: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first setting that differs, in words; None if none does."""
    for name in (*now, *was):
        if was.get(name) != now.get(name):
            return f"another {name.replace('_', ' ')} ({_short(was.get(name))}, now {_short(now.get(name))})"
    return None


def files_hash(*sources: str | Path, deep: bool = True) -> str:
    """What tells whether files are as they were, by their names, sizes and times.

    Args:
        *sources: Files, folders, and names behind which there is nothing on this disk, which stand for themselves.
        deep: Whether folders in the folders count, too.
    """
    digest = hashlib.sha256()
    for source in map(str, sources):
        digest.update(source.encode(errors="backslashreplace"))
        path = Path(source).expanduser()
        for file in _files_below(path, deep) if path.is_dir() else [path]:
            with suppress(OSError):  # a link to nothing, or no file at all
                facts = file.stat()
                state = f"\0{file.relative_to(path)}\0{facts.st_size}\0{facts.st_mtime_ns}"
                digest.update(state.encode(errors="backslashreplace"))
    return digest.hexdigest()[:16]


def resolved(name: str) -> str:
    """Data or a model as one name, however it is spelled: a path without links, what else it may be stays."""
    kind = next((kind for kind in ("hf:", "wds:") if name.startswith(kind)), "")
    path = Path(name.removeprefix(kind)).expanduser()
    return f"{kind}{os.path.realpath(path)}" if path.exists() else name


def model_identity(model: str) -> list[str]:
    """What identifies a model: its name and, of files on this disk, where they are and their state."""
    model = resolved(model)
    folder = Path(model) / "model"
    return [model, files_hash(folder if (folder / "config.json").is_file() else model, deep=False)]


def _files_below(folder: Path, deep: bool) -> Iterator[Path]:
    for where, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(where, file) for file in sorted(files) if not file.startswith(OURS))
        if not deep:
            return


def read_note(note: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Results by their names, in the first line of a note, and names of files, in a line each; nothing without a note.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        first, *rest = note.read_text(encoding="utf-8").splitlines() or ["{}"]
        results, names = json.loads(first), [json.loads(line) for line in rest if line.endswith('"')]
    except FileNotFoundError:
        return {}, []
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{note} is damaged; give another --out") from error
    whole = isinstance(results, dict) and all(isinstance(each, dict) for each in results.values())
    if not whole or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise ValueError(f"{note} is damaged; give another --out")
    return results, names


def write_note(note: Path, results: Mapping[str, Any], names: Sequence[str] = ()) -> None:
    """Write what `read_note` reads."""
    write_atomic(note, "".join(json.dumps(each) + "\n" for each in (results, *names)))


def as_json(made_from: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as they come back from JSON."""
    found: dict[str, Any] = json.loads(json.dumps(made_from, default=str))
    return found


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
