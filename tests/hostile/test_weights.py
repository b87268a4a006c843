"""Files of weights from strangers: what is no plain weights is refused in a line that says why, and runs nothing."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from convneur import from_convnext
from convneur.files import why_unreadable
from tests.cli.test_cli import call
from tests.hostile.exported import Touch

OBJECTS = "holds Python objects, which could run code; save the weights as safetensors"
BASELINE = "convnext_atto"


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / "code-was-run"


def refused(file: Path) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        from_convnext(file)
    line = str(caught.value)
    assert str(file) in line
    assert "\n" not in line
    assert len(line) < 500
    assert "weights_only" not in line
    return line


@pytest.mark.parametrize("written", ["pickle", "torch.save", "torch.save of old", "nested"])
@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.ckpt", "x.bin", "x"])
def test_a_pickle_is_refused_and_not_run(name, written, marker, tmp_path):
    file, evil = tmp_path / name, Touch(marker)
    if written == "pickle":
        file.write_bytes(pickle.dumps(evil))
    elif written == "nested":
        torch.save({"state_dict": {"stem.0.weight": torch.zeros(3), "more": evil}}, file)
    else:
        torch.save(evil, file, _use_new_zipfile_serialization=written == "torch.save")
    assert OBJECTS in refused(file)
    assert not marker.exists()


def test_a_pickle_under_the_name_of_safetensors_is_refused_and_not_run(marker, tmp_path):
    file = tmp_path / "x.safetensors"
    torch.save(Touch(marker), file)
    refused(file)
    assert not marker.exists()


def test_a_program_of_torchscript_is_not_run(tmp_path):
    file = tmp_path / "x.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)
    assert "torch.save does not do" in refused(file)


@pytest.mark.parametrize("suffix", ["pt", "ckpt", "safetensors", "pt2"])
def test_what_is_no_file_of_weights(suffix, tmp_path):
    (tmp_path / f"folder.{suffix}").mkdir()
    (tmp_path / f"empty.{suffix}").touch()
    (tmp_path / f"text.{suffix}").write_text("hello\n")
    os.mkfifo(tmp_path / f"fifo.{suffix}")
    assert "is a folder" in refused(tmp_path / f"folder.{suffix}")
    assert "is empty" in refused(tmp_path / f"empty.{suffix}")
    assert "is a pipe" in refused(tmp_path / f"fifo.{suffix}")
    assert refused(tmp_path / f"text.{suffix}")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("stem.0.weight", 5, "holds 'stem.0.weight', which is no tensor"),
        ("stem.0.weight", torch.zeros(40, 3, 4, 4, dtype=torch.int64), "is of type int64; give floating-point weights"),
        (
            "head.fc.weight",
            torch.zeros(1, 1).expand(10**9, 320),
            "fewer numbers than its shape (1000000000, 320) says",
        ),
        ("stages.0.blocks.0.gamma", None, "which is no tensor; give the weights alone"),
    ],
)
def test_tensors_that_are_none(name, value, message, tmp_path):
    weights = timm.create_model(BASELINE, num_classes=2).state_dict()
    file = tmp_path / "x.pt"
    torch.save({**weights, name: value}, file)
    assert message in refused(file)


@pytest.mark.parametrize("name", ["stem.0.weight", "head.fc.weight", "stages.0.blocks.0.gamma"])
def test_tensors_without_sides(name):
    weights = timm.create_model(BASELINE, num_classes=2).state_dict()
    with pytest.raises(ValueError, match=r"the weights |of the state dict is of shape"):
        from_convnext({**weights, name: torch.tensor(1.0)})


@pytest.mark.parametrize("content", [5, [1, 2], "text", None, torch.zeros(3)])
def test_what_is_no_state_dict(content, tmp_path):
    file = tmp_path / "x.pt"
    torch.save(content, file)
    assert "no checkpoint" in refused(file)


def test_a_compressed_archive_does_not_become_more_than_it_is(tmp_path):
    file, bomb = tmp_path / "x.pt", tmp_path / "bomb.pt"
    torch.save({"stem.0.weight": torch.zeros(1000, 1000)}, file)
    with zipfile.ZipFile(file) as whole, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as small:
        for part in whole.namelist():
            small.writestr(part, whole.read(part))
    assert bomb.stat().st_size < 100_000
    assert "is compressed" in refused(bomb)


@pytest.mark.parametrize("task", [(), ("segmentation",)])
def test_train_says_it_in_one_line(task, marker, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for index in range(4):
        picture = tmp_path / "data" / f"class{index % 2}" / f"{index}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (60 * index, 0, 0)).save(picture)
    file = tmp_path / "x.pth"
    torch.save(Touch(marker), file)
    code, _, err = call("train", *task, "--data", str(tmp_path / "data"), "--weights", str(file), "--out", "run")
    assert code == 2
    assert "weights_only" not in err
    assert "Traceback" not in err
    assert not marker.exists()
    if not task:
        assert len(err.strip().splitlines()) == 1
        assert OBJECTS in err


def test_a_reason_is_never_empty():
    assert why_unreadable(MemoryError()) == "MemoryError"
    assert why_unreadable(OSError("two\nlines")) == "two lines"
    assert len(why_unreadable(ValueError("long " * 1000))) <= 300
