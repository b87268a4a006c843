"""Files of the page: what clients upload, for one answer each, and the pictures of answers; none is kept for long."""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path
from threading import Lock
from typing import BinaryIO

KEPT_SECONDS = 19 * 60.0  # with `SWEEP_SECONDS` between two looks, nothing is older than 20 minutes
SWEEP_SECONDS = 30.0
NOT_AN_UPLOAD = "the path is not that of an uploaded file; upload the image first, then give the path it was given"


class Uploads:
    """Files in a folder, under names that nobody can guess; safe to use from several threads.

    Args:
        folder: For nothing else.
        most: Uploads that wait for their question; the oldest goes when there are more.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self._most = folder.resolve(), most
        self._waiting: dict[str, Path] = {}
        self._lock, self._closed = Lock(), False

    def add(self, file: BinaryIO) -> str:
        """Keep a file, and return the path that a question names it by.

        Raises:
            OSError: If the disk is full.
        """
        path = self._new_path()
        with self._lock:
            try:
                with self._new_file(path) as copy:
                    shutil.copyfileobj(file, copy)
            except OSError:
                path.unlink(missing_ok=True)
                raise
            self._waiting[str(path)] = path
            surplus = list(self._waiting)[: -self._most]
        for oldest in surplus:
            self._remove(oldest)
        return str(path)

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and path in self._waiting

    def take(self, path: str) -> bytes:
        """What is in an upload, which is deleted.

        Raises:
            ValueError: If there is no such upload, or not any more; one line.
        """
        with self._lock:
            waiting = self._waiting.pop(path, None)
        if waiting is None:
            raise ValueError(NOT_AN_UPLOAD)
        try:
            return waiting.read_bytes()
        except FileNotFoundError as error:
            raise ValueError(NOT_AN_UPLOAD) from error
        finally:
            waiting.unlink(missing_ok=True)

    def picture(self, png: bytes) -> str:
        """Keep a picture for who asked, and return its path."""
        path = self._new_path(".png")
        with self._lock, self._new_file(path) as copy:
            copy.write(png)
        return str(path)

    def close(self) -> None:
        """Write nothing more, so that the folder can be removed while a model is at work still."""
        with self._lock:
            self._closed = True

    def holds(self, path: str) -> bool:
        """Whether a file, or what it is a link to, lies here."""
        try:
            return Path(path).is_absolute() and Path(path).resolve(strict=True).is_relative_to(self.folder)
        except (ValueError, OSError, RuntimeError):  # a zero byte, no file, a loop of links
            return False

    def sweep(self, now: float | None = None) -> None:
        """Delete what has been here for `KEPT_SECONDS`, and forget it."""
        oldest = (time.time() if now is None else now) - KEPT_SECONDS
        for path in self.folder.iterdir():
            try:
                if path.is_file() and path.stat().st_mtime <= oldest:
                    self._remove(str(path))
            except FileNotFoundError:  # taken meanwhile
                continue

    def _remove(self, path: str) -> None:
        with self._lock:
            self._waiting.pop(path, None)
        Path(path).unlink(missing_ok=True)

    def _new_file(self, path: Path) -> BinaryIO:
        if self._closed:
            raise OSError("the page has ended")
        return path.open("wb")

    def _new_path(self, suffix: str = "") -> Path:
        return self.folder / f"{secrets.token_urlsafe(16)}{suffix}"
