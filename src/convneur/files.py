"""Files that are whole or not there, and folders that files can be written to."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from convneur.printing import printable

if TYPE_CHECKING:
    from PIL import Image

StrPath: TypeAlias = str | os.PathLike[str]  # what every public function takes for a path
NEW = ".convneur-new-"  # begins the names of files and folders that are being written
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


def new_for(path: Path) -> str:
    """What begins the names of what is written to become ``path`` alone, and may be removed when nobody writes it."""
    return f"{NEW}{zlib.crc32(os.fsencode(path.name)):08x}-"


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
            if nearest.is_symlink() and not nearest.exists():  # what it names would be made, wherever that is
                raise OSError(errno.ENOENT, f"{nearest} is a link to nothing")
            if nearest.exists():
                break
        tempfile.TemporaryDirectory(prefix=NEW, dir=nearest).cleanup()
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


def regular_file(path: Path | str, instead: str = "give a file") -> Path:
    """The path, if a file is there: opening a pipe would wait for ever, and a device has no end.

    Args:
        path: Of the file; a link to one will do.
        instead: What to give in its place.

    Raises:
        FileNotFoundError: If nothing is there.
        IsADirectoryError: If it is a folder.
        OSError: If it is a pipe, a device or a socket.
    """
    mode = os.stat(path).st_mode  # noqa: PTH116  of what a link leads to
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a folder; {instead}")
    if not stat.S_ISREG(mode):
        raise OSError(f"{path} is {_KINDS.get(stat.S_IFMT(mode), 'no file')}; {instead}")
    return Path(path)


def check_file(path: Path, instead: str) -> None:
    """Refuse what is no file with something in it, without opening it; see `regular_file`.

    Raises:
        FileNotFoundError: If nothing is there.
        OSError: If it is no file.
        ValueError: If it is empty.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; {instead}")
    if regular_file(path, instead).stat().st_size == 0:
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


def write_image(path: Path, picture: Image.Image, **options: Any) -> None:
    """Write a picture, whole or not at all, in the format that the end of the name says; ``options`` are Pillow's."""
    with replace_file(path) as fresh:
        picture.save(fresh, **options)


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A new file to write into, which takes the place of ``path`` when all is well, and vanishes otherwise.

    It is in the same folder, with `NEW` before its name and the same ending; a process that is killed leaves it there.
    A link in the place of ``path`` is replaced, and not what it leads to.
    """
    handle, name = tempfile.mkstemp(prefix=NEW, suffix=path.suffix, dir=path.parent)
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
def replace_folder(folder: Path, last: str) -> Iterator[Path]:
    """A new folder to write files into, which take the places of those in ``folder`` when all is well.

    Other files in ``folder`` stay. A crash between leaves ``folder`` without its file ``last``.

    Args:
        folder: Made if it is not there.
        last: Name of the file without which the others are worth nothing.

    Raises:
        OSError: If the folder is a link or a file, or cannot be written to.
    """
    if folder.is_symlink():
        raise OSError(f"{folder} is a link; give the folder that it leads to")
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give a folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=NEW, dir=folder.parent))
    try:
        yield fresh
        files = sorted(fresh.iterdir(), key=lambda file: file.name == last)
        for file in files:
            file.chmod(0o644)  # safetensors makes files that nobody else may read
        folder.mkdir(exist_ok=True)
        (folder / last).unlink(missing_ok=True)  # what is half replaced would load, and be wrong
        for file in files:
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def remove_entry(path: Path) -> None:
    """Remove a file, a link (and not what it leads to), or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        with suppress(FileNotFoundError):  # another process removes it, too
            shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
