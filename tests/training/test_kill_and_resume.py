"""Five of the kills of `tests.kill_and_resume`, each in another command and phase."""

import os
import random

import pytest

from tests.kill_and_resume import cases, disturbed, undisturbed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="needs signals"),
]


@pytest.mark.parametrize("name", ["classification", "instance", "segmentation", "embed", "stream"])
def test_what_was_killed_and_given_again_comes_out_the_same(name, tmp_path):
    (case,) = (each for each in cases(tmp_path / "data") if each.name == name)
    (tmp_path / "whole").mkdir()
    course = undisturbed(case, tmp_path / "whole" / "out")
    kills, wrong = disturbed(case, tmp_path / "run", course, 1, random.Random(name))
    assert wrong == []
    assert [kill for kill in kills if kill.fault] == []
