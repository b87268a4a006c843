"""Which recipe the arguments name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

R = TypeVar("R")


def recipe_named(arguments: Sequence[str], default: str, recipes: Mapping[str, R]) -> tuple[Any, R]:
    """Name and values of the recipe that the arguments name; an unknown one is refused by the parser later on."""
    name = default
    for before, word in zip(["", *arguments], arguments, strict=False):
        if before == "--recipe" or word.startswith("--recipe="):
            name = word.removeprefix("--recipe=")
    name = name if name in recipes else default
    return name, recipes[name]
