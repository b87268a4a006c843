"""Ctrl-C and SIGTERM: they end what is going on, at once or when nothing is half done, and leave no handler behind."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
OTHERS = (signal.SIGUSR1,) if hasattr(signal, "SIGUSR1") else ()  # Lightning's, on a cluster of SLURM
AGAIN = 1.0  # seconds within which a second signal is the first one again: `timeout` sends each twice
REMIND = 0.1  # seconds after which what was raised is raised again, if it was lost
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

    Libraries may catch what is raised while they are imported, and finalizers and callbacks lose it. There it is raised
    again a moment later, unless it is on its way then: an exception that comes of it is being handled.

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
        self.raised: KeyboardInterrupt | None = None
        self.reminded = self.left = False

    def __enter__(self) -> Interrupts:
        self.in_main = threading.current_thread() is threading.main_thread()
        if self.in_main:
            self.before = {number: signal.getsignal(number) for number in (*SIGNALS, *OTHERS)}
            self.hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
            self.take_over()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.left = True
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

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now, reminded, self.reminded = time.monotonic(), self.reminded, False
        if self.number is None:
            self.number, self.since = number, now
            if not self.wait:
                self._raise(stopped(number), frame)
        elif reminded and self.raised is not None:
            if self._is_on_its_way():
                self._remind_soon()
            else:
                self._raise(self.raised, frame)
        elif now - self.since > AGAIN and (number == signal.SIGINT or not self.wait):
            self._raise(stopped(number, "stopped at once"), frame)

    def _raise(self, stop: KeyboardInterrupt, frame: FrameType | None) -> NoReturn:
        self.raised = stop
        if _is_import(frame):
            self._remind_soon()
        raise stop

    def _remind_soon(self) -> None:
        timer = threading.Timer(REMIND, self._remind)
        timer.daemon = True
        timer.start()

    def _remind(self) -> None:
        if not self.left and self.number is not None:
            self.reminded = True
            _thread.interrupt_main(signal.Signals(self.number))

    def _is_on_its_way(self) -> bool:
        """Whether the main thread handles what was raised, or an exception that came of it."""
        handled = sys.exc_info()[1]
        while handled is not None and handled is not self.raised:
            handled = handled.__context__
        return handled is not None

    def _unraisable(self, lost: Any) -> None:
        """What was raised in a finalizer or a callback, where exceptions are lost, comes again."""
        if self.raised is not None and issubclass(lost.exc_type, KeyboardInterrupt):
            self._remind_soon()
        else:
            self.hook(lost)


def _is_import(frame: FrameType | None) -> bool:
    """Whether what is interrupted is part of an import."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
