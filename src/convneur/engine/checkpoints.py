"""Checkpoints that survive: whole or not there at all, and found again by what is whole."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO


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
            _sync(fresh)
            fresh.replace(path)
            _sync(folder)
            for old in _all(folder)[keep:]:
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


class PlainWriter(TorchCheckpointIO):
    """Write straight to the file: what Lightning does by default makes two copies in memory and one in /tmp."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write with torch.save."""
        torch.save(checkpoint, path)


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[Path]]:
    """Newest whole checkpoint, and the damaged ones that are newer.

    A checkpoint is an archive with checksums; a file that was cut off or changed does not agree with them.
    """
    damaged: list[Path] = []
    for path in _all(folder):
        if _is_whole(path):
            return path, damaged
        damaged.append(path)
    return None, damaged


def _all(folder: Path) -> list[Path]:
    """Checkpoints, the newest first."""
    return sorted(folder.glob("step-*.ckpt"), reverse=True)


def _is_whole(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError):
        return False


def _sync(path: Path) -> None:
    """Make sure that it is on the disk, so that a power cut does not leave a name without content."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
