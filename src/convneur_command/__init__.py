"""The command ``convneur``: beside the package, whose import takes seconds, so that signals work at once."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Run `convneur_command.main.main`; before and after it, Ctrl-C and SIGTERM end the process with one line."""
    heed_signals()
    from convneur_command.main import main

    return main()


def heed_signals() -> None:
    """From here on Ctrl-C and SIGTERM end the process at once, with one line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)


def is_the_command() -> bool:
    """Whether this is ``python -m convneur``, which imports the package before it runs anything of it."""
    pairs = zip(sys.orig_argv, [*sys.orig_argv[1:], ""], strict=True)
    return sys.argv[:1] == ["-m"] and any(pair == ("-m", "convneur") or pair[0] == "-mconvneur" for pair in pairs)


def _leave(number: int, _frame: FrameType | None) -> None:
    """Nothing is begun that would have to be undone, and an exception in the middle of an import may get lost."""
    os.write(2, b"convneur: stopped\n")
    os._exit(128 + number)
