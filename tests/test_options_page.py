"""An option means the same for every verb and task, and is refused where it means nothing."""

import dataclasses
from typing import Any

import pytest

from convneur.tasks.registry import TASKS, task_named
from convneur_command.main import main
from tests.options_page import PAGE, VERBS, options, page

# Values that no default is
GIVEN: dict[str, Any] = {"scales": (1.0, 2.0), "part": "test", "max_megapixels": 1.0, "flip": True, "strict": True}
GIVEN |= {"allow_remote": True, "score": 0.25, "val_share": 0.5}
# Said otherwise of a run, which draws what an evaluation draws again, and of images, that have a label or much on them
OWN_WORDS = {"val_share", "seed", "max_megapixels", "strict", "allow_remote", "batch_size", "image_size"}
OWN_WORDS |= {"augment.crop", "augment.hflip", "augment.color_jitter"}


def test_the_page_is_what_is_so():
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.options_page"


def test_the_page_has_what_recipes_have():
    rows = {row.split("`")[1]: row for row in page().splitlines() if row.startswith("| `--")}
    for flag, train in (
        ("--batch-size", "all"),
        ("--image-size", "classification"),
        ("--min-size", "detection, instance"),
        ("--inference.size", "segmentation"),
        ("--optim.lr", "all"),
    ):
        assert rows[flag].split(" | ")[1] == f"*{train}*"


def test_an_option_is_said_to_mean_one_thing():
    said: dict[str, set[str]] = {}
    for each in options():
        said.setdefault(each.name, set()).add(each.meaning)
    assert {name for name, texts in said.items() if len(texts) > 1} == OWN_WORDS


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("verb", VERBS)
def test_what_means_nothing_to_a_model_is_refused(verb, task):
    kind = task_named(task).predictor_class
    taken = {each.name for each in options() if (each.verb, each.task) == (verb, task)}
    for field in dataclasses.fields(VERBS[verb]):
        given = {field.name: GIVEN.get(field.name, 7)}
        if field.name in taken:
            assert kind.checked(VERBS[verb], given) == given
        else:
            with pytest.raises(ValueError, match=f"--{field.name.replace('_', '-')} means nothing to"):
                kind.checked(VERBS[verb], given)


@pytest.mark.parametrize("task", TASKS)
def test_train_refuses_the_options_of_other_tasks(task, capsys):
    own = {each.name for each in options() if (each.verb, each.task) == ("train", task)}
    others = {each.name for each in options() if each.verb == "train"} - own
    for name in sorted(name for name in others if "." not in name):  # parts of recipes are parsed alike
        with pytest.raises(SystemExit):
            main(["train", task, "--data", "photos", f"--{name.replace('_', '-')}"])
        assert f"--{name.replace('_', '-')}" in capsys.readouterr().err
