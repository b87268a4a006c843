"""``convneur ablate`` on digits, so small that it shows nothing but that it works."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from filelock import FileLock

from convneur.lab.ablation import REFERENCE, TABLES
from convneur_command.main import main

SMALL = (
    "--data digits --budget tiny --train-images 100 --dims 4 8 8 8 --batch-size 50 --fit.accelerator cpu --workers 0"
).split()


@pytest.mark.slow
def test_killed_in_the_middle_it_repeats_nothing_and_ends_with_table_picture_and_numbers(tmp_path, capsys):
    out = tmp_path / "lab"
    command = ["ablate", "placement", *SMALL, "--epochs", "1", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "convneur", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 200
    while not (out / "placement.json").exists() or len(json.loads((out / "placement.json").read_text())["runs"]) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = json.loads((out / "placement.json").read_text())["runs"]

    assert main(command) == 0
    err = capsys.readouterr().err
    results = json.loads((out / "placement.json").read_text())
    assert results["runs"][: len(before)] == before
    assert [run["cell"] for run in results["runs"]] == list(TABLES["placement"])
    assert f": {REFERENCE}, seed 0" not in err, "it is not trained again"
    assert {"params", "macs", "inference", "training"} <= results["costs"]["per_stage"].keys()
    assert results["costs"][REFERENCE]["inference"] == 1.0
    assert results["runs"][0]["train_images"] == pytest.approx(100, abs=5)
    assert results["runs"][0]["val_images"] == 287, (
        "a fifth of the training images, not the digits held out for the end"
    )
    assert "| per_stage" in (out / "placement.md").read_text()
    assert (out / "placement.png").read_bytes().startswith(b"\x89PNG")
    assert not [path for path in (out / "runs").iterdir() if path.is_dir()], "finished runs leave but their numbers"

    assert main([*command, "--only", "per_stage", "--seeds", "0", "1"]) == 0, "more seeds can be added"
    again = json.loads((out / "placement.json").read_text())["runs"]
    assert [(run["cell"], run["seed"]) for run in again[3:]] == [(REFERENCE, 1), ("per_stage", 1)]
    assert "| per_layer" in (out / "placement.md").read_text(), "what was trained before stays in the table"


@pytest.mark.slow
def test_mosaics_are_told_by_distance_and_photographs_by_size(tmp_path):
    few = ["--only", "squeeze-excitation", "--dims", "4", "8", "8", "--depths", "1", "1", "1", "--epochs", "1"]
    small = ["--data", "digits", "--budget", "tiny", "--batch-size", "4", "--fit.accelerator", "cpu", "--workers", "0"]
    out = tmp_path / "mosaic"
    assert main(["ablate", "core", *small, *few, "--recipe", "mosaic", "--out", str(out)]) == 0
    run = json.loads((out / "core.json").read_text())["runs"][1]
    assert (run["cell"], run["classes"], set(run["by_distance"])) == ("squeeze-excitation", 4, {"2", "3"})
    assert "photographs in mosaics: legend, 64 px, tiles of 16 px" in (out / "core.md").read_text()

    out = tmp_path / "digits"
    assert main(["ablate", "core", *SMALL, *few, "--recipe", "quick", "--scales", "1.5", "--out", str(out)]) == 0
    run = json.loads((out / "core.json").read_text())["runs"][1]
    assert set(run["by_size"]) == {"96"}
    assert "| accuracy at | 96 px |" in (out / "core.md").read_text()


@pytest.mark.slow
def test_two_processes_share_the_cells(tmp_path, capsys):
    """What another process is at is left to it; what it leaves unfinished is taken up."""
    out = tmp_path / "lab"
    (out / "runs").mkdir(parents=True)
    command = ["ablate", "fusion", *SMALL, "--epochs", "1", "--only", "gate", "--out", str(out)]
    with FileLock(out / "runs" / "fusion-gate-0.lock"):
        assert main(command) == 0
    assert "gate, seed 0 is being trained by another process" in capsys.readouterr().err
    assert [run["cell"] for run in json.loads((out / "fusion.json").read_text())["runs"]] == [REFERENCE]
    assert main(command) == 0
    assert [run["cell"] for run in json.loads((out / "fusion.json").read_text())["runs"]] == [REFERENCE, "gate"]

    other = [*command[:-1], str(tmp_path / "other")]
    (tmp_path / "other" / "runs").mkdir(parents=True)
    with FileLock(tmp_path / "other" / "runs" / "fusion-local-only-0.lock"):
        assert main(other) == 0, "there is nothing to compare with yet, which is no error"
    assert "local-only is still being trained" in capsys.readouterr().err


def test_bad_input_is_one_line(tmp_path, capsys):
    (tmp_path / "fusion.json").write_text(json.dumps({"settings": {}, "runs": []}))
    for arguments, message in [
        (["ablate", "fusion", *SMALL, "--out", str(tmp_path)], "was begun with other settings"),
        (["ablate", "fusion", *SMALL, "--only", "gates", "--out", str(tmp_path / "n")], "did you mean 'gate'"),
    ]:
        assert main(arguments) == 2
        err = capsys.readouterr().err.strip().splitlines()
        assert message in err[-1]
        assert len(err) == 1, err
    absent, out = str(tmp_path / "absent"), tmp_path / "new"
    assert main(["ablate", "core", *SMALL, "--data", absent, "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"convneur: --data {absent} does not exist; give")
    assert len(err.splitlines()) == 1
    assert not out.exists()
    with pytest.raises(SystemExit, match="2"):
        main(["ablate", "colour", *SMALL])
