"""Arguments that were renamed: old names still work, with a warning where people give them, without one in files.

So does the memory of earlier versions, which was the default then and is ``preset="linear"`` now.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

OURS = ("convneur", "convneur_options", "timm")  # whose lines give no arguments by themselves
NEW_NAMES = {"globalizer": "token_mixer", "carry_tokens": "token_skip"}
NEW_VALUES = {("preset", "default"): "linear"} | {
    ("recipe", f"{name}-{task}"): name for name in ("quick", "finetune") for task in ("detection", "segmentation")
}
SLOT_WEIGHT = ".memory.to_steps.weight"  # how a tensor's name ends that the memory of slots alone has


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
        found[new] = with_new_names(value) if isinstance(value, Mapping) else _new_value(new, value)
    return found


def preset_of(names: Iterable[str]) -> str:
    """Preset of a model that does not name it, by the names of its weights: slots, or that of earlier versions."""
    return "slots" if any(name.endswith(SLOT_WEIGHT) for name in names) else "linear"


def _new_value(name: str, value: Any) -> Any:
    return NEW_VALUES.get((name, value), value) if isinstance(value, str) else value


def with_new_values(arguments: Sequence[str], tell: Callable[[str], object]) -> list[str]:
    """Words of a command, with the values of today; ``tell`` is called with a line for each that is an old one."""
    found: list[str] = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        flag, _, value = (word if word.startswith("--") else f"{before}={word}").partition("=")
        new = _new_value(flag.rpartition(".")[2].removeprefix("--"), value) if flag.startswith("--") else value
        if new != value:
            tell(f"{flag} {value} is now called {new}; the old name will be removed")
            word = word.removesuffix(value) + new
        found.append(word)
    return found


def accept_old_names(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function take its arguments by their old names, too, with a DeprecationWarning."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        given: Any = kwargs
        changes = [(old, NEW_NAMES[old]) for old in NEW_NAMES.keys() & kwargs.keys()]
        changes += [
            (f"{name}={value!r}", f"{name}={_new_value(name, value)!r}")
            for name, value in kwargs.items()
            if _new_value(name, value) is not value
        ]
        for old, new in changes:
            text = f"{old} is now called {new}; the old name will be removed"
            warnings.warn(text, DeprecationWarning, stacklevel=_depth())
            given = with_new_names(kwargs)
        return function(*args, **given)

    return wrapper


def _depth() -> int:
    """Frames up to the line that gave the argument, past timm's factory and the functions of this package.

    Python shows a DeprecationWarning only if it is of the program itself.
    """
    depth, frame = 0, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in OURS:
        depth, frame = depth + 1, frame.f_back
    return depth
