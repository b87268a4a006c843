"""Names that people type: one way to check them, which suggests the closest."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MANY = 20  # names, of which no list is read


def choose(name: str, known: Iterable[str], what: str) -> str:
    """Return ``name`` if it is known.

    Raises:
        ValueError: Otherwise, in one line that suggests the closest known name, or lists them all if there are few.
    """
    known = list(known)
    if name in known:
        return name
    if close := _closest(name, known):
        hint = f"did you mean {close!r}?"
    elif len(known) <= MANY:
        hint = f"use one of {_listed(known)}"
    else:
        hint = f"the nearest of {len(known)} are {_listed(difflib.get_close_matches(name, known, n=3, cutoff=0))}"
    raise ValueError(f"{what} {name!r} is not known; {hint}")


def no_such_model(source: str, known: Iterable[str]) -> FileNotFoundError:
    """What to raise where ``source`` is neither a folder nor one of the ``known`` models of timm."""
    close = _closest(source, known)
    hint = f"did you mean {close!r}? If not, " if close else ""
    return FileNotFoundError(
        f"{source} is neither a folder nor a model of timm; {hint}give the folder of a trained model"
    )


def _closest(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(str(name), known, n=1)), None)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
