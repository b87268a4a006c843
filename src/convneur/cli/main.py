"""``convneur``: one verb per job."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from convneur.cli.demo import demo
from convneur.cli.info import info

VERBS: dict[str, Callable[..., Any]] = {"demo": demo, "info": info}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb.

    What a user can mend comes as one line on standard error and exit code 2; set ``CONVNEUR_TRACEBACK=1`` to see where
    it comes from.

    Returns:
        The exit code.
    """
    try:
        tyro.extras.subcommand_cli_from_dict(
            VERBS, prog="convneur", description="Efficient vision backbones with a neural memory.", args=arguments
        )
    except (ValueError, OSError, ImportError, KeyboardInterrupt) as error:
        if os.environ.get("CONVNEUR_TRACEBACK"):
            raise
        reason = " ".join(str(error).split()) or "stopped"
        if "No space left" in reason:
            reason += "; free some space, or write elsewhere with --out"
        print(f"convneur: {reason}", file=sys.stderr)  # noqa: T201  the one line
        return 2
    return 0
