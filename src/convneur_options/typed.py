"""Settings that people give from Python, held against the annotations of the dataclass that has them."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import reprlib
from contextlib import suppress
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

D = TypeVar("D")
_WORDS: dict[Any, str] = {
    bool: "True or False",
    float: "a finite number",
    int: "a whole number",
    os.PathLike: "a path",
    str: "a string",
    NoneType: "None",
}


def typed(settings: D) -> D:
    """The same dataclass with plain values: NumPy's numbers become Python's, paths strings, and lists tuples.

    Raises:
        ValueError: For the first value that is not what its annotation says; one line with what to give.
    """
    kind: Any = type(settings)
    hints = get_type_hints(kind)
    fields = [field.name for field in dataclasses.fields(kind)]
    return kind(**{name: fitted(name, getattr(settings, name), hints[name]) for name in fields})


def fitted(name: str, value: Any, hint: Any) -> Any:
    """A plain value of the type that ``hint`` says; a ValueError that names it if it is of another."""
    try:
        return _fitted(value, hint)
    except TypeError:
        known = [each for each in (hint, *get_args(hint)) if get_origin(each) is Literal]
        near = difflib.get_close_matches(value, get_args(known[0]), 1) if known and isinstance(value, str) else []
        fix = f"did you mean {near[0]!r}?" if near else f"give {_described(hint, name)}"
        shown = " ".join(reprlib.repr(value).split())  # arrays and tensors have many lines
        raise ValueError(f"{name}={shown} does not fit; {fix}") from None


def _fitted(value: Any, hint: Any) -> Any:
    """As `fitted`, with a TypeError."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        for each in inner:
            with suppress(TypeError):
                return _fitted(value, each)
    elif origin is Literal:
        if isinstance(value, str) and value in inner:
            return value
    elif origin is tuple:
        items = list(value) if isinstance(value, tuple | list) else [None]
        kinds = inner[:1] * len(items) if inner[-1] is ... else inner
        if len(items) == len(kinds):
            return tuple(map(_fitted, items, kinds))
    elif dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return typed(value)
    elif hint in (int, float):
        kind = Integral if hint is int else Real
        if not isinstance(value, bool) and isinstance(value, kind) and math.isfinite(value):
            return hint(value)
    elif isinstance(value, origin or hint):
        return value
    elif hint is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError


def _described(hint: Any, name: str) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_described(each, name) for each in inner)
    if origin is Literal:
        return f"one of {', '.join(map(repr, inner))}"
    if origin is tuple:
        each = _described(inner[0], name)
        return f"a tuple, of which each is {each}" if inner[-1] is ... else f"a tuple of {len(inner)}, each {each}"
    if dataclasses.is_dataclass(hint):
        first = dataclasses.fields(hint)[0]
        return f"a dict, such as {name}={{{first.name!r}: {first.default!r}}}"
    return _WORDS.get(origin or hint, str(hint))
