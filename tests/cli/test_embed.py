"""convneur embed as people use it."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from convneur_command.main import main
from tests.embedding import builders

SMALL = "--image-size 64 --part-size 8 --batch-size 4 --workers 0 --device cpu".split()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return builders.saved_model(tmp_path_factory.mktemp("models") / "small")


def call(capsys, *arguments: object) -> tuple[int, str, str]:
    """Run the verb in this process."""
    capsys.readouterr()
    code = main(["embed", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_it_says_what_it_made_and_how_fast(model, tmp_path, capsys):
    source = builders.photo_folder(tmp_path / "photos", 20)
    code, out, err = call(capsys, source, "--model", model, "--out", tmp_path / "out", *SMALL)
    assert code == 0, err
    assert re.search(r"20 embeddings of \d+ numbers in 3 parts: .*out +\(\d+\.\d images/s\)", out)
    code, out, err = call(capsys, source, "--model", model, "--out", tmp_path / "out", *SMALL)
    assert code == 0, err
    assert "nothing was left to do" in out
    builders.spoil(source)
    options = [*SMALL, "--max-unreadable", "0.2", "--half"]
    code, out, err = call(capsys, source, "--model", model, "--out", tmp_path / "spoilt", *options)
    assert code == 0, err
    assert "20 embeddings" in out
    assert "4 images could not be read" in err


def test_bad_input_is_one_line_and_exit_code_2(model, tmp_path, capsys):
    source = builders.photo_folder(tmp_path / "photos", 6)
    new = ["--model", model, "--out", tmp_path / "new"]
    (tmp_path / "file").write_text("")
    (tmp_path / "no.parquet").write_text("no table")
    (tmp_path / "no.tar").write_text("no shard" * 100)
    (tmp_path / "empty").mkdir()
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "part-00000.parquet").write_text("")
    assert call(capsys, source, "--model", model, "--out", tmp_path / "done", *SMALL)[0] == 0
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "embed.json").write_text("{")
    for arguments, message in [
        ([tmp_path / "absent", *new], "does not exist; give a folder of images"),
        ([tmp_path / "absent/*.jpg", *new], "does not exist; give a folder of images"),
        ([tmp_path / "empty", *new], "holds no images"),
        ([tmp_path / "file", *new], "holds no images"),
        ([f"wds:{tmp_path / 'empty'}", *new], "holds no images; give shards"),
        ([f"wds:{tmp_path / 'no.tar'}", *new], "no whole shard"),
        ([tmp_path / "no.parquet", *new], "no parquet file that can be read"),
        (["hf:beans", *new], "write the data set as parquet files"),
        ([source, "--model", tmp_path / "empty", "--out", tmp_path / "new"], "holds no model"),
        ([source, "--model", "convneur_m1", "--out", tmp_path / "new"], "weights of convneur_m1; train one"),
        ([source, *new, "--image-size", "2"], "gives no features of 2 x 2 px"),
        ([source, *new, "--part-size", "0"], "--part-size 0 is out of range"),
        ([source, *new, "--max-unreadable", "2"], "--max-unreadable 2.0 is out of range"),
        ([source, *new, "--device", "cuda"], "is not to be had on this machine"),
        ([source, "--model", model, "--out", tmp_path / "file"], "is a file; give a folder"),
        (
            [source, "--model", model, "--out", tmp_path / "parts"],
            "nothing in it says that convneur filled it (it holds part-00000.parquet)",
        ),
        (
            [source, "--model", model, "--out", tmp_path / "damaged"],
            "nothing in it says that convneur filled it (it holds embed.json)",
        ),
        ([source, "--model", model, "--out", tmp_path / "done"], "was begun with another preprocessing"),
    ]:
        if message.startswith("is not to be had") and _has_cuda():
            continue
        code, _, err = call(capsys, *arguments)
        assert code == 2, arguments
        assert message in err, arguments
        assert len(err.strip().splitlines()) == 1, err
        assert "Traceback" not in err


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.mark.slow
def test_ctrl_c_keeps_whole_parts_and_two_do_not_fill_one_folder(model, tmp_path, capsys):
    source, out = builders.photo_folder(tmp_path / "photos", 120), tmp_path / "out"
    rest = ["--model", str(model), "--out", str(out), *SMALL, "--part-size", "2", "--workers", "1"]
    command = [sys.executable, "-m", "convneur", "embed", str(source), *rest]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    while len(list(out.glob("part-*"))) < 2:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGSTOP)
    code, _, err = call(capsys, source, *rest)
    assert code == 2
    assert "is being written by another process" in err
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert re.search(r"convneur: stopped, \d+ images done; the same command goes on", err.strip().splitlines()[-1])
    assert "Traceback" not in err
    assert not list(out.glob(".part-*"))
    code, stdout, err = call(capsys, source, *rest)
    assert code == 0, err
    assert "120 embeddings" in stdout
    assert len(set(builders.read(out)["id"].to_pylist())) == 120
