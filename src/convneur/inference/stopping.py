"""Ctrl-C at a moment when nothing is half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping() -> Iterator[Callable[[], None]]:
    """Let Ctrl-C and SIGTERM wait; a second Ctrl-C leaves at once.

    A loader's process that is left in the middle of handing over a batch would tell of it with a traceback.

    Yields:
        To be called between two batches: a KeyboardInterrupt if there was a signal.
    """
    asked = False

    def heed(number: int, _frame: Any) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    in_main = threading.current_thread() is threading.main_thread()  # others cannot take over signals
    handlers = {number: signal.signal(number, heed) for number in SIGNALS} if in_main else {}
    try:
        yield check
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
