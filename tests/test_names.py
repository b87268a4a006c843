"""Flags of the command and places in the package: those that messages, docstrings and pages name are there."""

import io
import re
from contextlib import redirect_stdout
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name

import pytest

from convneur.training.run_folder import _differences
from convneur_command.main import FOREIGN, main, verbs
from convneur_command.train import TASKS

ROOT = Path(__file__).parents[1]
# The changelog was so when it was written; the scripts in benchmarks/ have flags of their own.
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.py")]
SCRIPT = re.compile(r"python benchmarks/(?:.*\\\n)*.*")
TEXTS = {str(page.relative_to(ROOT)): SCRIPT.sub("", page.read_text()) for page in PAGES if page.name != "CHANGELOG.md"}
FLAG = r"(?<![\w-])--[a-z][a-z0-9]*(?:[.-][a-z0-9]+)*"
# Of the command and every verb, of pip, of benchmarks/app_under_load.py, of the style sheet of a page, and of others.
OTHERS = {"--help", "--version", "--no-build-isolation", "--clients", "--strength"} | {
    flag for named in FOREIGN.values() for flag in named
}


@pytest.fixture(scope="module")
def flags() -> set[str]:
    """Of all verbs and tasks, as their help shows them: at the beginning of a line."""
    told = io.StringIO()
    for verb in [[name] for name in verbs([])] + [
        ["train", task] for task in ("detection", "instance", "segmentation")
    ]:
        with redirect_stdout(told), pytest.raises(SystemExit):
            main([*verb, "--help"])
    lines = re.findall(rf"^[│ ] {{1,2}}({FLAG}(?:, {FLAG})*)", told.getvalue(), re.MULTILINE)
    return {flag for line in lines for flag in line.split(", ")}


def test_flags_that_are_named_exist(flags):
    groups = {flag.rpartition(".")[0] for flag in flags}  # begin the place of a value, as --inference does
    named = {(flag, page) for page, text in TEXTS.items() for flag in re.findall(FLAG, text)}
    assert ("--fit.loggers", "docs/tutorials/photographs.md") in named
    assert [each for each in sorted(named) if each[0] not in flags | groups | OTHERS] == []


@pytest.mark.parametrize("task", TASKS)
def test_a_setting_that_differs_is_named_by_its_flag(task, flags):
    """Each as if it had been another, as far as a run may not go on with another."""
    kind, recipes = TASKS[task]
    now = asdict(kind("photos")) | {"recipe": asdict(next(iter(recipes.values())))}
    assert {line.split()[0] for line in _differences(other(now), now)} <= flags
    told = _differences(now, now | {"max_megapixels": 20.5})
    assert told == ["--max-megapixels 100 (now 20.5)"]


def other(settings: dict) -> dict:
    return {name: other(value) if isinstance(value, dict) else 0.123 for name, value in settings.items()}


def test_places_that_are_named_exist():
    named = {
        (name, page)
        for page, text in TEXTS.items()
        for name in re.findall(r"`(convneur(?:_command|_options)?(?:\.\w+)+)", text)
    }
    assert ("convneur.training.run.train", "src/convneur/tasks/spec.py") in named
    files = {"convneur.json"}  # within exported files
    assert [each for each in sorted(named) if each[0] not in files and not _is_there(each[0])] == []


def _is_there(name: str) -> bool:
    try:
        if find_spec(name) is not None:
            return True  # a module, whether or not what it needs is installed
    except ModuleNotFoundError:  # the part before the last dot is no package
        pass
    try:
        resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True
