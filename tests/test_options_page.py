"""An option means the same for every verb and task, and is refused where it means nothing."""

import dataclasses
from typing import Any

import pytest

from convneur.tasks.registry import TASKS, task_named
from convneur_command.main import main
from tests.options_page import PAGE, VERBS, page, taken, texts

# Values that no default is
GIVEN: dict[str, Any] = {"scales": (1.0, 2.0), "part": "test", "max_megapixels": 1.0, "flip": True, "strict": True}
GIVEN |= {"allow_remote": True, "score": 0.25, "val_share": 0.5}
# Said otherwise of a run, which draws what an evaluation draws again
OWN_WORDS = {"val_share", "seed", "workers", "max_megapixels", "strict", "allow_remote"}


def test_the_page_is_what_is_so():
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.options_page"


def test_an_option_is_said_to_mean_one_thing():
    for name, said in texts().items():
        assert len(set(said.values())) == 1 or name in OWN_WORDS, name


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("verb", VERBS)
def test_what_means_nothing_to_a_model_is_refused(verb, task):
    kind, used = task_named(task).predictor_class, taken()
    for field in dataclasses.fields(VERBS[verb]):
        given = {field.name: GIVEN.get(field.name, 7)}
        if task in used.get(field.name, {}).get(verb, ()):
            assert kind.checked(VERBS[verb], given) == given
        else:
            with pytest.raises(ValueError, match=f"--{field.name.replace('_', '-')} means nothing to"):
                kind.checked(VERBS[verb], given)


@pytest.mark.parametrize("task", TASKS)
def test_train_refuses_the_options_of_other_tasks(task, capsys):
    for name, verbs in taken().items():
        if task in verbs.get("train", [task]):
            continue
        with pytest.raises(SystemExit):
            main(["train", task, "--data", "photos", f"--{name.replace('_', '-')}"])
        assert f"--{name.replace('_', '-')}" in capsys.readouterr().err
