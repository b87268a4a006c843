"""``convneur export``, and ``predict`` and ``eval`` with what it wrote."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import convneur.export
from convneur.data.photos import SAMPLES, sample_image
from convneur.export import check as checks
from convneur.export import load_exported
from convneur.outputs import OutputFile
from tests.cli.test_cli import call
from tests.export.builders import saved

CLASSES = ("one", "two", "three", "four", "five")
QUICK = ("--format", "torch", "--rounds", "0")


def refused(*arguments: str, exit_code: int = 2) -> str:
    """The one line that a verb ends with."""
    code, out, err = call(*arguments)
    assert (code, out, len(err.strip().splitlines())) == (exit_code, "", 1), err
    assert err.strip().startswith("convneur: ")
    return err


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("runs") / "mine", sorted(CLASSES))


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory) -> tuple[Path, dict, str]:
    """A file, and what was printed for programs and for people."""
    file = tmp_path_factory.mktemp("files") / "mine.pt2"
    code, out, err = call("export", str(folder), "--format", "torch", "--out", str(file), "--rounds", "2", "--json")
    assert code == 0, err
    return file, json.loads(out), err


@pytest.fixture(scope="module")
def fixed(folder, tmp_path_factory) -> Path:
    """For one size, by the name a file gets if none is given."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("fixed"))
    try:
        code, _, err = call("export", str(folder), *QUICK, "--no-dynamic", "--image-size", "40")
    finally:
        here = Path.cwd()
        os.chdir(before)
    assert code == 0, err
    return here / "runs" / "export" / "mine.pt2"


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Class folders, in each a few parts of the two sample photographs."""
    root = tmp_path_factory.mktemp("data") / "photos"
    for index, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for part in range(5):
            picture = sample_image(SAMPLES[part % 2])
            left, top = 90 * index, 40 * part
            picture.crop((left, top, left + 240, top + 200)).save(root / name / f"{part}.png")
    return root


def test_it_was_checked_and_timed_at_three_sizes_and_two_batches(exported):
    file, told, err = exported
    assert len({tuple(row["size"]) for row in told["rows"]}) == 3
    assert len({(*row["size"], row["batch"]) for row in told["rows"]}) == 6
    assert any(high != wide for high, wide in (row["size"] for row in told["rows"]))
    for row in told["rows"]:
        assert row["difference"] <= 1e-4
        for middle, low, high in (row["milliseconds"][name] for name in ("eager", "torch")):
            assert 0 < low <= middle <= high
    assert (told["file"], told["bytes"]) == (str(file), file.stat().st_size)
    assert "5 labels" in err
    assert "…" not in err, "the table fits a terminal of 80 columns"
    assert sorted(file.parent.iterdir()) == [file.parent / ".convneur-export-mine.pt2", file]


def test_predict_answers_as_with_the_model(exported, folder, photos):
    answers = []
    for model in (folder, exported[0]):
        given = ("--model", str(model), "--trust", "--format", "jsonl", "--top-k", "5")
        code, out, err = call("predict", str(photos), *given)
        assert code == 0, err
        answers.append([json.loads(line) for line in out.splitlines()])
    ours, theirs = answers
    assert len(ours) == 25
    assert {row["top"][0]["label"] for row in ours} <= set(CLASSES)
    for one, other in zip(ours, theirs, strict=True):
        assert one["file"] == other["file"]
        assert [each["label"] for each in one["top"]] == [each["label"] for each in other["top"]]
        assert [each["score"] for each in one["top"]] == pytest.approx([e["score"] for e in other["top"]], abs=1e-4)


@pytest.mark.slow
def test_eval_judges_as_with_the_model(exported, fixed, folder, photos, tmp_path):
    judged = {}
    for name, model in (("model", folder), ("file", exported[0]), ("fixed", fixed)):
        given = ("--model", str(model), "--trust", "--data", str(photos), "--out", str(tmp_path / name))
        code, _, err = call("eval", *given, "--workers", "0")
        assert code == 0, err
        judged[name] = json.loads((tmp_path / name / "metrics.json").read_text())
    assert judged["file"]["confusion"] == judged["model"]["confusion"]
    assert judged["file"]["loss"] == pytest.approx(judged["model"]["loss"], abs=1e-4)
    assert set(judged["file"]["top1_by_image_size"]) == {"32", "48"}, "24 px is less than the file takes"
    assert set(judged["fixed"]["top1_by_image_size"]) == {"40"}, "the file takes no other"


@pytest.mark.slow
def test_a_file_for_one_size(fixed, photos):
    assert load_exported(fixed, trust=True).config["input_size"] == [3, 40, 40]
    image = str(photos / "one" / "0.png")
    assert call("predict", image, "--model", str(fixed), "--trust")[0] == 0
    line = refused("predict", image, "--model", str(fixed), "--trust", "--image-size", "48")
    assert "48 x 48 px do not fit this file, which is for 40 x 40 px; leave --image-size out" in line


@pytest.mark.slow
def test_a_file_that_calls_our_operations_answers_as_the_model(folder, photos, tmp_path):
    file, image = tmp_path / "kept.pt2", str(photos / "one" / "0.png")
    code, _, err = call("export", str(folder), *QUICK, "--keep-ops", "--out", str(file))
    assert code == 0, err
    nodes = torch.export.load(file).graph.nodes
    assert any(str(node.target).startswith("convneur.") for node in nodes)
    answers = [call("predict", image, "--model", str(each), "--trust", "--format", "jsonl") for each in (file, folder)]
    scores = [[each["score"] for each in json.loads(out)["top"]] for _, out, _ in answers]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    line = refused("export", str(folder), *QUICK, "--out", str(file))
    assert "was made with another keep ops (true, now false)" in line


def test_images_too_small_for_a_file(exported, photos):
    line = refused("predict", str(photos), "--model", str(exported[0]), "--trust", "--image-size", "16")
    assert re.search(r"16 x 16 px are too small for this file; give at least \d+ x \d+", line)  # which depends on torch


def test_files_that_cannot_be_used(exported, photos, tmp_path):
    bad = tmp_path / "bad.pt2"
    bad.write_bytes(exported[0].read_bytes()[:5000])
    for verb in (["predict", str(photos)], ["eval", "--data", str(photos)]):
        line = refused(*verb, "--model", str(bad), "--trust")
        assert f"{bad} cannot be loaded" in line
        assert "export it again" in line
        line = refused(*verb, "--model", str(tmp_path / "none.onnx"))
        assert "none.onnx does not exist; give a file that convneur export wrote" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convneur_m9"], "did you mean 'convneur_m"),
        (["no/such/run"], "is neither a folder nor a model of timm; give the folder of a trained model"),
        (["{model}", "--out", "model.onnx", "--format", "torch"], "its name should end in .pt2"),
        (["{model}", "--out", "model.aoti.pt2", "--format", "torch"], "its name should end in .pt2"),
        (["{model}", "--out", "model"], "its name should end in .onnx"),
        (["no/such/run", "--out", "{model}/config.json/m.onnx"], "config.json/m.onnx is a file; give a folder"),
        (["{model}", "--keep-ops"], "--keep-ops is for --format torch, and not for onnx"),
        (["{model}", "--rounds", "-1"], "--rounds must be 0 or more"),
        (["{model}", "--image-size", "0"], "--image-size 1 or more"),
        (["{model}", "--image-size", "4", "--no-dynamic"], "give at least 8 x 8"),
        (["{model}", "--image-size", "16"], "takes images from "),
        (["{model}", "--images", "no.jpg"], "no.jpg does not exist; give image files, folders or globs"),
        (["{model}", "--images", "{model}/config.json"], "config.json cannot be read (not an image"),
    ],
)
def test_what_is_refused(arguments, message, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused("export", *(each.format(model=folder) for each in arguments))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_unknown_format_names_those_there_are(folder):
    code, _, err = call("export", str(folder), "--format", "tflite")
    assert code == 2
    assert "Traceback" not in err
    assert all(name in err for name in convneur.export.FORMATS)


def test_what_is_not_installed(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for package, format, fix in [
        ("onnxscript", "onnx", "pip install 'convneur[onnx]'"),
        ("openvino", "openvino", "pip install 'convneur[onnx,openvino]'"),
    ]:
        with monkeypatch.context() as without:
            without.setitem(sys.modules, package, None)
            assert fix in refused("export", str(folder), "--format", format)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "sklearn.datasets", None)
        assert "pip install 'convneur[train]', or give --images" in refused("export", str(folder))
    with monkeypatch.context() as without:
        without.setenv("CXX", "/no/such/compiler")
        assert "needs a C++ compiler; install g++" in refused("export", str(folder), "--format", "aoti")


@pytest.mark.slow
def test_a_wrong_export_is_taken_away(folder, tmp_path, monkeypatch):
    export = convneur.export.export_model

    def export_another(model, *rest):
        another = copy.deepcopy(model)
        with torch.no_grad():
            another.stages[1].blocks[0].gamma.add_(0.01)
        return export(another, *rest)

    monkeypatch.setattr("convneur.export.checked.export_model", export_another)
    line = refused("export", str(folder), *QUICK, "--out", str(tmp_path / "model.pt2"))
    assert "differs from PyTorch by" in line
    assert "it was not kept; try another --format" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_ctrl_c_leaves_what_was_there(folder, tmp_path, monkeypatch):
    batches = checks.photo_batches

    def stopped(*arguments):
        yield next(batches(*arguments))
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(checks, "photo_batches", stopped)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    file = tmp_path / "model.pt2"
    with OutputFile([file], "export") as target:  # as another export
        target.check({"model": "another"})
        file.write_text("old")
        target.finish()
    assert "stopped" in refused("export", str(folder), *QUICK, "--out", str(file), "--overwrite", exit_code=130)
    assert file.read_text() == "old"
    assert "was made with another model" in refused("export", str(folder), *QUICK, "--out", str(file))
    assert len(list(tmp_path.iterdir())) == 2, "the file and its note"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_one_line_and_leaves_nothing(folder, tmp_path):
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(tmp_path)], check=False)
    if mount.returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        line = refused("export", str(folder), *QUICK, "--out", str(tmp_path / "model.pt2"))
        assert "No space left on device" in line
        assert "free some space" in line
        assert not list(tmp_path.iterdir())
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.slow
@pytest.mark.data
def test_a_whole_variant_on_other_photographs(data_dir, tmp_path):
    images = sorted(map(str, (data_dir / "camvid").rglob("*.jpg")))[:3]
    assert len(images) == 3
    file = tmp_path / "m1.onnx"
    code, out, err = call("export", "convneur_m1", "--out", str(file), "--rounds", "0", "--json", "--images", *images)
    assert code == 0, err
    assert "no trained weights" in err
    rows = json.loads(out)["rows"]
    assert max(row["difference"] for row in rows) <= 1e-4
    assert min(row["scale"] for row in rows) > 1e-2
    assert load_exported(file).config["input_size"] == [3, 224, 224]
