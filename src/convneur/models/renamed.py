"""Arguments that were renamed: old names still work, with a warning where people give them, without one in files."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

NEW_NAMES = {"globalizer": "token_mixer", "carry_tokens": "token_skip"}


def with_new_names(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a file has, with the names of today; those in nested objects, too.

    Raises:
        ValueError: If a setting is there by both of its names.
    """
    found: dict[str, Any] = {}
    for name, value in given.items():
        new = NEW_NAMES.get(name, name)
        if new != name and new in given:
            raise ValueError(f"{name} and {new} are the same setting; give {new} alone")
        found[new] = with_new_names(value) if isinstance(value, Mapping) else value
    return found


def accept_old_names(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function take its arguments by their old names, too, with a DeprecationWarning."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        given: Any = kwargs
        for old in NEW_NAMES.keys() & kwargs.keys():
            text = f"{old} is now called {NEW_NAMES[old]}; the old name will be removed"
            warnings.warn(text, DeprecationWarning, stacklevel=_depth())
            given = with_new_names(kwargs)
        return function(*args, **given)

    return wrapper


def _depth() -> int:
    """Frames up to the line that gave the argument, past timm's factory and the functions of this package.

    Python shows a DeprecationWarning only if it is of the program itself.
    """
    depth, frame = 0, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("convneur", "timm"):
        depth, frame = depth + 1, frame.f_back
    return depth
