"""JSON that others may have written: bounded, and refused in words where it is not what JSON is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

MAX_BYTES = 16 << 20
MAX_DEPTH = 32
MAX_DIGITS = 20  # of a whole number: 64 bits and a sign


def read_json(path: Path, fix: str) -> dict[str, Any]:
    """The object in a file.

    Args:
        path: Of the file, UTF-8.
        fix: What to do if it is damaged.

    Raises:
        ValueError: If it is damaged, too large, or holds something else; one line that names it and ends with ``fix``.
        OSError: If it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file; {fix}")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    try:
        found = parse_json(content)
        if not isinstance(found, dict):
            raise ValueError("it holds no object, that is, names and values in {}")
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {fix}") from error
    return found


def parse_json(content: str | bytes, most: int = MAX_BYTES, finite: bool = True) -> Any:
    """What JSON says, if it is nested no deeper than `MAX_DEPTH`.

    Args:
        content: Text, or UTF-8, with or without a byte order mark.
        most: Bytes or letters that it may have.
        finite: Whether NaN and infinite numbers are refused.

    Raises:
        ValueError: If it is none, and for a name that is given twice; one line that says why, without the place where
            the JSON is from.
    """
    if len(content) > most:
        raise ValueError(f"it is larger than {most >> 20} MB")
    numbers: dict[str, Any] = {"parse_float": _finite, "parse_constant": _no_number} if finite else {}
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        found = json.loads(text, parse_int=_whole, object_pairs_hook=_once, **numbers)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no UTF-8 text, from byte {error.start} on") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error.msg}, line {error.lineno}, column {error.colno}") from error
    _check_depth(found)
    return found


def shown(value: object) -> str:
    """A value as it stands in JSON, cut short, for a message."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _check_depth(value: Any, left: int = MAX_DEPTH) -> None:
    if left < 0:
        raise ValueError("it is nested too deeply")
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        if isinstance(each, (dict, list)):
            _check_depth(each, left - 1)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {shown(next(name for name in names if names.count(name) > 1))} twice")
    return found


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"it has a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), -float("inf")):
        raise ValueError(f"it has the number {text[:40]}, which is too large")
    return number


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"it has {name}, which is no number")
