"""docs/options.md: the options of train, eval and predict for each task; ``python -m tests.options_page`` writes it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from convneur.tasks.registry import TASKS, task_named
from convneur_options.use import EvaluateOptions, PredictOptions

PAGE = Path(__file__).parents[1] / "docs" / "options.md"
VERBS = {"eval": EvaluateOptions, "predict": PredictOptions}
HEAD = """# Options

Which options `convneur train`, `eval` and `predict` take for which task, and the arguments of `convneur.train`,
`model.evaluate` and `model.predict`, whose names have `_` for `-`. An option means the same wherever it is taken,
unless it says otherwise, and is refused elsewhere. In italics: where it is of the recipe, so that its value is the
recipe's (`convneur train TASK --recipe NAME --help`); `--optim.lr 1e-3` is `optim={"lr": 1e-3}` in Python.

"""


@dataclasses.dataclass(frozen=True)
class Option:
    """A flag where it is taken: its name with ``_``, verb, task, what it means, and whether a recipe has it."""

    name: str
    verb: str
    task: str
    meaning: str
    in_recipe: bool = False


def options() -> list[Option]:
    """All of them, verb by verb and task by task."""
    found = []
    for task in TASKS:
        spec = task_named(task)
        found += [Option(name, "train", task, text) for name, text in _said(spec.config_class)]
        found += [Option(name, "train", task, text, True) for name, text in _said(type(spec.recipes["quick"]))]
        for verb, kind in VERBS.items():
            found += [Option(n, verb, task, text) for n, text in _said(kind) if n in spec.predictor_class.uses]
    return found


def _said(kind: type[Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Fields of a dataclass and what their docstring says; of a field that is a dataclass, those of that."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        for name, text in re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", base.__doc__ or "", re.MULTILINE):
            texts[name] = " ".join(text.replace("``", "`").split())
    for field in dataclasses.fields(kind):
        if isinstance(field.default_factory, type):
            yield from _said(field.default_factory, f"{before}{field.name}.")
        else:
            yield before + field.name, texts[field.name]


def page() -> str:
    """The whole page."""
    lines = ["| option | train | eval | predict | what |", "|---|---|---|---|---|"]
    by_name: dict[str, list[Option]] = {}
    for each in options():
        by_name.setdefault(each.name, []).append(each)
    for name, own in sorted(by_name.items(), key=lambda item: ("." in item[0], item[0])):
        cells = [_tasks([each for each in own if each.verb == verb]) for verb in ("train", *VERBS)]
        lines.append(f"| `--{name.replace('_', '-')}` | {' | '.join(cells)} | {_meaning(own)} |")
    return HEAD + "\n".join(lines) + "\n"


def _tasks(own: Sequence[Option]) -> str:
    """For which tasks a verb takes an option."""
    told = "all" if len(own) == len(TASKS) else ", ".join(each.task for each in own) or "-"
    return f"*{told}*" if any(each.in_recipe for each in own) else told


def _meaning(own: Sequence[Option]) -> str:
    """What an option means; if that differs, for which verbs, or tasks of a verb."""
    texts = list(dict.fromkeys(each.meaning for each in own))
    if len(texts) == 1:
        return texts[0]
    told = []
    for text in texts:
        verbs = dict.fromkeys(each.verb for each in own if each.meaning == text)
        whole = all(each.meaning == text for each in own if each.verb in verbs)
        tasks = dict.fromkeys(each.task for each in own if each.meaning == text)
        told.append(f"{', '.join(verbs if whole else tasks)}: {text}")
    return " ".join(told)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
