"""Nothing is lost when a run dies, and what goes on is what would have been."""

import json
import os
import random
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from tests.recipes.runs import SMALL, checkpoints, finish, run, start

OFTEN = ["--fit.checkpoint-minutes", "0.001"]  # after every step


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A run from beginning to end, without workers and without checkpoints within an epoch."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    code, _, err = run(*SMALL, "--out", str(folder), "--workers", "0")
    assert code == 0, err
    return folder


def same_outcome(left, right) -> bool:
    """Bit for bit the same weights, and the same curves but for times."""
    a, b = (load_file(folder / "model" / "model.safetensors") for folder in (left, right))
    curves = [json.loads((folder / "metrics.json").read_text())["curve"] for folder in (left, right)]
    for row in (row for curve in curves for row in curve):
        row.pop("waiting_for_data")
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) and curves[0] == curves[1]


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_killed_three_times_it_ends_where_an_uninterrupted_run_ends(uninterrupted, workers, tmp_path):
    folder, draw = tmp_path / "run", random.Random(int(workers))
    for attempt in range(3):
        before = checkpoints(folder)
        process = start(*SMALL, *OFTEN, "--out", str(folder), "--workers", workers, *(["--resume"] if attempt else []))
        deadline = time.monotonic() + 120
        while checkpoints(folder)[-1:] == before[-1:]:  # until it has saved something of its own
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 1.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert checkpoints(folder)[-1] < "step-000000022.ckpt", "it was over before it was killed"
    code, _, err = run(*SMALL, *OFTEN, "--out", str(folder), "--workers", workers, "--resume")
    assert code == 0, err
    assert same_outcome(uninterrupted, folder)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_with_one_line(uninterrupted, tmp_path):
    folder = tmp_path / "run"
    process = start(*SMALL, *OFTEN, "--out", str(folder), "--workers", "0")
    while len(checkpoints(folder)) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    newest = folder / "checkpoints" / checkpoints(folder)[-1]
    newest.write_bytes(newest.read_bytes()[:-1000])
    code, _, err = run(*SMALL, *OFTEN, "--out", str(folder), "--workers", "0", "--resume")
    assert code == 0, err
    assert [line for line in err.splitlines() if "damaged" in line] == [f"{newest} is damaged and was passed over"]
    assert same_outcome(uninterrupted, folder)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_before_leaving(uninterrupted, number, tmp_path):
    folder = tmp_path / "run"
    process = start(*SMALL, *OFTEN, "--out", str(folder), "--workers", "0")
    while not checkpoints(folder):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    code, _, err = finish(process)
    assert code == 2, err
    assert err.strip().splitlines()[-1].endswith("the same command with --resume goes on from here")
    assert "Traceback" not in err
    assert checkpoints(folder)[-1] < "step-000000022.ckpt"
    code, _, err = run(*SMALL, "--out", str(folder), "--workers", "0", "--resume")
    assert code == 0, err
    assert same_outcome(uninterrupted, folder)
