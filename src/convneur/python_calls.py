"""What the functions that people call from Python have in common."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Sequence
from inspect import Parameter
from typing import Any, TypeVar, get_type_hints

from convneur.files import StrPath
from convneur_options.typed import fitted

F = TypeVar("F", bound=Callable[..., Any])
_CHECKED = (StrPath, StrPath | None, str, str | None, bool)
# What to type in a shell stays as it is.
_FLAG = re.compile(r"convneur [a-z]+ --.*|(?<![\w-])--([a-z][a-z0-9-]*(?:\.[a-z][a-z0-9-]*)?)")
_SWITCHES = ("allow_remote", "compile", "hold_out", "keep_ops", "overwrite", "resume", "strict", "trust")


class _ByRecipe:
    """Stands in a signature for a default that is the recipe's, or the task's."""

    def __repr__(self) -> str:
        return "<by recipe>"


def python_call(*kinds: type, by_recipe: Sequence[type] = ()) -> Callable[[F], F]:
    """Make a function one that people call from Python.

    Paths, names and switches of another type are refused; errors name settings as Python does, and keep the text with
    flags for the command line as ``flags``; the signature has the settings that the function takes as keywords.

    Args:
        kinds: Dataclasses whose fields the function takes.
        by_recipe: The same, where the defaults depend on what else is given.
    """
    fields = [(each, each.default) for kind in kinds for each in dataclasses.fields(kind)]
    fields += [(each, _ByRecipe()) for kind in by_recipe for each in dataclasses.fields(kind)]

    def decorate(function: F) -> F:
        signature, hints = inspect.signature(function), get_type_hints(function)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                for name, value in signature.bind(*args, **kwargs).arguments.items():
                    if hints.get(name) in _CHECKED:
                        fitted(name, value, hints[name])
                return function(*args, **kwargs)
            except BaseException as error:
                if len(error.args) == 1 and isinstance(error.args[0], str) and not hasattr(error, "flags"):
                    error.flags = error.args[0]  # type: ignore[attr-defined]
                    error.args = (as_python(error.args[0]),)
                raise

        own = [each for each in signature.parameters.values() if each.kind is not Parameter.VAR_KEYWORD]
        shown = {each.name: each for each in own}
        for each, default in fields:
            keyword = Parameter(each.name, Parameter.KEYWORD_ONLY, default=default, annotation=each.type)
            shown.setdefault(each.name, keyword)
        call.__signature__ = signature.replace(parameters=list(shown.values()))  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]

    return decorate


def as_python(text: str) -> str:
    """A message with arguments of Python in the place of flags; a part of a recipe is a dict there."""
    dotted: list[str] = []

    def renamed(flag: re.Match[str]) -> str:
        if not flag[1]:
            return flag[0]
        name = flag[1].replace("-", "_")
        if "." in name:
            dotted.append(name)
        if name.startswith("no_"):
            return f"{name.removeprefix('no_')}=False"
        return f"{name}=True" if name in _SWITCHES else name

    text = _FLAG.sub(renamed, text)
    if not dotted:
        return text
    part, name = dotted[0].split(".")
    return f'{text} (give it as {part}={{"{name}": ...}})'
