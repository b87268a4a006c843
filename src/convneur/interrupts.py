"""Ctrl-C and SIGTERM: they end what is going on, at once or when nothing is half done, and leave no handler behind."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
OTHERS = (signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ()  # Lightning's, on a cluster of SLURM
AGAIN = 1.0  # seconds within which a second signal is the first one again: `timeout` sends each twice
STOPPED = "stopped"


class Terminated(KeyboardInterrupt):
    """What SIGTERM raises: all that ends in good order on Ctrl-C does so on it."""


def stopped(number: int | None, line: str = STOPPED) -> KeyboardInterrupt:
    """The exception of a signal, with the line to tell; Ctrl-C is a plain KeyboardInterrupt."""
    return KeyboardInterrupt(line) if number == signal.SIGINT else Terminated(line)


def exit_code(stop: KeyboardInterrupt) -> int:
    """Of a command that was stopped: 128 and the number of the signal, as shells count."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


class Interrupts:
    """A context in which Ctrl-C raises KeyboardInterrupt and SIGTERM `Terminated`; afterwards all is as it was before.

    In threads other than the main one, which cannot handle signals, nothing is changed.

    Args:
        wait: Raise nothing before `check` is called. A second Ctrl-C leaves at once. May be set in between.

    Attributes:
        number: Of the signal that came; None if there was none.
    """

    def __init__(self, wait: bool = False) -> None:
        self.wait = wait
        self.number: int | None = None
        self.since = 0.0

    def __enter__(self) -> Interrupts:
        self.in_main = threading.current_thread() is threading.main_thread()
        if self.in_main:
            self.before = {number: signal.getsignal(number) for number in (*SIGNALS, *OTHERS)}
            self.hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
            self.take_over()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if not self.in_main:
            return
        sys.unraisablehook = self.hook
        for number, handler in self.before.items():
            if handler is not None:  # else it is not Python's
                signal.signal(number, handler)

    def take_over(self) -> None:
        """Install the handlers; once more after a library has installed its own."""
        if self.in_main:
            for number in SIGNALS:
                signal.signal(number, self._handle)

    def check(self) -> None:
        """Between two steps: raise if there was a signal."""
        if self.number is not None:
            raise stopped(self.number)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number is None:
            self.number, self.since = number, now
            if not self.wait:
                raise stopped(number)
        elif now - self.since > AGAIN and (number == signal.SIGINT or not self.wait):
            raise stopped(number, "stopped at once")

    def _unraisable(self, lost: Any) -> None:
        """Raise again, a moment later, what was raised in a finalizer or a callback, where exceptions are lost."""
        if self.number is not None and issubclass(lost.exc_type, KeyboardInterrupt):
            number, self.number = self.number, None
            again = threading.Timer(0.05, _thread.interrupt_main, (number,))
            again.daemon = True
            again.start()
        else:
            self.hook(lost)
