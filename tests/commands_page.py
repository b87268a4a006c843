"""docs/commands.md: each verb with its flags and defaults; ``python -m tests.commands_page`` writes it."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro

from convneur_command.main import TASKS, verbs

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"
HEAD = """# Command line

`convneur VERB --help` says the same. Every command ends with exit code 0, or with one line and 2 where something is
wrong ([what errors mean](runs.md#when-something-is-wrong)). What `train`, `eval` and `predict` take for which task
stands [in one table](options.md).
"""


def described(text: str) -> dict[str, str]:
    """Meaning of each argument or attribute, from a docstring."""
    text = inspect.cleandoc(text)
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, re.MULTILINE)
    return {name: " ".join(meaning.replace("``", "`").split()) for name, meaning in found}


def meanings(kind: type) -> dict[str, str]:
    """Of the fields of a dataclass, those that it inherits included."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__[:-1]):
        found |= described(each.__doc__ or "")
    return found


def fields_of(value: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Flag, default and meaning of what a dataclass has, its parts included."""
    said = meanings(type(value))
    for field in dataclasses.fields(value):
        own, name = getattr(value, field.name), prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(own):
            yield from fields_of(own, f"{name}.")
        else:
            yield f"--{name}", shown(own), said.get(field.name, "")


def shown(value: Any) -> str:
    """A default as it is typed."""
    if value is None or value is False or value == () or value in (inspect.Parameter.empty, tyro.MISSING):
        return ""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def flags_of(verb: Callable[..., Any]) -> Iterator[tuple[str, str, str]]:
    """Flag or place, default and meaning of all that a verb takes."""
    said, hints = described(verb.__doc__ or ""), get_type_hints(verb, include_extras=True)
    for name, parameter in inspect.signature(verb).parameters.items():
        marks = get_args(hints[name])[1:] if get_origin(hints[name]) is Annotated else ()
        named = next((mark.name for mark in marks if getattr(mark, "name", None)), name)
        if dataclasses.is_dataclass(parameter.default):
            hidden = any(getattr(mark, "name", None) == "" for mark in marks) or hints[name] is Any
            yield from fields_of(parameter.default, "" if hidden else f"{name}.")
        elif tyro.conf.Positional in marks or any("Positional" in repr(mark) for mark in marks):
            yield name.upper(), shown(parameter.default), said[name]
        else:
            yield f"--{named.replace('_', '-')}", shown(parameter.default), said[name]


def section(title: str, verb: Callable[..., Any]) -> str:
    """A verb: what it does, and a table."""
    text = re.split(r"\n\n(?=Args:|Returns:|Raises:)", inspect.cleandoc(verb.__doc__ or ""))[0]
    rows = [
        f"| `{flag}` | {f'`{default}`' if default else ''} | {meaning} |" for flag, default, meaning in flags_of(verb)
    ]
    return "\n".join([f"## convneur {title}", "", text, "", "| | default | |", "|---|---|---|", *rows, ""])


def page() -> str:
    """The whole page."""
    found = []
    for name, verb in verbs([]).items():
        if name == "train":
            found += [section(f"train {task}", verbs(["train", task])["train"]) for task in TASKS]
        else:
            found.append(section(name, verb))
    return HEAD + "\n" + "\n".join(found)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
