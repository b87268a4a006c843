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
from tests.tasks.detection.builders import write_scenes as write_objects
from tests.training.runs import SMALL_DETECTOR, SMALL_SEGMENTER, TINY

SMALL = f"--image-size 32 --epochs 2 --batch-size 8 --fit.accelerator cpu {TINY}".split()

# By task: what makes data, the arguments of a run, what judges, what loads the model.
TASKS = {
    "classification": (
        lambda to: classes(to, 10),
        SMALL,
        "convneur.tasks.classification.predictor.evaluate",
        load_model,
    ),
    "detection": (write_objects, SMALL_DETECTOR, "convneur.tasks.detection.predictor.evaluate_detector", load_detector),
    "segmentation": (
        write_pixels,
        SMALL_SEGMENTER,
        "convneur.tasks.segmentation.predictor.evaluate_segmenter",
        load_segmenter,
    ),
}


@pytest.mark.parametrize("task", ["classification", pytest.param("detection", marks=pytest.mark.slow), "segmentation"])
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


@pytest.mark.slow
def test_a_finished_run_goes_on_to_more_epochs_at_the_rate_of_a_run_that_long(tmp_path, monkeypatch, capsys):
    rates: list[float] = []
    step = Task.optimizer_step

    def record(task, *args, **kwargs):
        rates.append(task.optimizers().param_groups[0]["lr"])
        step(task, *args, **kwargs)

    monkeypatch.setattr(Task, "optimizer_step", record)
    data, out = classes(tmp_path / "data", 10), tmp_path / "run"
    command = ["train", "--data", str(data), *SMALL, "--workers", "0", "--out"]
    assert call(capsys, *command, str(tmp_path / "whole"), "--epochs", "4")[0] == 0
    whole = list(rates)
    assert len(whole) == 8
    rates.clear()
    assert call(capsys, *command, str(out))[0] == 0
    first = json.loads((out / "metrics.json").read_text())["curve"]
    rates.clear()

    for epochs, *more, line in [
        ("1", "--resume", "was begun with --epochs 2 (now 1); go on with the same, or give another --out"),
        (
            "4",
            "begun with --epochs 2 (now 4); add --overwrite to replace it, --resume to go on to more epochs, or give",
        ),
        ("4", "--resume", "--seed", "1", "was begun with --seed 0 (now 1)"),
    ]:
        code, _, err = call(capsys, *command, str(out), "--epochs", epochs, *more)
        assert code == 2
        assert line in err
    (out / "checkpoints").rename(out / "away")
    code, _, err = call(capsys, *command, str(out), "--epochs", "4", "--resume")
    assert code == 2
    assert f"{out} has no whole checkpoint any more to go on from; train anew with another --out" in err
    (out / "away").rename(out / "checkpoints")
    assert (out / "report.html").is_file()

    with monkeypatch.context() as patch:
        patch.setattr("convneur.tasks.classification.predictor.evaluate", lambda *_args, **_kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main([*command, str(out), "--epochs", "4", "--resume"])
    err = capsys.readouterr().err
    assert (
        "this run of 2 epochs goes on to 4; from here its learning rate is that of a run of 4 from its beginning" in err
    )
    assert rates == whole[4:]
    assert not (out / "report.html").exists(), "it has not finished again"
    code, _, err = call(capsys, *command, str(out), "--epochs", "4", "--resume")
    assert code == 0, err
    assert "goes on to" not in err
    curve = json.loads((out / "metrics.json").read_text())["curve"]
    assert curve[:2] == first
    assert [row["epoch"] for row in curve] == [1, 2, 3, 4]
    assert "weights of epoch 4, the last" in (out / "model" / "README.md").read_text()
    assert json.loads((out / "run.json").read_text())["recipe"]["epochs"] == 4
