"""Models of every task on disk, for one worker, and copies to be spoilt."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.hostile.models import TASKS, save


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {task: save(task, root / task) for task in TASKS}


@pytest.fixture(params=TASKS)
def task(request) -> str:
    return request.param


@pytest.fixture
def folder(task, models, tmp_path) -> Path:
    return Path(shutil.copytree(models[task], tmp_path / "copy"))
