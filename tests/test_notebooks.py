"""The notebooks run as they are, from an empty folder."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from convneur.tasks.registry import task_named
from convneur_options.detection import KINDS

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_pictures(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "kept without outputs"
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = [kind for cell in notebook.cells for output in cell.get("outputs", ()) for kind in output.get("data", ())]
    assert "image/png" in shown
    assert "text/html" in shown


def test_there_is_one_for_each_task():
    assert [path.stem for path in NOTEBOOKS] == ["classification", "detection", "segmentation"]


def test_recipes_and_detectors_that_they_name_are_those_of_the_task():
    detectors = {}
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        text = "\n".join(cell.source for cell in notebook.cells)
        named = re.findall(r'recipe="(\w[\w-]*)"', text)
        assert {"finetune"} <= set(named) <= set(task_named(path.stem).recipes)
        detectors |= dict(re.findall(r'train\(DATA, "(\w+)", detector="(\w+)"', text))
    assert set(detectors) == set(KINDS)
    assert all(detectors[task] in KINDS[task] for task in detectors)
