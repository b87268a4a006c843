"""A run that has learned all is safe before it is judged, and --resume judges it if that failed."""

import json

import pytest

from convneur.models import load_model
from convneur.tasks.base import Task
from convneur.tasks.detection import load_detector
from convneur.tasks.segmentation import load_segmenter
from convneur_command.main import main
from tests.cli.test_classify import call
from tests.data.semantic.builders import write_scenes as write_pixels
from tests.data.test_contents import classes
from tests.recipes.runs import SMALL_DETECTOR, SMALL_SEGMENTER, TINY
from tests.tasks.detection.builders import write_scenes as write_objects

SMALL = f"--image-size 32 --epochs 2 --batch-size 8 --fit.accelerator cpu {TINY}".split()

# By task: what makes data, the arguments of a run, what judges, what loads the model.
TASKS = {
    "classification": (lambda to: classes(to, 10), SMALL, "convneur.cli.judging.judge", load_model),
    "detection": (write_objects, SMALL_DETECTOR, "convneur.cli.detecting.judge_detector", load_detector),
    "segmentation": (write_pixels, SMALL_SEGMENTER, "convneur.cli.segmenting.judge_segmenter", load_segmenter),
}


@pytest.mark.parametrize("task", TASKS)
def test_a_model_is_safe_before_it_is_judged_and_judged_by_resume(task, tmp_path, monkeypatch, capsys):
    write, small, judge, load = TASKS[task]
    command = ["train", task, "--data", str(write(tmp_path / "data")), *small, "--workers", "0", "--keep", "best"]
    command += ["--out", str(tmp_path / "run")]

    def fail(*_args, **_kwargs):
        raise RuntimeError("no memory left")

    def stop(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(judge, fail)
        with pytest.raises(RuntimeError, match="no memory left"):
            main(command)
    for folder in ("model", "model-last"):
        load(tmp_path / "run" / folder)
    weights = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    card = tmp_path / "run" / "model" / "README.md"
    assert "the best by" in card.read_text()

    code, _, err = call(capsys, *command)
    assert code == 2
    assert "holds a run already; add --resume to go on with it" in err

    def learn(*_args, **_kwargs):
        raise AssertionError("it has learned all")

    monkeypatch.setattr(Task, "optimizer_step", learn)
    with monkeypatch.context() as patch:
        patch.setattr(judge, stop)
        code, _, err = call(capsys, *command, "--resume")
    assert code == 130
    assert err.endswith("stopped before the model was judged; the same command with --resume judges it\n")

    code, told, err = call(capsys, *command, "--resume")
    assert code == 0, err
    assert "held-out images" in told
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == weights
    assert "Made with" in card.read_text()
    assert [row["epoch"] for row in json.loads((tmp_path / "run" / "metrics.json").read_text())["curve"]] == [1, 2]
    code, _, err = call(capsys, *command, "--resume")
    assert code == 0
    assert "holds what this command makes, finished" in err
