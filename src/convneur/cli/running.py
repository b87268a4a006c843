"""What the training verbs share: which recipe the arguments name, and how a run that is stopped ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

TaskName = Literal["classification", "detection", "instance"]

R = TypeVar("R")
T = TypeVar("T")


def recipe_named(arguments: Sequence[str], default: str, recipes: Mapping[str, R]) -> tuple[Any, R]:
    """Name and values of the recipe that the arguments name; an unknown one is refused by the parser later on."""
    name = default
    for before, word in zip(["", *arguments], arguments, strict=False):
        if before == "--recipe" or word.startswith("--recipe="):
            name = word.removeprefix("--recipe=")
    name = name if name in recipes else default
    return name, recipes[name]


def run(train: Callable[[], T | None], epochs: int) -> T | None:
    """Train; a run that is stopped says how to go on, once.

    Returns:
        What came out; None in all processes but the first.

    Raises:
        KeyboardInterrupt: If it was stopped, with the line to tell.
    """
    from convneur.engine.callbacks import Interrupted
    from convneur.recipes.runs import is_first

    try:
        return train()
    except Interrupted as stop:
        if not is_first():
            return None  # one line is enough, and a failing process would have Lightning kill the first
        done = f"{len(stop.curve)} of {epochs} epochs done"
        raise KeyboardInterrupt(f"stopped, {done}; the same command with --resume goes on from here") from stop
