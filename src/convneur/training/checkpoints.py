"""Checkpoints that survive: whole or not there at all, and found again by what is whole.

A checkpoint is what torch.save writes, an archive of zip's kind, and in the place of that archive's comment the SHA-256
of all bytes before it. So a file and its digest cannot be parted, and torch.load reads it as it is.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

MARK = b"sha256:"
COMMENT = len(MARK) + 64
END = b"PK\x05\x06"  # with which the last record of a zip archive begins; 22 bytes if it has no comment
NO_COMMENT = b"\x00\x00"
PARTS = {"state_dict": dict, "optimizer_states": list, "lr_schedulers": list, "loops": dict, "callbacks": dict}


class DamagedError(ValueError):
    """A checkpoint that is not to be gone on from.

    Args:
        path: Of the file.
        reason: How that shows.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is damaged: {reason}; train on from the one before with --resume, or anew")
        self.path, self.reason = path, reason


class Found(NamedTuple):
    """What there is to go on from.

    Attributes:
        path: Newest whole checkpoint; None if there is none.
        has_digest: Whether it is known to be as it was written.
        damaged: Newer ones that are not whole.
    """

    path: Path | None
    has_digest: bool
    damaged: list[DamagedError]


def save_checkpoint(trainer: pl.Trainer, folder: Path, keep: int = 2) -> Path:
    """Write ``step-N.ckpt`` under another name, then rename it; older ones but the last ``keep`` are removed.

    All processes of a run must call this together.

    Raises:
        OSError: If it cannot be written; older checkpoints are still there.
    """
    path = folder / f"step-{trainer.global_step:09d}.ckpt"
    fresh = folder / f".{path.name}.part"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if trainer.is_global_zero:
            for left_over in folder.glob(".step-*.part"):  # of a run that was killed while it wrote
                left_over.unlink(missing_ok=True)
        trainer.save_checkpoint(fresh)
        if trainer.is_global_zero:
            add_digest(fresh)
            _sync(fresh)
            fresh.replace(path)
            _sync(folder)
            for old in checkpoints(folder)[keep:]:
                old.unlink(missing_ok=True)
    except RuntimeError as error:
        if "PytorchStreamWriter" in str(error) or "inline_container" in str(error):  # how torch reports a full disk
            raise OSError(f"could not write a checkpoint to {folder}: No space left on device") from error
        raise
    finally:
        if trainer.is_global_zero:
            fresh.unlink(missing_ok=True)
    trainer.strategy.barrier("checkpoint is in place")  # nobody leaves before
    return path


class PlainIO(TorchCheckpointIO):
    """Write straight to the file: what Lightning does by default makes two copies in memory and one in /tmp."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write with torch.save."""
        torch.save(checkpoint, path)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read with `load_checkpoint`, to the CPU."""
        return load_checkpoint(Path(path))


def newest_checkpoint(folder: Path) -> Found:
    """Newest checkpoint that is as it was written and can be loaded, and the damaged ones that are newer.

    Raises:
        OSError: If one cannot be opened.
    """
    damaged: list[DamagedError] = []
    for path in checkpoints(folder):
        try:
            has_digest = verify(path)
            _load(path, mmap=True)  # looks at what it holds; the numbers stay on the disk
        except FileNotFoundError:  # another process has put it out of the way
            continue
        except DamagedError as error:
            damaged.append(error)
        else:
            return Found(path, has_digest, damaged)
    return Found(None, False, damaged)


def last_checkpoint(folder: Path) -> Path:
    """The one that was written last, whole or not; every epoch ends with one."""
    return checkpoints(folder)[0]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint that is as it was written.

    Raises:
        DamagedError: If it is not, or holds other things than a checkpoint does.
        OSError: If it cannot be opened.
    """
    verify(path)
    return _load(path)


def add_digest(path: Path) -> None:
    """Put the digest behind what torch.save wrote."""
    with path.open("r+b") as file:
        file.seek(-len(NO_COMMENT), os.SEEK_END)
        if file.read() != NO_COMMENT:
            raise RuntimeError("torch.save has written something else than an archive without a comment")
        file.seek(-len(NO_COMMENT), os.SEEK_END)
        file.write(struct.pack("<H", COMMENT))
        file.write(MARK + _digest(file, file.tell()))


def verify(path: Path) -> bool:
    """Refuse a checkpoint that is not as it was written.

    Returns:
        Whether it has a digest. Those that earlier versions wrote have none, and are checked as the archives they are.

    Raises:
        DamagedError: If it is not, and how that shows.
        OSError: If it cannot be opened.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
        raise DamagedError(path, "it is no file")
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - COMMENT))
        comment = file.read()
        if comment.startswith(MARK) and len(comment) == COMMENT:
            if comment != MARK + _digest(file, size - COMMENT):
                raise DamagedError(path, "its content does not agree with its digest")
            return True
        if comment[-22:-18] != END or comment[-2:] != NO_COMMENT:
            raise DamagedError(path, "its end is missing or changed")
    _verify_archive(path)
    return False


def _digest(file: Any, size: int) -> bytes:
    """SHA-256 of the first bytes of an open file, as hexadecimal digits; it is left behind them."""
    found = hashlib.sha256()
    file.seek(0)
    while size:
        part = file.read(min(size, 2**20))
        if not part:
            break
        found.update(part)
        size -= len(part)
    return found.hexdigest().encode()


def _verify_archive(path: Path) -> None:
    """Refuse an archive whose parts do not agree with their checksums, or that torch.load would read otherwise.

    It takes a part that is said to be a folder, or compressed, without looking at what is there.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            plain = [not (p.external_attr or p.internal_attr or p.compress_type or p.is_dir()) for p in parts]
            whole = all(plain) and len({p.filename for p in parts}) == len(parts) and archive.testzip() is None
    except Exception as error:  # zipfile raises whatever comes of what it reads
        raise DamagedError(path, "it is no whole archive") from error
    if not whole:
        raise DamagedError(path, "a part of it does not agree with its checksum")


def _load(path: Path, mmap: bool = False) -> dict[str, Any]:
    """What is in a checkpoint; no code of its own is run."""
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # its text is many lines, and advises to load such a file all the same
        raise DamagedError(path, "it holds other things than numbers and names, or cannot be read") from error
    if not isinstance(kept, dict) or not all(isinstance(kept.get(name), kind) for name, kind in PARTS.items()):
        raise DamagedError(path, "it holds something else than a checkpoint")
    return kept


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints, the newest first; others' files, such as a copy ``step-best.ckpt``, are none."""
    return sorted(folder.glob(f"step-{'[0-9]' * 9}.ckpt"), reverse=True)


def _sync(path: Path) -> None:
    """Make sure that it is on the disk, so that a power cut does not leave a name without content."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
