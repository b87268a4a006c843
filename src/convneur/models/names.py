"""Names that people type: one way to check them, which suggests the closest."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def choose(name: str, known: Iterable[str], what: str) -> str:
    """Return ``name`` if it is known.

    Raises:
        ValueError: Otherwise, in one line that suggests the closest known name, or lists them all.
    """
    known = list(known)
    if name in known:
        return name
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"use one of {', '.join(map(repr, known))}"
    raise ValueError(f"{what} {name!r} is not known; {hint}")
