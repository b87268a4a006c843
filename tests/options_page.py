"""docs/options.md: the options of train, eval and predict for each task; ``python -m tests.options_page`` writes it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from convneur.tasks.registry import TASKS, task_named
from convneur_options.use import EvaluateOptions, PredictOptions

PAGE = Path(__file__).parents[1] / "docs" / "options.md"
VERBS = {"eval": EvaluateOptions, "predict": PredictOptions}
HEAD = """# Options

Which options `convneur train`, `eval` and `predict` take for which task, and the arguments of `convneur.train`,
`model.evaluate` and `model.predict`, whose names have `_` for `-`. An option means the same wherever it is taken, and
is refused elsewhere. What a recipe has (`--epochs`, `--optim.lr`, ...) is beside these: `convneur train TASK --recipe
NAME --help`.

"""


def texts() -> dict[str, dict[str, str]]:
    """What each option means, by its name and by the place that says so."""
    found: dict[str, dict[str, str]] = {}
    kinds = [task_named(task).config_class for task in TASKS]
    for kind in dict.fromkeys(base for each in (*kinds, *VERBS.values()) for base in each.__mro__[:-1]):
        for name, text in re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", kind.__doc__ or "", re.MULTILINE):
            found.setdefault(name, {})[kind.__name__] = " ".join(text.split())
    return found


def taken() -> dict[str, dict[str, list[str]]]:
    """By option and verb the tasks for which it is taken."""
    found: dict[str, dict[str, list[str]]] = {}
    for task in TASKS:
        spec = task_named(task)
        for field in dataclasses.fields(spec.config_class):
            found.setdefault(field.name, {}).setdefault("train", []).append(task)
        for verb, kind in VERBS.items():
            for field in dataclasses.fields(kind):
                if field.name in spec.predictor_class.uses:
                    found.setdefault(field.name, {}).setdefault(verb, []).append(task)
    return found


def page() -> str:
    """The whole page."""
    lines = ["| option | train | eval | predict | what |", "|---|---|---|---|---|"]
    said = texts()
    for name, verbs in sorted(taken().items()):
        cells = ["all" if verbs.get(v) == list(TASKS) else ", ".join(verbs.get(v, ["-"])) for v in ("train", *VERBS)]
        meaning = next(iter(said[name].values()))
        lines.append(f"| `--{name.replace('_', '-')}` | {' | '.join(cells)} | {meaning} |")
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
