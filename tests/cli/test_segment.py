"""train segmentation, and eval and predict with what it gives, as people use them."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import convneur
from convneur.models import save_model
from convneur.tasks.segmentation import load_segmenter
from convneur.tasks.segmentation.inference import segment
from convneur_options.segmentation import Inference
from tests.cli.test_classify import call
from tests.data.semantic.builders import CLASSES, COLOURS, scene, write_scenes
from tests.training.runs import SMALL_SEGMENTER

SMALL = [*SMALL_SEGMENTER, "--workers", "0"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Nine scenes; one mask has a number that is no class, one is of another size."""
    root = write_scenes(tmp_path_factory.mktemp("data") / "scenes")
    odd, other = (root / "train" / "masks" / name for name in ("1.png", "2.png"))
    labels = scene(1)[1]
    labels[10:12, 10:12] = 77
    Image.fromarray(labels).save(odd)
    Image.fromarray(labels[:30]).save(other)
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory, scenes):
    from convneur_command.main import main

    out = tmp_path_factory.mktemp("runs") / "run"
    learn = "--epochs 20 --optim.lr 5e-3 --ema 0 --fit.evaluate-every 10".split()
    assert main(["train", "segmentation", "--data", str(scenes), "--out", str(out), *SMALL, *learn]) == 0
    return out


def test_train_writes_model_numbers_and_report(trained):
    numbers = json.loads((trained / "metrics.json").read_text())
    assert numbers["model"] == "Semantic FPN with convneur_m1"
    assert numbers["images"] == 3
    assert set(numbers["iou"]) == set(CLASSES)
    assert numbers["miou"] > 0.5
    assert np.array(numbers["confusion"]).sum() == 3 * (64 * 96 - 36)
    assert [row["epoch"] for row in numbers["curve"] if "miou" in row] == [10, 20]
    assert {name.rsplit("/", 1)[-1] for name in numbers["unreadable"]} == {"2.png"}
    page = (trained / "report.html").read_text()
    for words in ("Learning curves", "Per class", "Confusion matrix", "Worst images", "its image 96 x 64", "disc"):
        assert words in page
    assert sorted(p.name for p in (trained / "model").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert "Mean intersection over union" in (trained / "model" / "README.md").read_text()


def test_eval_says_the_same_as_training(trained, scenes, tmp_path, capsys):
    arguments = ["eval", "--model", str(trained), "--data", str(scenes), "--workers", "0"]
    code, stdout, stderr = call(capsys, *arguments, "--out", str(tmp_path / "same"))
    assert code == 0, stderr
    assert "mIoU" in stdout
    before, after = (json.loads((out / "metrics.json").read_text()) for out in (trained, tmp_path / "same"))
    assert before["confusion"] == after["confusion"]
    code, _, stderr = call(capsys, *arguments, "--out", str(tmp_path / "other"), "--flip", "--scales", "1.0", "1.5")
    assert code == 0, stderr
    other = json.loads((tmp_path / "other" / "metrics.json").read_text())
    assert other["confusion"] != before["confusion"]


def test_what_means_nothing_to_it_is_refused(trained, scenes, tmp_path, capsys):
    arguments = ["predict", str(scenes), "--model", str(trained), "--out", str(tmp_path), "--score", "0.5"]
    code, _, stderr = call(capsys, *arguments)
    assert code == 2
    assert stderr == "convneur: --score means nothing to a segmentation model, which this model is; leave it out\n"


@pytest.mark.parametrize("tiles", [[], ["--window", "48"]])
def test_predict_marks_images(trained, scenes, tmp_path, capsys, tiles):
    (tmp_path / "bad.png").write_bytes(b"nothing")
    images = [str(scenes / "val" / "images"), str(tmp_path / "bad.png")]
    arguments = ["predict", *images, "--model", str(trained), "--out", str(tmp_path / "out"), *tiles]
    code, stdout, stderr = call(capsys, *arguments, "--format", "jsonl")
    assert code == 0
    assert stderr.count("could not be read") == 1
    rows = [json.loads(line) for line in stdout.splitlines()]
    assert len(rows) == 3
    saved = load_segmenter(trained)
    how = Inference(window=48, margin=12) if tiles else Inference()
    for row in rows:
        picture = np.array(Image.open(row["file"]))
        mask = Image.open(row["mask"])
        labels = np.array(mask)
        assert mask.mode == "P"
        pixels = torch.from_numpy(picture).permute(2, 0, 1)
        assert np.array_equal(labels, segment(saved.model, pixels, how, torch.device("cpu")).numpy())
        assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-4)
        shown = np.array(Image.open(row["overlay"])).astype(float)
        height, width = picture.shape[:2]
        assert shown.shape[0] > height, "there is a legend below"
        shown = shown[:height, :width]
        colours = np.array(mask.convert("RGB"))
        assert np.abs(shown - (0.4 * picture + 0.6 * colours)).mean() < 6  # JPEG
    assert (tmp_path / "out" / "classes.txt").read_text().split() == list(CLASSES)
    code, stdout, _ = call(capsys, *arguments, "--format", "csv")
    assert stdout.splitlines()[0] == "file,class,share"
    code, stdout, _ = call(capsys, *arguments)
    assert "ground" in stdout


def test_masks_that_are_odd_are_refused_if_asked(scenes, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(scenes, root)
    arguments = ["train", "segmentation", "--data", str(root), *SMALL, "--strict"]
    code, _, stderr = call(capsys, *arguments, "--out", str(tmp_path / "a"))
    assert code == 2
    assert "masks/1.png: the number 77 is no class (4 pixels)" in stderr or "masks/2.png: the mask has" in stderr
    (root / "train" / "masks" / "1.png").unlink()
    code, _, stderr = call(capsys, *arguments, "--out", str(tmp_path / "b"))
    assert code == 2
    assert "have no mask" in stderr
    assert "1.png" in stderr


def test_unknown_labels_in_held_out_masks_are_counted(trained, scenes, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(scenes, root)
    copied = (scenes / "train" / "images" / "1.png").read_bytes()
    (root / "val" / "images" / "1.png").write_bytes(copied + b" ")  # or it would be known as one that was learned from
    shutil.copy(scenes / "train" / "masks" / "1.png", root / "val" / "masks" / "1.png")
    out = tmp_path / "out"
    arguments = ["eval", "--model", str(trained), "--data", str(root), "--workers", "0", "--out", str(out)]
    code, stdout, stderr = call(capsys, *arguments)
    assert code == 0, stderr
    assert "1 masks have pixels of no class" in stdout
    assert list(json.loads((out / "metrics.json").read_text())["unknown_labels"].values()) == [4]
    assert "Masks with unknown labels" in (out / "report.html").read_text()


def test_classes_without_a_pixel_to_judge_by_are_named(trained, scenes, tmp_path, capsys):
    root, first = tmp_path / "data", CLASSES[0]
    shutil.copytree(scenes / "val", root / "val")
    shutil.copy(next(scenes.glob("classes.*")), root)
    for path in (root / "val" / "masks").iterdir():
        Image.fromarray(np.zeros_like(np.asarray(Image.open(path)))).save(path)
    arguments = ["eval", "--model", str(trained), "--data", str(root), "--workers", "0", "--out", str(tmp_path / "out")]
    code, stdout, stderr = call(capsys, *arguments)
    assert code == 0, stderr
    assert f"classes that the data does not have: {', '.join(name for name in CLASSES if name != first)};" in stderr
    assert "nan" not in stdout + stderr


@pytest.mark.slow
def test_colours_a_run_of_another_task_and_the_baseline(scenes, tmp_path, capsys):
    """Masks of colours; weights of a classifier; no memory; U-Net with all losses on."""
    root = tmp_path / "data"
    shutil.copytree(scenes, root)
    rows = "".join(f"{name},{r},{g},{b}\n" for name, (r, g, b) in zip(CLASSES, COLOURS, strict=True))
    (root / "classes.csv").write_text("name,r,g,b\n" + rows)
    for file in root.glob("*/masks/*.png"):
        labels = np.array(Image.open(file))
        Image.fromarray(np.concatenate([COLOURS, np.zeros((253, 3), np.uint8)])[labels]).save(file)
    tiny = {"dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "memory_width": 16, "global_placement": "none"}
    classifier = convneur.create_model("convneur_m1", num_classes=4, **tiny)
    save_model(classifier, tmp_path / "classifier", tiny | {"num_classes": 4})
    arguments = ["train", "segmentation", "--decoder", "unet", "--data", str(root), *SMALL, "--decoder-channels", "0"]
    changes = "--epochs 1 --ema 0 --optim.lr 1e-12 --loss.dice 0.5 --loss.hard 0.5 --backbone.global-placement none"
    weights = ["--weights", str(tmp_path / "classifier")]
    code, stdout, stderr = call(capsys, *arguments, *changes.split(), *weights, "--out", str(tmp_path / "out"))
    assert code == 0, stderr
    assert "U-Net with convneur_m1" in stdout
    saved = load_segmenter(tmp_path / "out")
    assert np.array_equal(saved.code.colours, COLOURS)
    for name, value in saved.model.body.model.state_dict().items():
        torch.testing.assert_close(value, classifier.state_dict()[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--decoder", "deeplabv3plus"], "output_stride=16 is not supported"),
        (["--model", "resnet1"], "--model resnet1 is unknown"),
        (["--weights", "nowhere"], "nowhere"),
        (["--decoder-channels", "16"], "give a multiple of that"),
        (["--decoder", "unet"], "--decoder-channels is not for U-Net"),
        (["--decoder", "upernet", "--batch-size", "1"], "--batch-size 1 is too few"),
        (["--augment.hflip", "2"], "--augment.hflip 2.0 is out of range"),
        (["--loss.dice", "-1"], "--loss.dice -1.0 is out of range"),
        (["--epochs", "0"], "--epochs 0 is out of range"),
        (["--augment.crop", "0", "64"], "--augment.crop 0 is out of range"),
        (["--augment.scales", "2", "1"], "--augment.scales 2.0 1.0 is no range"),
        (["--loss.hard", "0"], "--loss.hard 0.0 is no share"),
        (["--inference.window", "64"], "make it larger"),
        (["--fit.strategy", "fsdp2"], "fsdp2"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(scenes, tmp_path, capsys, arguments, told):
    out = tmp_path / "out"
    code, _, stderr = call(
        capsys, "train", "segmentation", "--data", str(scenes), "--out", str(out), *SMALL, *arguments
    )
    lines = [line for line in stderr.splitlines() if line.startswith("convneur:")]
    assert code == 2
    assert len(lines) == 1
    assert told in lines[0]
    assert not (out / "checkpoints").exists()


def test_nothing_of_somebody_else_is_written_over(trained, scenes, tmp_path, capsys):
    """--out is the folder of the images; what an earlier prediction made may be replaced."""
    image = (scenes / "val" / "images" / "0.png").read_bytes()
    for name in ("a.png", "a-2-overlay.jpg"):
        (tmp_path / name).write_bytes(image)
    (tmp_path / "classes.txt").write_text("mine")
    arguments = ["predict", str(tmp_path / "a.png"), "--model", str(trained), "--out", str(tmp_path)]
    for _ in range(2):
        code, _, stderr = call(capsys, *arguments, "--format", "jsonl")
        assert code == 0, stderr
    assert (tmp_path / "a.png").read_bytes() == image == (tmp_path / "a-2-overlay.jpg").read_bytes()
    assert (tmp_path / "classes.txt").read_text() == "mine"
    made = {"a.png", "a-2-overlay.jpg", "a-3.png", "a-3-overlay.jpg", "classes.txt", "classes-2.txt"}
    assert {path.name for path in tmp_path.iterdir()} == made | {".convneur-predict"}


@pytest.mark.parametrize(
    "change", [{"pretrained": True}, {"checkpoint_path": "/etc/passwd"}, {"backbone": "hf-hub:x/y"}]
)
def test_what_would_fetch_something_is_refused(trained, tmp_path, change):
    config = json.loads((trained / "model" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"segmenter": config["segmenter"] | change}))
    shutil.copy(trained / "model" / "model.safetensors", tmp_path)
    with pytest.raises(ValueError, match=r"is none of its settings|is no model of timm"):
        load_segmenter(tmp_path)


def test_unknown_labels_of_training_masks_are_in_the_report(trained):
    numbers = json.loads((trained / "metrics.json").read_text())
    assert {name.rsplit("/", 1)[-1]: count for name, count in numbers["unknown_labels"].items()} == {"1.png": 4}
    assert "Masks with unknown labels" in (trained / "report.html").read_text()


def test_sizes_and_parts_that_are_none(trained, scenes, tmp_path, capsys):
    arguments = ["eval", "--model", str(trained), "--data", str(scenes), "--out", str(tmp_path)]
    for more, told in (
        (["--image-size", "-1"], "--image-size -1 is out of range"),
        (["--part", "test"], "has no part test (it has folder train, folder val); leave --part out"),
    ):
        code, _, stderr = call(capsys, *arguments, *more)
        assert code == 2
        assert told in stderr
