"""A checkpoint is as it was written, or it is passed over."""

import datetime
import hashlib
import io
import os
import shutil
import zipfile

import pytest
import torch

from convneur.printing import Console
from convneur.training.checkpoints import (
    COMMENT,
    DamagedError,
    add_digest,
    last_checkpoint,
    load_checkpoint,
    newest_checkpoint,
)
from convneur.training.fit import resume_from
from convneur.training.kept import final_weights
from tests.training import small

NEWEST, BEFORE = "step-000000004.ckpt", "step-000000002.ckpt"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with two checkpoints."""
    folder = tmp_path_factory.mktemp("run")
    small.run(folder)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def resumed(folder) -> tuple[str, str]:
    """Name of the checkpoint that is gone on from, and what is told."""
    console = Console(file=io.StringIO(), width=200)
    path = resume_from(folder, console)
    assert path is not None
    return path.name, console.file.getvalue()


def without_digest(path) -> None:
    """As earlier versions wrote it."""
    path.write_bytes(path.read_bytes()[: -COMMENT - 2] + b"\0\0")


def directory_entry(path, name: str) -> int:
    """Where the entry of a part in the archive's central directory begins."""
    with zipfile.ZipFile(path) as archive:
        place, content = archive.start_dir, path.read_bytes()
    while not content[place + 46 :].startswith(name.encode()):
        place = content.index(b"PK\1\2", place + 4)
    return place


def flip(path, place: int, bits: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= bits
    path.write_bytes(content)


def test_a_checkpoint_ends_with_the_digest_of_what_is_before_it(run):
    for path in (run / "checkpoints").iterdir():
        content = path.read_bytes()
        assert content[-COMMENT:] == b"sha256:" + hashlib.sha256(content[:-COMMENT]).hexdigest().encode()
        kept = torch.load(path, weights_only=True)  # torch reads it as it is
        assert torch.equal(kept["state_dict"]["model.weight"], load_checkpoint(path)["state_dict"]["model.weight"])
    assert resumed(run) == (NEWEST, "")


# Of an entry in the central directory: the bit that says folder, one of its name, of its size, and of its method.
FAULTS = {"folder": (38, 0x10), "name": (46 + 12, 0x80), "size": (25, 1), "compression": (10, 8), "offset": (42, 1)}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("digest", [True, False])
def test_a_flipped_bit_in_the_directory_of_the_archive_is_passed_over(run, fault, digest):
    """The first has torch.load take memory that nothing was read into for weights."""
    path = run / "checkpoints" / NEWEST
    if not digest:
        without_digest(path)
    with zipfile.ZipFile(path) as archive:
        (weight,) = (part for part in archive.namelist() if part.endswith("/data/0"))
    flip(path, directory_entry(path, weight) + FAULTS[fault][0], FAULTS[fault][1])
    name, told = resumed(run)
    assert name == BEFORE
    assert told.startswith(f"{path} is damaged and was passed over: ")
    assert told.count("\n") == 1
    assert path.with_suffix(".damaged").exists(), "it is kept under another name"


@pytest.mark.parametrize("end", [-1, -10, -COMMENT, -COMMENT - 1, -COMMENT - 22, 100, 0])
def test_what_was_cut_off_is_passed_over(run, end):
    path = run / "checkpoints" / NEWEST
    path.write_bytes(path.read_bytes()[:end])
    assert resumed(run)[0] == BEFORE


def test_what_earlier_versions_wrote_goes_on_in_words(run):
    path = run / "checkpoints" / NEWEST
    without_digest(path)
    name, told = resumed(run)
    assert name == NEWEST
    assert told == f"{path} has no digest: written by an earlier version; checked as an archive only\n"
    assert small.run(run, 3, path)[0][-1]["step"] == 6


FOREIGN = {
    "object": lambda kept: kept | {"made": datetime.date(2020, 1, 1)},
    "module": lambda kept: torch.nn.Linear(1, 1),
    "weights": lambda kept: {"state_dict": kept["state_dict"]},
    "list": lambda kept: [kept],
    "kinds": lambda kept: kept | {"optimizer_states": {}},
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("digest", [True, False])
def test_foreign_content_is_passed_over_in_one_line_and_nobody_is_told_to_load_it(run, kind, digest):
    path = run / "checkpoints" / NEWEST
    torch.save(FOREIGN[kind](load_checkpoint(path)), path)
    if digest:
        add_digest(path)
    name, told = resumed(run)
    assert name == BEFORE
    assert told.count("\n") == 1
    assert "it holds " in told
    assert "weights_only" not in told
    path.with_suffix(".damaged").replace(path)
    (run / "checkpoints" / BEFORE).unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"only damaged checkpoints to go on from \({NEWEST}: it holds"
    ) as told:
        resume_from(run, Console(file=io.StringIO()))
    assert "weights_only" not in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_passed_over(run, make):
    make(run / "checkpoints" / "step-000000009.ckpt")
    name, told = resumed(run)
    assert name == NEWEST
    assert "it is no file" in told


def test_a_copy_under_a_name_of_its_own_is_neither_the_newest_nor_removed(run):
    folder = run / "checkpoints"
    first, last = sorted(folder.glob("step-*.ckpt"))
    for name in ("step-best.ckpt", "step-999999999-good.ckpt"):
        shutil.copy(first, folder / name)
    assert resumed(run)[0] == last.name
    assert last_checkpoint(folder) == last


def test_a_checkpoint_of_something_else_is_one_line(run):
    """It is whole, so nobody knows before it is tried."""
    with pytest.raises(ValueError, match=f"{NEWEST} is no checkpoint of this run .*size mismatch.*; remove it") as told:
        small.run(run, 3, run / "checkpoints" / NEWEST, width=5)
    assert "\n" not in str(told.value)


def test_training_and_the_last_weights_read_nothing_that_has_changed(run):
    path = run / "checkpoints" / NEWEST
    assert set(final_weights(run, averaged=False)) == {"weight", "bias"}
    flip(path, 200)
    for read in (lambda: final_weights(run, averaged=False), lambda: small.run(run, 3, path)):
        with pytest.raises(DamagedError, match=f"{NEWEST} is damaged: its content does not agree with its digest; "):
            read()


def test_a_checkpoint_that_another_process_puts_out_of_the_way_is_not_there(run, monkeypatch):
    (run / "checkpoints" / "step-000000009.ckpt").symlink_to("gone")
    assert newest_checkpoint(run / "checkpoints").path == run / "checkpoints" / NEWEST
