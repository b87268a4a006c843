"""Nothing is lost when a run dies, and what goes on is what would have been."""

import json
import os
import random
import shutil
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from tests.data.semantic.builders import write_scenes as write_pixels
from tests.tasks.detection.builders import write_scenes as write_objects
from tests.training.runs import SMALL, SMALL_DETECTOR, SMALL_SEGMENTER, Forked

OFTEN = ["--fit.checkpoint-minutes", "0.0001"]  # after every step
LAST = "step-000000022.ckpt"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A run from beginning to end, without workers and without checkpoints within an epoch."""
    run = Forked(tmp_path_factory.mktemp("whole") / "run", *SMALL, "--workers", "0")
    assert run.wait() == 0, run.told()
    return run.out


def same_outcome(left, right) -> bool:
    """Bit for bit the same weights, of the last epoch and of the best, and the same curves but for times."""
    a, b = (
        {
            f"{name} {key}": value
            for name in ("model", "model-best")
            for key, value in load_file(folder / name / "model.safetensors").items()
        }
        for folder in (left, right)
    )
    curves = [json.loads((folder / "metrics.json").read_text())["curve"] for folder in (left, right)]
    for row in (row for curve in curves for row in curve):
        row.pop("waiting_for_data")
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) and curves[0] == curves[1]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_killed_three_times_it_ends_where_an_uninterrupted_run_ends(uninterrupted, workers, tmp_path):
    """At random moments; the last time, the newest checkpoint is cut off as well and has to be passed over."""
    arguments, draw = [*SMALL, *OFTEN, "--workers", workers], random.Random(int(workers))
    run = Forked(tmp_path / "run", *arguments)
    for attempt in range(3):
        run.until_saved(since=run.checkpoints()[-1] if attempt else "")
        time.sleep(draw.uniform(0, 0.25))
        run.kill()
        assert run.checkpoints()[-1] < LAST, "it was over before it was killed"
        if attempt == 2:
            newest = run.out / "checkpoints" / run.checkpoints()[-1]
            newest.write_bytes(newest.read_bytes()[:-1000])
        run = Forked(run.out, *arguments, "--resume")
    assert run.wait() == 0, run.told()
    assert run.told().splitlines()[0] == f"{newest} is damaged and was passed over: its end is missing or changed"
    assert run.told().count("damaged") == 1
    assert same_outcome(uninterrupted, run.out)


def test_killed_at_the_beginning_of_an_epoch_it_goes_on_with_that_epoch(uninterrupted, tmp_path):
    """From the checkpoint of an epoch's end: workers that begin at once must know which epoch it is."""
    run = Forked(tmp_path / "run", *SMALL, "--workers", "1")
    run.until_saved()
    run.kill()
    assert run.checkpoints() == ["step-000000011.ckpt"]
    run = Forked(run.out, *SMALL, "--workers", "1", "--resume")
    assert run.wait() == 0, run.told()
    assert same_outcome(uninterrupted, run.out)


def test_killed_before_its_first_checkpoint_it_begins_again(uninterrupted, tmp_path):
    run = Forked(tmp_path / "run", *SMALL, "--workers", "0")
    while not (run.out / "run.json").exists():
        assert run.poll() is None, run.told()
        time.sleep(0.01)
    run.kill()
    run = Forked(run.out, *SMALL, "--workers", "0", "--resume")
    assert run.wait() == 0, run.told()
    assert "no checkpoint yet; beginning at the first step" in run.told()
    assert same_outcome(uninterrupted, run.out)


def test_signals_save_before_leaving(uninterrupted, tmp_path):
    """SIGTERM reaches the process that trains; Ctrl-C reaches its workers too."""
    arguments = [*SMALL, *OFTEN, "--workers", "1"]
    run = Forked(tmp_path / "run", *arguments)
    for send, number in ((os.kill, signal.SIGTERM), (os.killpg, signal.SIGINT)):
        run.until_saved(since=run.checkpoints()[-1] if run.checkpoints() else "")
        send(run.pid, number)
        assert run.wait() == 128 + number, run.told()
        assert run.told().strip().endswith("the same command with --resume goes on from here")
        assert "Traceback" not in run.told()
        assert run.checkpoints()[-1] < LAST
        run = Forked(run.out, *arguments, "--resume")
    assert run.wait() == 0, run.told()
    assert same_outcome(uninterrupted, run.out)


def killed_twice(out, arguments, last) -> None:
    """At random moments; what comes out is what an uninterrupted run gives."""
    whole = Forked(out / "whole", *arguments, "--workers", "0")
    assert whole.wait() == 0, whole.told()
    run, draw = Forked(out / "run", *arguments, *OFTEN, "--workers", "1"), random.Random(0)
    for attempt in range(2):
        run.until_saved(since=run.checkpoints()[-1] if attempt else "")
        time.sleep(draw.uniform(0, 0.3))
        run.kill()
        assert run.checkpoints()[-1] < last, "it was over before it was killed"
        run = Forked(out / "run", *arguments, *OFTEN, "--workers", "1", "--resume")
    assert run.wait() == 0, run.told()
    assert same_outcome(whole.out, run.out)
    unreadable = [set(json.loads((each / "metrics.json").read_text())["unreadable"]) for each in (whole.out, run.out)]
    assert unreadable[0] == unreadable[1]
    assert {name.rsplit("/", 1)[-1] for name in unreadable[0]} == {"train_bad.png", "val_bad.png"}


def test_a_detector_killed_twice_ends_where_an_uninterrupted_run_ends(tmp_path):
    """Cascade Mask R-CNN; images that cannot be read are remembered, too."""
    data = write_objects(tmp_path / "data")
    arguments = ["instance", "--detector", "cascade_mask_rcnn", "--data", str(data), *SMALL_DETECTOR]
    killed_twice(tmp_path, arguments, "step-000000008.ckpt")


def test_a_segmenter_killed_twice_ends_where_an_uninterrupted_run_ends(tmp_path):
    data = write_pixels(tmp_path / "data")
    for split in ("train", "val"):
        (data / split / "images" / f"{split}_bad.png").write_bytes(b"nothing")
        shutil.copy(data / split / "masks" / "0.png", data / split / "masks" / f"{split}_bad.png")
    arguments = ["segmentation", "--data", str(data), *SMALL_SEGMENTER, "--epochs", "4"]
    killed_twice(tmp_path, arguments, "step-000000012.ckpt")
