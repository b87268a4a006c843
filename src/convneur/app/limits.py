"""How large images may be, and how many a client may send."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from PIL import Image

from convneur.app.asgi import RefusedError
from convneur.data.decode import UnreadableImageError, decode_image
from convneur.data.transforms import LONGEST_SIDE

MINUTE = 60.0


@dataclass(frozen=True)
class Limits:
    """What clients may ask for.

    Attributes:
        megapixels: Largest image.
        megabytes: Largest file.
        per_minute: Images of one client address.
        queue: Requests that wait.

    Raises:
        ValueError: If nothing could be asked for.
    """

    megapixels: float = 25.0
    megabytes: float = 20.0
    per_minute: int = 60
    queue: int = 64

    def __post_init__(self) -> None:
        for flag, value in (
            ("max-megapixels", self.megapixels),
            ("max-mb", self.megabytes),
            ("per-minute", self.per_minute),
            ("max-queue", self.queue),
        ):
            if not 0 < value < math.inf:
                raise ValueError(f"--{flag} {value} is out of range; give a number above 0")

    @property
    def max_bytes(self) -> int:
        """Of a file, at most."""
        return round(self.megabytes * 1e6)

    def decode(self, file: bytes) -> Image.Image:
        """The picture in a file, which is looked at no further than the limits go.

        Raises:
            UnreadableImageError: If it is too large, too long, or no image; one line that says why.
        """
        if len(file) > self.max_bytes:
            raise UnreadableImageError(f"the file is larger than the limit of {self.megabytes:g} MB")
        picture = decode_image(file, round(self.megapixels * 1e6))
        if max(picture.size) > LONGEST_SIDE * min(picture.size):
            raise UnreadableImageError(
                f"{picture.width} x {picture.height} px is too long; one side may be {LONGEST_SIDE} times the other"
            )
        return picture


class RateLimit:
    """So many requests of a client in any minute; safe to ask from several threads.

    Args:
        per_minute: Requests.
        clock: Seconds that only grow.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self._clock, self._lock = per_minute, clock, Lock()
        self._seen: dict[str, deque[float]] = {}
        self._swept = clock()

    def admit(self, client: str) -> None:
        """Count a request.

        Raises:
            RefusedError: If it is one too many; it says when to ask again. What is refused is not counted.
        """
        with self._lock:
            now = self._clock()
            self._sweep(now)
            seen = self._seen.setdefault(client, deque())
            while seen and now - seen[0] >= MINUTE:
                seen.popleft()
            if len(seen) >= self.per_minute:
                wait = math.ceil(MINUTE - (now - seen[0]))
                raise RefusedError(f"more than {self.per_minute} requests a minute; ask again in {wait} s", 429)
            seen.append(now)

    def _sweep(self, now: float) -> None:
        """Once a minute, forget the clients that have gone: their number has no bound."""
        if now - self._swept >= MINUTE:
            self._seen = {client: seen for client, seen in self._seen.items() if seen and now - seen[-1] < MINUTE}
            self._swept = now
