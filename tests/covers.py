"""Few rows of a large product of parameters that still have any two values together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

import pytest


def _pairs(row: tuple[int, ...]) -> set[tuple[tuple[int, int], tuple[int, int]]]:
    return set(combinations(enumerate(row), 2))


def pairwise(*axes: Sequence[Any]) -> list[Any]:
    """Parameters of the whole product: a cover of all pairs, greedily found, and the rest marked slow."""
    rows = list(product(*(range(len(axis)) for axis in axes)))
    missing, chosen = set().union(*map(_pairs, rows)), set()
    while missing:
        best = max(rows, key=lambda row: len(_pairs(row) & missing))
        chosen.add(best)
        missing -= _pairs(best)
    made = []
    for row in rows:
        values = [axis[place] for axis, place in zip(axes, row, strict=True)]
        name = "-".join(str(value).replace(" ", "") for value in values)
        made.append(pytest.param(*values, id=name, marks=() if row in chosen else pytest.mark.slow))
    return made
