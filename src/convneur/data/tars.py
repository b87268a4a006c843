"""Tar files of samples, as WebDataset has them, read as plain files."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from convneur.data.decode import SUFFIXES
from convneur.data.paths import LARGEST_FILE

LARGEST_HEADER = 2**20  # bytes of names and attributes of a member
LARGEST_LABEL = 20  # bytes of a .cls file
_DAMAGE = (tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError, EOFError, OSError)
_HEADERS = frozenset("xgXLKN")  # kinds of members that describe the next one


class _Member(tarfile.TarInfo):
    """A member whose damage ends in an error: `tarfile` takes a damaged header for the end of the file."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> _Member:
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf and not any(buf):  # which is how a tar ends
                raise
            raise tarfile.ReadError(f"it is cut off or damaged: {error}") from error
        if member.size < 0 or (member.type.decode("latin-1") in _HEADERS and member.size > LARGEST_HEADER):
            raise tarfile.ReadError(f"a header of {member.size:,} bytes")
        return member


def members(file: IO[bytes], mode: Any, origin: str) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """The files in a tar, in order, with the tar to extract each from before the next.

    Args:
        file: That holds it.
        mode: As `tarfile.open` has it: ``r:`` for an uncompressed file, ``r|*`` for any stream.
        origin: What to call it.

    Raises:
        ValueError: If it is no whole tar, or has members that are neither files nor folders; one line.
    """
    tar: Any
    with whole(origin), tarfile.open(fileobj=file, mode=mode, tarinfo=_Member) as tar:
        for member in tar:
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise tarfile.ReadError(f"{member.name!r} is a link, a device or has holes; it may hold plain files")
            if member.size < 0:
                raise tarfile.ReadError(f"{member.name!r} has {member.size} bytes")
            yield member, tar
            tar.members.clear()  # or it would keep them all
        if mode == "r:":
            file.seek(tar.offset)
            if any(file.read(LARGEST_HEADER)):
                raise tarfile.ReadError("it goes on after its end")


def mode_of(file: IO[bytes]) -> str:
    """How `members` has to open a file: a compressed one is read from its beginning to its end."""
    head = file.read(6)
    file.seek(0)
    return "r|*" if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")) else "r:"


class ShardError(ValueError):
    """A shard that is damaged, or holds what is refused; one line with its name."""


@contextmanager
def whole(origin: str) -> Iterator[None]:
    """Turn what damaged tars raise into a `ShardError`."""
    try:
        yield
    except ShardError:
        raise
    except (*_DAMAGE, zlib.error, lzma.LZMAError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ShardError(f"{origin} is no whole shard of images and .cls labels ({reason})") from error


def content(member: tarfile.TarInfo, tar: tarfile.TarFile, most: int = LARGEST_FILE) -> bytes:
    """The bytes of a member; a ValueError if there are more than ``most``, or it is cut off."""
    if member.size > most:
        raise ValueError(f"{member.name!r} has {member.size:,} bytes; it may have {most:,}")
    file = tar.extractfile(member)
    found = file.read() if file is not None else b""
    if len(found) != member.size:
        raise ValueError(f"{member.name!r} is cut off")
    return found


def label(content: bytes, name: str) -> int:
    """The number in a ``.cls`` file; a ValueError if there is none, or none from 0."""
    text = content.strip()
    if not text.isdigit():
        raise ValueError(f"{name!r} is no number from 0")
    return int(text)


def key_and_kind(name: str) -> tuple[str, str]:
    """Of a member: what the files of a sample have in common, and what is behind it, in small letters."""
    folder, slash, file = name.rpartition("/")
    stem, _, kind = file.partition(".")
    return folder + slash + stem, kind.lower()


def is_image(kind: str) -> bool:
    """Whether files of a kind are images: ``jpg``, ``left.png``."""
    return f".{kind.rpartition('.')[-1]}" in SUFFIXES
