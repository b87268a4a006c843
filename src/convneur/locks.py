"""Locks that die with their process, so that two processes do not write in one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def acquire(path: Path, named: str, wait: float = 0.0) -> Any:
    """Take a lock; a process may take one several times.

    Args:
        path: Of the file that is locked; made if it is not there.
        named: How the user gave the place.
        wait: Seconds to wait for another process.

    Raises:
        BlockingIOError: If another process has it.
        OSError: If there can be none.
    """
    from filelock import FileLock, Timeout  # here, as its import takes a while

    if path.is_symlink():
        raise OSError(f"{path} is a link; remove it, or give another --out")
    try:
        lock = FileLock(path, is_singleton=True)
        lock.acquire(timeout=wait)
    except Timeout:
        raise BlockingIOError(f"{named} is being written by another process; wait for it, or stop it") from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or "its file system has no locks"
        raise OSError(f"{named} cannot be locked ({reason}); give a folder elsewhere") from error
    return lock


def release(lock: Any) -> None:
    """Give a lock back, and remove its file."""
    if lock.lock_counter == 1:  # the outermost context
        with suppress(OSError):  # Windows removes no file that is open
            Path(lock.lock_file).unlink()
    lock.release()


@contextmanager
def locked(folder: Path, name: str, named: str, wait: float = 0.0) -> Iterator[None]:
    """A folder that is this process's alone. It is made if it is not there, and goes again if nothing was written.

    Args:
        folder: To write into.
        name: Of the lock's file in it.
        named: How the user gave the place.
        wait: Seconds to wait for another process.

    Raises:
        As `acquire`.
    """
    created = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = acquire(folder / name, named, wait)
        try:
            yield
        finally:
            release(lock)
    finally:
        for each in created:
            with suppress(OSError):  # it is not empty, as it should be
                each.rmdir()
