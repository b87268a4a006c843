"""train, eval and predict as people use them, on a folder with every odd file."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

import convneur  # noqa: F401  registers the models with timm
from convneur.data.decode import decode_image
from convneur.data.transforms import Preprocessing, eval_transform
from convneur_command.main import main
from tests.data import files

QUICK = "--image-size 32 --eval-size 0 --epochs 1 --batch-size 8 --workers 0 --fit.accelerator cpu".split()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return files.odd_folder(tmp_path_factory.mktemp("data") / "photos", good=20)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, photos):
    """A run on a folder in which four files cannot be read, and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "run"
    command = [sys.executable, "-m", "convneur", "train", "--data", str(photos), "--out", str(out), *QUICK]
    done = subprocess.run(
        [*command, "--max-unreadable", "0.2"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out, done


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    """Run a verb in this process."""
    capsys.readouterr()
    try:
        code = main(list(arguments))
    except SystemExit as stop:  # the parser's own way to leave
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_train_writes_model_numbers_and_report(trained, photos):
    out, done = trained
    assert "top-1 accuracy" in done.stdout
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    numbers = json.loads((out / "metrics.json").read_text())
    assert {name.rsplit("/", 1)[-1] for name in numbers["unreadable"]} == set(files.UNREADABLE)
    assert numbers["command"].startswith("convneur train --data")
    assert len(numbers["curve"]) == 1
    assert set(numbers["top1_by_image_size"]) == {"32", "48"}
    page = (out / "report.html").read_text()
    for words in ("Confusion matrix", "Learning curves", "Calibration", "Gates", "Unreadable files", "bomb.png"):
        assert words in page
    assert not re.search("https?:", page)  # pictures in base64 may spell anything but the colon
    kept = json.loads((out / "split.json").read_text())
    assert len(kept["train"]) + len(kept["val"]) == 48
    assert json.loads((out / "run.json").read_text())["recipe"]["image_size"] == 32
    assert sorted(p.name for p in (out / "model").iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_the_model_loads_where_only_timm_and_convneur_are(trained, photos):
    """Lightning, torchmetrics and the like are made impossible to import; answers are the same as here."""
    out, _ = trained
    picture = photos / "blue" / "3.png"
    code = f"""
import sys
for name in ("lightning", "pytorch_lightning", "torchmetrics", "sklearn", "matplotlib", "pyarrow", "tensorboard"):
    sys.modules[name] = None
import timm, convneur, torch
from PIL import Image
model = timm.create_model("local-dir:{out / "model"}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
with torch.inference_mode():
    scores = model(transform(Image.open("{picture}").convert("RGB"))[None]).softmax(1)[0]
print(model.pretrained_cfg["label_names"], *scores.tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("['blue', 'red']")
    model = timm.create_model(f"local-dir:{out / 'model'}", pretrained=True).eval()
    image = eval_transform(Preprocessing.of(model.pretrained_cfg))(decode_image(picture))
    with torch.inference_mode():
        here = model(image[None]).softmax(1)[0]
    there = torch.tensor([float(x) for x in done.stdout.split()[-2:]])
    torch.testing.assert_close(here, there)


def test_predict_names_files_folders_and_globs(trained, photos, capsys):
    out, _ = trained
    code, stdout, stderr = call(
        capsys,
        "predict",
        str(photos / "red"),
        str(photos / "blue" / "1*.png"),
        "--model",
        str(out),
        "--format",
        "jsonl",
    )
    rows = [json.loads(line) for line in stdout.splitlines()]
    assert code == 0
    assert len(rows) == 20 + len(files.READABLE) + 11
    assert all(len(row["top"]) == 2 and row["top"][0]["score"] >= row["top"][1]["score"] for row in rows)
    assert sum(row["top"][0]["score"] + row["top"][1]["score"] for row in rows) == pytest.approx(len(rows), abs=1e-4)
    for name in files.UNREADABLE:
        assert stderr.count(name) == 1
    for name in files.READABLE:
        assert any(row["file"].endswith(name) for row in rows)


def test_predict_as_table_and_csv(trained, photos, capsys):
    out, _ = trained
    picture = str(photos / "blue" / "0.png")
    code, table, _ = call(capsys, "predict", picture, "--model", str(out), "--top-k", "1")
    assert code == 0
    assert "%" in table
    code, text, _ = call(capsys, "predict", picture, "--model", str(out / "model"), "--format", "csv", "--top-k", "2")
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0] == ["file", "label1", "score1", "label2", "score2"]
    assert rows[1][0] == picture
    assert {rows[1][1], rows[1][3]} == {"blue", "red"}


def test_predict_fails_only_if_nothing_can_be_read(trained, photos, capsys):
    out, _ = trained
    bad = str(photos / "red" / "text.png")
    assert call(capsys, "predict", bad, "--model", str(out))[0] == 2
    assert call(capsys, "predict", bad, str(photos / "red" / "0.png"), "--model", str(out))[0] == 0
    small = call(capsys, "predict", str(photos / "red" / "0.png"), "--model", str(out), "--max-megapixels", "0.001")
    assert small[0] == 2
    assert "more than the limit of 0.001 megapixels" in small[2]


def test_eval_judges_as_training_did(trained, photos, tmp_path, capsys):
    out, _ = trained
    code, stdout, stderr = call(
        capsys, "eval", "--model", str(out), "--data", str(photos), "--out", str(tmp_path), "--workers", "0"
    )
    assert code == 0, stderr
    assert "calibration" in stdout
    before, after = (json.loads((folder / "metrics.json").read_text()) for folder in (out, tmp_path))
    assert before["confusion"] == after["confusion"]
    for key in ("top1", "top5", "loss", "calibration_error", "top1_by_image_size"):
        assert before[key] == pytest.approx(after[key]), key
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_eval_judges_all_images_that_no_run_is_known_to_have_seen(trained, tmp_path, capsys):
    out, _ = trained
    files.odd_folder(tmp_path / "other", good=10)
    for path in [path for path in (tmp_path / "other").rglob("*.*") if path.is_file()]:
        path.rename(path.with_name(f"new-{path.name}"))
    counts = {}
    for name, flags in (("all", []), ("share", ["--val-share", "0.5"]), ("seed", ["--seed", "1"])):
        arguments = ["--data", str(tmp_path / "other"), "--out", str(tmp_path / name), "--workers", "0", *flags]
        code, _, err = call(capsys, "eval", "--model", str(out), *arguments)
        assert code == 0, err
        assert ("images are judged by; --val-share judges by a share" in err) == (name == "all")
        numbers = json.loads((tmp_path / name / "metrics.json").read_text())
        counts[name] = numbers["images"] + len(numbers["unreadable"])
    every = sum(1 for path in (tmp_path / "other").rglob("*") if path.is_file() and path.suffix != ".txt")
    assert counts["all"] == every
    assert every > counts["share"] > counts["seed"]


@pytest.mark.parametrize(("rate", "epochs"), [("1e9", "2"), ("1e30", "1")])
def test_a_training_that_diverges_says_so_and_keeps_what_was_good(photos, tmp_path, capsys, rate, epochs):
    out = tmp_path / "run"
    arguments = ["--data", str(photos), "--out", str(out), *QUICK, "--max-unreadable", "0.2", "--epochs", epochs]
    code, _, err = call(capsys, "train", *arguments, "--optim.lr", rate)
    assert code == 2
    assert re.search(r"convneur: the training has diverged by step \d+; give a lower --optim.lr", err), err
    assert "Traceback" not in err
    for checkpoint in (out / "checkpoints").glob("*"):
        weights = torch.load(checkpoint, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in weights.values())


def test_a_model_that_has_diverged_names_no_image(trained, photos, tmp_path, capsys):
    out, _ = trained
    shutil.copytree(out / "model", tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    save_file({name: value * torch.nan for name, value in weights.items()}, tmp_path / "model" / "model.safetensors")
    for verb in (["predict", str(photos)], ["eval", "--data", str(photos), "--out", str(tmp_path / "eval")]):
        code, out_, err = call(capsys, *verb, "--model", str(tmp_path / "model"), "--workers", "0")
        assert code == 2
        assert "its training diverged; train with a lower --optim.lr" in err
        assert not out_
    assert not (tmp_path / "eval" / "metrics.json").exists()


def test_finetune_from_our_own_weights(trained, tmp_path, capsys):
    out, _ = trained
    files.odd_folder(tmp_path / "other", good=10)
    for path in (tmp_path / "other" / "red").glob("*"):
        path.unlink() if path.name in files.UNREADABLE else None
    arguments = ["--data", str(tmp_path / "other"), "--weights", str(out), "--out", str(tmp_path / "run"), *QUICK]
    code, _, err = call(capsys, "train", "--recipe", "finetune", *arguments)
    assert code == 0, err
    code, _, err = call(
        capsys, "train", "--recipe", "finetune", "--model", "convneur_m2", *arguments, "--out", str(tmp_path / "x")
    )
    assert code == 2
    assert "of another variant or memory than --model convneur_m2" in err


@pytest.mark.slow
def test_finetune_from_a_convnext_file(photos, tmp_path, capsys):
    """The model that comes of it is of the right variant; another --model is refused with the name to give."""
    theirs = timm.create_model("convnext_femto", num_classes=5)
    torch.save(theirs.state_dict(), tmp_path / "femto.pth")
    arguments = ["--data", str(photos), "--weights", str(tmp_path / "femto.pth"), "--max-unreadable", "0.2", *QUICK]
    code, _, err = call(capsys, "train", "--recipe", "finetune", *arguments, "--out", str(tmp_path / "a"))
    assert code == 2
    assert "are of convneur_m2; add --model" in err
    arguments += ["--model", "convneur_m2", "--out", str(tmp_path / "a")]  # what failed left nothing in the way
    code, _, err = call(capsys, "train", "--recipe", "finetune", *arguments)
    assert code == 0, err
    kept = json.loads((tmp_path / "a" / "model" / "config.json").read_text())
    assert kept["architecture"] == "convneur_m2"
    assert kept["label_names"] == ["blue", "red"]


def test_weights_that_cannot_be_downloaded_may_be_given_as_a_file(tmp_path, capsys, monkeypatch):
    def fail(*_args, **_kwargs):
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr("timm.models._builder.load_pretrained", fail)
    arguments = ["--data", "digits", "--weights", "convnext_pico.d1_in1k", "--model", "convneur_m3", *QUICK]
    code, _, err = call(capsys, "train", *arguments, "--out", str(tmp_path / "run"))
    assert code == 2
    assert re.fullmatch(r"convneur: convnext_pico.d1_in1k .*\(no network\).* \(--weights file.safetensors\)\n", err)


def test_images_that_were_added_since_are_noticed(trained, photos, capsys):
    out, _ = trained
    new = photos / "blue" / "new.png"
    new.write_bytes(files.encoded(files.plain(), "PNG"))
    arguments = ["train", "--data", str(photos), "--out", str(out), *QUICK, "--max-unreadable", "0.2", "--resume"]
    try:
        code, _, err = call(capsys, *arguments)
    finally:
        new.unlink()
    assert code == 2
    assert "was begun with images.train 38 (now 39)" in err


def test_bad_input_is_one_line_and_exit_code_2(trained, photos, tmp_path, capsys):
    out, _ = trained
    (tmp_path / "one" / "red").mkdir(parents=True)
    (tmp_path / "one" / "red" / "0.png").write_bytes(files.encoded(files.plain(), "PNG"))
    (tmp_path / "damaged" / "checkpoints").mkdir(parents=True)
    (tmp_path / "damaged" / "run.json").write_text((out / "run.json").read_text())
    (tmp_path / "damaged" / "checkpoints" / "step-000000001.ckpt").write_bytes(b"PK half")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    (tmp_path / "file").write_text("")
    new = ["--out", str(tmp_path / "new")]
    again = ["--data", str(photos), *QUICK, "--max-unreadable", "0.2"]
    for arguments, message in [
        (["train", "--data", str(tmp_path / "absent"), *new], "does not exist; give a folder"),
        (["train", "--data", str(tmp_path / "one"), "--out", str(tmp_path / "n1")], "only one class, 'red'"),
        (
            ["train", *again, "--fit.devices", "39", "--out", str(tmp_path / "n2")],
            "a batch of 8 in each of 39 processes is larger than the set of 38 images; give a smaller --batch-size, or",
        ),
        (["train", *again, "--max-unreadable", "0.01", "--out", str(tmp_path / "n3")], "raise --max-unreadable"),
        (["train", *again, "--batch-size", "7", "--augment.mixup", "0.1", "--out", str(tmp_path / "n6")], "is odd"),
        (["train", *again, "--model", "convneur_m9", "--out", str(tmp_path / "n4")], "did you mean 'convneur_m"),
        (
            ["train", *again, "--seed", "9", "--out", str(out)],
            "holds a run already, begun with --seed 0 (now 9); add --overwrite to replace it",
        ),
        (["train", *again, "--resume", "--overwrite", "--out", str(out)], "give one of them"),
        (["train", *again, "--out", str(out), "--resume", "--model", "convneur_m2"], "begun with --model convneur_m1"),
        (["train", *again, "--out", str(tmp_path / "nothing"), "--resume"], "no run to go on with"),
        (["train", *again, "--out", str(tmp_path / "file")], "is a file; give a folder"),
        (["train", *again, "--optim.lr", "-1", "--out", str(tmp_path / "n7")], "--optim.lr -1.0 is out of range"),
        (["train", *again, "--optim.clip-grad", "nan", "--out", str(tmp_path / "n8")], "--optim.clip-grad nan is out"),
        (["train", *again, "--out", str(tmp_path / "damaged"), "--resume"], "only damaged checkpoints"),
        (["train", *again, "--weights", str(tmp_path / "absent.pth"), "--out", str(tmp_path / "n5")], "neither a file"),
        (["eval", "--model", str(tmp_path / "absent"), "--data", "digits"], "neither a folder nor a model"),
        (["eval", "--model", str(tmp_path / "broken"), "--data", "digits"], "cannot be loaded"),
        (["eval", "--model", str(out), "--data", str(photos), "--out", str(out)], "holds a training run, which would"),
        (["demo", "--epochs", "1", "--out", str(out)], "holds a training run, which would be written over"),
        (["eval", "--model", str(out), "--data", "digits"], "the classes blue, red and the data has 0, 1, 2"),
        (["predict", str(tmp_path / "absent.jpg"), "--model", str(out)], "does not exist; give image files"),
        (["predict", "https://host/a.jpg", "--model", str(out)], "download it first"),
        (["predict", str(tmp_path / "damaged"), "--model", str(out)], "holds no images"),
        (["predict", str(photos), "--model", str(tmp_path / "one")], "holds no model"),
        (["predict", str(photos), "--model", "convneur_m9"], "of timm; did you mean 'convneur_m"),
        (["predict", str(photos), "--model", "convneur_m1"], "weights of convneur_m1; train one (convneur train)"),
        (["eval", "--model", "convneur_m1", "--data", "digits"], "weights of convneur_m1; train one (convneur train)"),
        (
            ["predict", str(photos), "--model", str(out), *new],
            "a classifier makes none; leave it out (convneur predict --format csv",
        ),
        (["predict", str(photos), "--model", str(out), "--score", "0.5"], "--score means nothing to a classifier"),
        (["predict", str(photos), "--model", str(out), "--flip"], "--flip means nothing to a classifier"),
        (["push", str(tmp_path), "someone/name"], "lacks config.json"),
    ]:
        code, _, err = call(capsys, *arguments)
        # Before the last line there may be what was found, a progress bar, and the name of a damaged checkpoint.
        found = ("data: ", "to train on: ", "convneur_m1, preset ")
        lines = [line for line in err.strip().splitlines() if not line.startswith(found)]
        told = ("damaged and was passed over", "optimizer steps in all are few")
        *before, line = [line for line in lines if not any(each in line for each in told)]
        assert code == 2, arguments
        assert len(before) == ("images/s" in err or "0%" in err), (arguments, err)
        assert message in line, (arguments, err)
    assert call(capsys, "train", "--data", "digits", "--recipe", "qick")[0] == 2


@pytest.mark.slow
def test_a_compiled_model_is_trained(tmp_path, capsys):
    small = "--backbone.dims 8 --backbone.depths 1 --backbone.memory-width 8 --recipe quick --image-size 32".split()
    few = "--train-images 200 --batch-size 100 --epochs 1 --workers 0 --fit.accelerator cpu".split()
    arguments = ["train", "--data", "digits", *small, *few, "--out", str(tmp_path / "run"), "--compile"]
    code, _, err = call(capsys, *arguments)
    assert code == 0, err
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["curve"][0]["loss"] > 0


def test_what_cannot_be_compiled_is_refused_before_anything_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    absent = ["--data", str(tmp_path / "absent"), "--out", str(tmp_path / "run"), "--compile"]
    code, _, err = call(capsys, "train", *absent, "--fit.accelerator", "cpu")
    assert code == 2
    assert err.startswith("convneur: --compile needs a C++ compiler on a CPU; install g++")
    assert err.count("\n") == 1
    for task in ("segmentation", "detection", "instance"):
        code, _, err = call(capsys, "train", task, *absent)
        assert code == 2
        assert "unrecognized or misplaced options: --compile; " in err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, photos):
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(tmp_path)], check=False)
    if mount.returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    out = tmp_path / "run"
    command = [sys.executable, "-m", "convneur", "train", "--data", str(photos), "--out", str(out), *QUICK]
    try:
        done = subprocess.run(
            [*command, "--epochs", "3", "--max-unreadable", "0.2"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert "No space left on device" in done.stderr.strip().splitlines()[-1]
        names = [path.name for path in (out / "checkpoints").iterdir()]
        assert len(names) == 1
        assert names[0].startswith("step-")
        torch.load(out / "checkpoints" / names[0], weights_only=True)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
