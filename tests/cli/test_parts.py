"""Parts and files that are left out, as a user meets them."""

import json
import shutil

import pytest
from PIL import Image

from convneur.models import save_model
from convneur_command.main import main
from tests.data import formats
from tests.data.semantic.builders import write_scenes
from tests.embedding import builders
from tests.models.builders import create
from tests.training.runs import SMALL_DETECTOR, SMALL_SEGMENTER

SMALL = ("--epochs", "1", "--batch-size", "4", "--image-size", "32", "--workers", "0", "--ema", "0")
TINY = ("--backbone.dims", "8", "8", "8", "8", "--backbone.depths", "1", "1", "1", "1", "--fit.accelerator", "cpu")
CLASSIFIER = {"dims": (8, 12, 16, 24), "depths": (1, 1, 1, 1), "memory_width": 16, "num_classes": 3}


@pytest.mark.slow
def test_a_classifier_is_judged_by_what_was_held_out_and_by_test_when_it_is_asked_for(tmp_path, capsys):
    """The usual names on data sites, with capitals."""
    formats.class_folders(tmp_path / "data", {"Training": 20, "Testing": 6})
    run = str(tmp_path / "run")
    assert main(["train", "--data", str(tmp_path / "data"), "--out", run, *SMALL, *TINY]) in (0, None)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["images"]["classes"] == ["a", "b"]
    for part, images in (("val", 4), ("test", 6)):
        out = tmp_path / part
        arguments = ["eval", "--model", run, "--data", str(tmp_path / "data"), "--part", part, "--out", str(out)]
        assert main([*arguments, "--workers", "0"]) in (0, None)
        assert json.loads((out / "metrics.json").read_text())["images"] == images


@pytest.mark.slow
def test_a_classifier_learns_from_a_csv_file_and_is_judged_by_another(tmp_path, capsys):
    formats.label_list(tmp_path / "data", {"train": 20, "valid": 6})
    formats.label_list(tmp_path / "other", {"test": 4})
    run = str(tmp_path / "run")
    arguments = ["train", "--data", str(tmp_path / "data" / "labels.csv"), "--out", run]
    assert main([*arguments, *SMALL, *TINY]) in (0, None)
    assert "to train on: 20 images; to judge by: 6 images (split valid)" in capsys.readouterr().err
    for data, part, images in (("data", "val", 6), ("other", "test", 4)):
        out = tmp_path / f"out {data}"
        arguments = ["eval", "--model", run, "--data", str(tmp_path / data / "labels.csv"), "--part", part]
        assert main([*arguments, "--out", str(out), "--workers", "0"]) in (0, None)
        assert json.loads((out / "metrics.json").read_text())["images"] == images


def test_predict_and_embed_name_pictures_that_they_do_not_read(tmp_path, capsys):
    model = str(builders.saved_model(tmp_path / "model"))
    for name in ("a.png", "b.nef", "c.svg", "._d.png", ".ipynb_checkpoints/a.png"):
        formats.write(tmp_path / "photos" / name, formats.PNG)
    told = "2 files look like images of a kind that is not read and were left out (1 .nef, 1 .svg)"
    assert main(["predict", str(tmp_path / "photos"), "--model", model, "--format", "csv", "--image-size", "64"]) == 0
    shown = capsys.readouterr()
    assert told in shown.err
    assert len(shown.out.splitlines()) == 2
    arguments = ["embed", str(tmp_path / "photos"), "--model", model, "--out", str(tmp_path / "out")]
    assert main([*arguments, "--image-size", "64", "--workers", "0"]) in (0, None)
    shown = capsys.readouterr()
    assert told in shown.err
    assert "1 embeddings" in shown.out
    (tmp_path / "photos" / "a.png").unlink()
    assert main(["predict", str(tmp_path / "photos"), "--model", model]) == 2
    assert "holds no images" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["folder", "parquet", "shards"])
def test_images_of_one_of_the_classes_are_judged_and_the_others_named(kind, tmp_path, capsys):
    save_model(create("convneur_m1", **CLASSIFIER), tmp_path / "model", CLASSIFIER, ["cat", "dog", "owl"])
    data = tmp_path / "data"
    formats.write(data / "folder" / "cat" / "a.png")
    (data / "folder" / "owl").mkdir()
    formats.table(data / "parquet" / "some.parquet", ["cat", "cat"])
    formats.tar(data / "shards" / "val-0.tar", formats.samples([0, 0]))
    (data / "shards" / "classes.txt").write_text("cat\ndog\nowl\n")
    spec = f"wds:{data / kind}" if kind == "shards" else str(data / kind)
    command = ["eval", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--workers", "0"]
    assert main([*command, "--image-size", "32", "--data", spec]) == 0
    said = capsys.readouterr()
    assert "dog, owl" in said.err
    assert "nan" not in said.out + said.err
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [name for name, share in numbers["per_class"].items() if share is not None] == ["cat"]
    # the same place, spelled otherwise
    again = spec.replace(str(data), f"{data}/../data/.") + "/"
    assert main([*command, "--image-size", "32", "--data", again]) == 0
    assert "finished" in capsys.readouterr().err


@pytest.mark.parametrize("options", [(), ("--val-share", "0.5"), ("--seed", "3")], ids=" ".join)
@pytest.mark.parametrize("part", ["val", pytest.param("test", marks=pytest.mark.slow)])
def test_data_without_images_to_train_on_is_judged_whole(part, options, tmp_path, capsys):
    save_model(create("convneur_m1", **CLASSIFIER), tmp_path / "model", CLASSIFIER, ["a", "b", "0"])
    formats.class_folders(tmp_path / "data", {part: 4})
    command = ["eval", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--workers", "0"]
    command += ["--image-size", "32", "--data", str(tmp_path / "data"), *options]
    assert main([*command, "--part", part]) == 0
    assert "--val-share" not in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["images"] == 4
    if part == "test":
        assert main([*command, "--overwrite"]) == 2
        assert "have eval judge by --part test" in capsys.readouterr().err
    assert main(["train", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), *SMALL, *TINY]) == 2
    assert "has no part train" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("val", [0, 4], ids=["no validation", "--hold-out"])
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_share_of_the_training_images_is_held_out_in_every_task(task, val, tmp_path, capsys):
    """Where there is nothing to judge by, or where it is asked for; eval judges by nothing that was learned from."""
    data, options = tmp_path / "data", SMALL_SEGMENTER
    if task == "detection":
        formats.yolo(data, {"train": 10, "val": val} if val else {"train": 10})
        for number, path in enumerate(sorted(data.rglob("*.png"))):  # what equals a learned image is not judged
            Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
        data, options = data / "data.yaml", SMALL_DETECTOR
    else:
        write_scenes(data, 10, val)
        if not val:
            shutil.rmtree(data / "val")
    run, out, hold_out = str(tmp_path / "run"), tmp_path / "out", ["--hold-out"] if val else []
    train = ["train", task, "--data", str(data), "--out", run, "--val-share", "0.3", "--seed", "2", *hold_out]
    assert main([*train, *options, "--epochs", "1", "--workers", "0", "--ema", "0"]) == 0
    assert "to judge by: 3 images" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["images"] == 3
    assert main(["eval", "--model", run, "--data", str(data), "--out", str(out), "--workers", "0"]) == 0
    assert ("3 of 10 images are judged by" in capsys.readouterr().err) == (not val)
    assert json.loads((out / "metrics.json").read_text())["images"] == (val or 3)
