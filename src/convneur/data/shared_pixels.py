"""Decoded pictures in memory that several processes share: what one has decoded, none decodes again."""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from multiprocessing.heap import Arena
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_HEAD = 3  # numbers of a picture: place of its first byte, width, height; a place of 0 means none


class SharedPixels:
    """Pictures by number, up to a number of bytes; none is ever dropped.

    A cache of its own for each worker would be of little use: batches, and with them numbers, go to another worker in
    each epoch. The memory is reserved at once and taken as it is filled. It goes to worker processes with the loader's
    other arguments, whether they are forked or not, and not into any other pickle.

    Args:
        count: Of pictures that there may be.
        most: Bytes for their pixels.
    """

    def __init__(self, count: int, most: int) -> None:
        # The memory is a file of no name, in one of these; where that is full, writing would end the process.
        places = (Path("/dev/shm"), Path(tempfile.gettempdir()))
        most = min(most, max(shutil.disk_usage(place).free for place in places if place.is_dir()))
        self.count, self.most = count, most
        self.first = 8 * _HEAD * count  # byte of the first pixel
        self.memory: Any = Arena(self.first + most)  # of zeros
        self.end = multiprocessing.Value("q", self.first)  # of the bytes that are taken

    def _heads(self) -> Any:
        return np.frombuffer(self.memory.buffer, np.int64, _HEAD * self.count).reshape(-1, _HEAD)

    def get(self, number: int) -> Image.Image | None:
        """A picture, if it is there."""
        start, width, height = self._heads()[number].tolist()
        if not start:
            return None
        with memoryview(self.memory.buffer) as whole:
            return Image.frombytes("RGB", (width, height), whole[start : start + 3 * width * height])

    def put(self, number: int, picture: Image.Image) -> None:
        """Keep an RGB picture, if there is room."""
        size = 3 * picture.width * picture.height
        with self.end.get_lock():
            start = self.end.value
            if start + size > self.first + self.most:
                return
            self.end.value = start + size
        self.memory.buffer[start : start + size] = picture.tobytes()
        # Its place is published last, and after a lock was taken: who sees the place sees the pixels.
        with self.end.get_lock():
            self._heads()[number, 1:] = picture.size
            self._heads()[number, 0] = start

    def __len__(self) -> int:
        """Pictures that are there."""
        return int(np.count_nonzero(self._heads()[:, 0]))
