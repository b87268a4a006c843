"""How the tests of loading go through the tasks, and what a refusal is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.hostile.models import TASKS


def in_turn(names: str, values: Iterable[Any]) -> pytest.MarkDecorator:
    """Every value with one of the tasks, in turn; with the others behind ``-m slow``."""
    given = []
    for number, value in enumerate(values):
        now = (number + number // len(TASKS)) % len(TASKS)  # so that of values in threes no place has a task of its own
        for place, task in enumerate(TASKS):
            each = value if isinstance(value, tuple) else (value,)
            given.append(pytest.param(task, *each, marks=[] if place == now else pytest.mark.slow))
    return pytest.mark.parametrize(f"task, {names}", given)


def refusal(load: Callable[..., Any], *given: Any) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        load(*given)
    said = str(caught.value)
    assert "\n" not in said
    return said
