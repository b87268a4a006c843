"""The command ``convneur``: beside the package, whose import takes seconds, so that signals work at once."""

from __future__ import annotations

import os
import signal
from types import FrameType


def main() -> int:
    """Run `convneur.cli.main.main`; before and after it, Ctrl-C and SIGTERM end the process with one line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    from convneur.cli.main import main

    return main()


def _leave(number: int, _frame: FrameType | None) -> None:
    """Nothing is begun that would have to be undone, and an exception in the middle of an import may get lost."""
    os.write(2, b"convneur: stopped\n")
    os._exit(128 + number)
