"""Files that are whole or not there, and folders that files can be written to."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from convneur.printing import printable


def check_folder(folder: Path, named: str | None = None) -> None:
    """Refuse a folder that no file can be written to, before anything takes time; it is not created.

    Args:
        folder: There or not.
        named: How the user gave it; ``--out FOLDER`` if not given.

    Raises:
        NotADirectoryError: If it is a file.
        OSError: If it cannot be made or written to, in one line that says what to do.
    """
    named = named or f"--out {folder}"
    try:
        for nearest in (folder, *folder.parents):
            if nearest.exists() or nearest.is_symlink():  # to nothing: no folder can be made in its place
                break
        tempfile.TemporaryDirectory(prefix=".convneur-", dir=nearest).cleanup()
    except OSError as error:
        if error.errno == errno.ENOSPC:  # which the command line knows what to do about
            raise
        if nearest == folder and isinstance(error, NotADirectoryError):
            raise NotADirectoryError(f"{named} is a file; give a folder") from error
        what = "written to" if nearest == folder else "made"
        raise OSError(f"{named} cannot be {what} ({error.strerror}); give a folder that you may write to") from error


def file_stem(name: str, most: int = 160) -> str:
    """Of what is made from a file of that name: without letters that do not print or end a folder, and not too long.

    Args:
        name: Of the file, without folder and suffix.
        most: Bytes; file systems take 255 for all of a name, and a file that is being written has a longer one.
    """
    shown = "".join(letter if printable(letter) == letter and letter != "/" else "_" for letter in name)
    return shown.encode()[:most].decode(errors="ignore")


def check_file(path: Path, instead: str) -> None:
    """Refuse what is no file with something in it, without opening it: a FIFO would keep whoever opens it waiting.

    Args:
        path: Of the file.
        instead: What to give in its place.

    Raises:
        FileNotFoundError: If there is none.
        OSError: If it is a folder, a FIFO, a device or a socket.
        ValueError: If it is empty.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; {instead}")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; {instead}")
    if not path.is_file():
        raise OSError(f"{path} is no regular file (a FIFO, socket or device); {instead}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; {instead}")


def why_unreadable(error: BaseException) -> str:
    """Why a file of weights could not be read, in one short line.

    What PyTorch and timm say of a file that is not of plain weights fills a screen, and advises to let it run code.
    """
    reason = " ".join(str(error).split())
    if "weights" in reason.lower() and "only" in reason.lower():
        return "it is damaged, or holds Python objects, which could run code; save the weights as safetensors"
    if isinstance(error, (LookupError, TypeError, AttributeError, EOFError)):  # a reader met what it did not expect
        return f"it is damaged or of another format ({type(error).__name__}: {reason[:200]})"
    return reason[:300] or type(error).__name__


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a crash or a full disk leaves the old one or none, never half of the new; text as UTF-8."""
    with replace_file(path) as fresh:
        fresh.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A new file to write into, which takes the place of ``path`` when all is well, and vanishes otherwise.

    It is in the same folder, with a dot before its name; a process that is killed leaves it there.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    fresh = Path(name)
    try:
        yield fresh
        fresh.chmod(0o644)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of ``folder`` when all is well, and vanishes otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fresh.chmod(0o755)
        yield fresh
        for file in fresh.iterdir():
            file.chmod(0o644)  # safetensors makes files that nobody else may read
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
