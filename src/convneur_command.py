"""The command ``convneur``: beside the package, whose import takes seconds, so that Ctrl-C works at once."""

from __future__ import annotations

import sys


def main() -> int:
    """Run `convneur.cli.main.main`; exit code 2 if that is stopped before it began."""
    try:
        from convneur.cli.main import main
    except KeyboardInterrupt:
        print("convneur: stopped", file=sys.stderr)  # noqa: T201  the one line
        return 2
    return main()
