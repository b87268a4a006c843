"""YAML that others may have written: plain values, and refused in words where it is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

LONGEST_NUMBER = 100  # letters; ``1:1:1...`` is a number to YAML, and a long one of that kind takes minutes
# What the constructors of values run into, beside errors of YAML: a date that is none, ``!!bool maybe``, ``!!int ''``.
_DAMAGE = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


class PlainLoader(yaml.SafeLoader):
    """Without numbers that take long to read."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Refuse a number that is too long."""
        if node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float") and len(node.value) > LONGEST_NUMBER:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1} has a number of {len(node.value)} letters")
        return super().construct_object(node, deep)


class UnaliasedLoader(PlainLoader):
    """Without aliases, of which a few lines can make a list of more names than memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse a node that stands for another."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(
                f"line {self.peek_event().start_mark.line + 1} has an alias; write out what it stands for"
            )
        return super().compose_node(parent, index)


class TextLoader(UnaliasedLoader):
    """With all plain values as the text that stands there: ``no``, ``1.0`` and ``null``, too. No name twice."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  as PyYAML has it

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse a name that is given twice."""
        found = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: some of these names are given twice")
        return found


def parse_yaml(text: str, file: Path, loader: type[PlainLoader] = PlainLoader) -> Any:
    """What YAML says; a ValueError that names the file it is from if it is none, or nested too deeply."""
    try:
        return loader(text).get_single_data()
    except RecursionError as error:
        raise ValueError(f"{file} is nested too deeply to be read") from error
    except _DAMAGE as error:
        raise ValueError(f"{file} is no YAML that can be read ({' '.join(str(error).split())})") from error
