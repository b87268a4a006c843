"""train detection and instance, eval and predict with detectors, as people use them."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import convneur
from convneur.data.objects.masks import decode_masks
from convneur.models import save_model
from convneur.tasks.detection import load_detector
from tests.cli.test_classify import call
from tests.data.objects.test_yolo import BOX, yolo
from tests.tasks.detection.builders import write_scenes
from tests.training.runs import SMALL_DETECTOR, TINY

SMALL = [*SMALL_DETECTOR, "--workers", "0", "--max-unreadable", "0.5"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Six images; two have nothing on them, and two more files are none."""
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, scenes):
    """A run with masks, long enough that something is found."""
    from convneur_command.main import main

    out = tmp_path_factory.mktemp("runs") / "run"
    learn = "--epochs 30 --optim.lr 3e-3 --ema 0 --fit.evaluate-every 10 --augment.jitter 1 1 --augment.vflip 0".split()
    assert main(["train", "instance", "--data", str(scenes), "--out", str(out), *SMALL, *learn]) == 0
    return out


def test_train_writes_model_numbers_detections_and_report(trained):
    numbers = json.loads((trained / "metrics.json").read_text())
    assert numbers["model"] == "Mask R-CNN with convneur_m1"
    assert numbers["images"] == 3
    for of in ("boxes", "masks"):
        assert set(numbers[of]) == {"ap", "ap50", "ap75", "small", "medium", "large", "per_class"}
        assert set(numbers[of]["per_class"]) == {"kind 1", "kind 2", "kind 3"}
    assert [row["epoch"] for row in numbers["curve"] if "mask_ap50" in row] == [10, 20, 30]
    assert numbers["curve"][-1]["loss"] < numbers["curve"][0]["loss"] * 0.7
    assert numbers["boxes"]["ap50"] > 0.05  # of six images: 0.08 to 0.65 with ten seeds and ways to round, 0 untrained
    page = (trained / "report.html").read_text()
    for words in ("Learning curves", "Precision over recall", "Per class", "Worst misses", "val_bad.png", "AP75"):
        assert words in page
    assert not re.search("https?:", page)  # pictures in base64 may spell anything but the colon
    results = json.loads((trained / "detections.json").read_text())
    assert {each["category_id"] for each in results} <= {10, 20, 30}
    assert all(set(each) == {"image_id", "category_id", "bbox", "score", "segmentation"} for each in results)
    assert sorted(p.name for p in (trained / "model").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert json.loads((trained / "run.json").read_text())["recipe"]["min_size"] == 96


def test_eval_says_the_same_as_training(trained, scenes, tmp_path, capsys):
    code, stdout, stderr = call(capsys, "eval", "--model", str(trained), "--data", str(scenes), "--out", str(tmp_path))
    assert code == 0, stderr
    assert "AP50" in stdout
    before, after = (json.loads((out / "metrics.json").read_text()) for out in (trained, tmp_path))
    assert before["boxes"] == after["boxes"]
    assert before["masks"] == after["masks"]
    assert (tmp_path / "report.html").is_file()


def test_predict_draws_what_it_finds(trained, scenes, tmp_path, capsys):
    images = scenes / "images"
    arguments = ["predict", str(images), "--model", str(trained), "--out", str(tmp_path), "--score", "0.3"]
    code, stdout, stderr = call(capsys, *arguments, "--format", "jsonl", "--workers", "0")
    assert code == 0
    rows = {row["file"].rsplit("/", 1)[-1]: row for row in map(json.loads, stdout.splitlines())}
    assert set(rows) == {f"{split}{n}.png" for split in ("train", "val") for n in range(3)}
    assert stderr.count("could not be read") == 2
    row = rows["train0.png"]
    assert row["objects"]
    assert all(each["score"] >= 0.3 and each["label"].startswith("kind") for each in row["objects"])
    before, after = (np.array(Image.open(path)).astype(int) for path in (images / "train0.png", row["picture"]))
    assert before.shape == after.shape
    x0, y0, x1, y1 = (round(side) for side in row["objects"][0]["box"])
    assert np.abs(before - after)[y0:y1, x0:x1].max() > 30  # a mask and a frame

    results = json.loads((tmp_path / "detections.json").read_text())
    assert {each["file_name"].rsplit("/", 1)[-1] for each in results} <= set(rows)
    own = [each for each in results if each["file_name"].endswith("train0.png")]
    masks = decode_masks([each["segmentation"] for each in own], *before.shape[:2])
    detector = load_detector(trained)
    image = torch.from_numpy(before).permute(2, 0, 1).float() / 255
    with torch.inference_mode():
        (found,) = detector.model([image])
    np.testing.assert_allclose([each["score"] for each in own], found["scores"].numpy(), atol=1e-6)
    assert np.array_equal(masks.astype(bool), found["masks"][:, 0].numpy() > 0.5)

    code, _, stderr = call(capsys, *arguments, "--window", "64")
    assert (code, stderr) == (2, "convneur: --window means nothing to a detector, which this model is; leave it out\n")

    code, stdout, _ = call(capsys, *arguments, "--format", "csv", "--workers", "0")
    assert stdout.splitlines()[0] == "file,label,score,x0,y0,x1,y1"
    assert len(stdout.splitlines()) == 1 + sum(len(row["objects"]) for row in rows.values())
    code, stdout, _ = call(capsys, *arguments, "--workers", "0")
    assert "kind" in stdout


def test_predict_with_nothing_to_read_says_so(trained, scenes, tmp_path, capsys):
    bad = str(scenes / "images" / "val_bad.png")
    code, _, stderr = call(capsys, "predict", bad, "--model", str(trained), "--out", str(tmp_path))
    assert code == 2
    assert "val_bad.png could not be read" in stderr


def test_predict_needs_a_folder_to_draw_into(trained, scenes, capsys):
    image = str(scenes / "images" / "val0.png")
    line = f"convneur: --out {image} is a file; give a folder\n"
    assert call(capsys, "predict", image, "--model", str(trained), "--out", image) == (2, "", line)


@pytest.mark.slow
def test_a_run_begins_from_a_detector_of_other_classes_or_from_a_classifier(trained, scenes, tmp_path, capsys):
    """A step at a rate of almost nothing leaves in place what was loaded."""
    still = [*SMALL, "--epochs", "1", "--optim.lr", "1e-12", "--ema", "0"]
    fewer = json.loads((scenes / "instances_train.json").read_text())
    other = write_scenes(tmp_path / "other")
    for split in ("train", "val"):
        content = json.loads((scenes / f"instances_{split}.json").read_text())
        content["categories"] = fewer["categories"][:2]
        content["annotations"] = [each for each in content["annotations"] if each["category_id"] != 30]
        (other / f"instances_{split}.json").write_text(json.dumps(content))
    arguments = ["train", "instance", "--data", str(other), *still]
    code, _, stderr = call(capsys, *arguments, "--out", str(tmp_path / "a"), "--weights", str(trained))
    assert code == 0, stderr
    before, after = (load_detector(out).model.state_dict() for out in (trained, tmp_path / "a"))
    same = {name for name in after if before[name].shape == after[name].shape}
    assert {name.rsplit(".", 1)[0] for name in set(after) - same} == {
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
        "roi_heads.mask_predictor.mask_fcn_logits",
    }
    for name in same:
        torch.testing.assert_close(before[name], after[name], rtol=0, atol=1e-6)

    tiny = {"dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "memory_width": 16, "num_classes": 3}
    classifier = convneur.create_model("convneur_m1", **tiny)
    save_model(classifier, tmp_path / "classifier", tiny)
    arguments = ["train", "detection", "--detector", "retinanet", "--data", str(scenes), *still]
    weights = ["--weights", str(tmp_path / "classifier")]
    code, _, stderr = call(capsys, *arguments, "--out", str(tmp_path / "b"), *weights)
    assert code == 0, stderr
    body = load_detector(tmp_path / "b").model.backbone.body.model.state_dict()
    for name, value in body.items():
        torch.testing.assert_close(value, classifier.state_dict()[name], rtol=0, atol=1e-6)

    code, _, stderr = call(
        capsys, *arguments, "--backbone.dims", "8", "16", "24", "40", "--out", str(tmp_path / "c"), *weights
    )
    assert code == 2
    assert "do not fit the backbone" in stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["detection", "--detector", "mask_rcnn"], "is not for convneur train detection; give one of faster_rcnn"),
        (["detection", "--model", "resnet1"], "--model resnet1 is unknown"),
        (["detection", "--weights", "nowhere"], "nowhere"),
        (["detection", "--epochs", "0"], "--epochs 0 is out of range"),
        (["detection", "--fit.evaluate-every", "0"], "--fit.evaluate-every 0 is out of range"),
        (["detection", "--heads.proposals", "0"], "--heads.proposals 0 is out of range"),
        (["detection", "--heads.frozen-stages", "9"], "frozen_stages=9 is out of range"),
        (["detection", "--max-size", "64"], "--max-size 64 is below --min-size 96"),
        (["detection", "--augment.jitter", "2", "1"], "--augment.jitter 2.0 1.0 is no range"),
        (["detection", "--fit.strategy", "fsdp2"], "fsdp2"),
        (["detection", "--batch-size", "50", "--fit.devices", "50"], "a batch of 50 in each of 50 processes is larger"),
    ],
)
def test_what_cannot_be_trained_is_said_in_one_line(scenes, tmp_path, capsys, arguments, told):
    code, _, stderr = call(
        capsys, "train", arguments[0], "--data", str(scenes), "--out", str(tmp_path / "out"), *SMALL, *arguments[1:]
    )
    lines = [line for line in stderr.splitlines() if line.startswith("convneur:")]
    assert code == 2
    assert len(lines) == 1
    assert told in lines[0]
    assert "Traceback" not in stderr
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_boxes_without_masks_are_no_task_for_instance(scenes, tmp_path, capsys):
    data = write_scenes(tmp_path / "data")
    for split in ("train", "val"):
        content = json.loads((data / f"instances_{split}.json").read_text())
        content["annotations"] = [
            {key: value for key, value in each.items() if key != "segmentation"} for each in content["annotations"]
        ]
        (data / f"instances_{split}.json").write_text(json.dumps(content))
    code, _, stderr = call(capsys, "train", "instance", "--data", str(data), "--out", str(tmp_path / "out"), *SMALL)
    assert code == 2
    assert "have a box and no mask, the first a" in stderr


def of_any_backbone(flags: list[str]) -> list[str]:
    """Flags of a run without those of a ConvNeur."""
    return " ".join(flags).replace(TINY.strip(), "").split()


def test_a_backbone_of_timm_is_trained_and_comes_back(scenes, tmp_path, capsys):
    arguments = ["train", "detection", "--model", "resnet18", "--data", str(scenes)]
    code, _, stderr = call(capsys, *arguments, "--out", str(tmp_path / "refused"), *SMALL)
    assert code == 2
    assert "--backbone.* mean nothing to --model resnet18" in stderr
    small = of_any_backbone(SMALL)
    code, stdout, stderr = call(capsys, *arguments, "--out", str(tmp_path), *small, "--epochs", "1")
    assert code == 0, stderr
    assert "preset" not in stderr
    assert "Faster R-CNN with resnet18" in stdout
    saved = load_detector(tmp_path)
    assert saved.classes == ["kind 1", "kind 2", "kind 3"]
    assert saved.category_ids == [10, 20, 30]
    assert saved.arguments["backbone"] == "resnet18"


def test_what_is_no_detector_is_named(tmp_path, trained):
    with pytest.raises(FileNotFoundError, match="holds no detector"):
        load_detector(tmp_path)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text((trained / "model" / "config.json").read_text())
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_detector(broken)


def test_pictures_are_never_written_over(trained, scenes, tmp_path, capsys):
    """--out is where the images are."""
    image = tmp_path / "slide.png"
    image.write_bytes((scenes / "images" / "val0.png").read_bytes())
    before = image.read_bytes()
    code, _, stderr = call(capsys, "predict", str(image), "--model", str(trained), "--out", str(tmp_path))
    assert code == 0, stderr
    assert image.read_bytes() == before
    assert (tmp_path / "slide-2.png").is_file()


def test_what_no_detector_can_do_is_said(trained, scenes, tmp_path, capsys):
    code, _, stderr = call(capsys, "export", str(trained), "--out", str(tmp_path / "x.onnx"))
    assert code == 2
    assert "is a detector, which cannot be exported yet" in stderr
    code, _, stderr = call(capsys, "eval", "--model", str(trained), "--data", str(scenes), "--image-size", "0")
    assert code == 2
    assert "--image-size 0 is out of range" in stderr
    config = json.loads((trained / "model" / "config.json").read_text())
    for change, told in (
        ({"label_names": ["one"]}, "names 1 classes for a detector of 3"),
        ({"detector": config["detector"] | {"backbone": "hf-hub:some/body"}}, "no model of timm"),
    ):
        folder = tmp_path / "changed"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config | change))
        (folder / "model.safetensors").write_bytes((trained / "model" / "model.safetensors").read_bytes())
        with pytest.raises(ValueError, match=told):
            load_detector(folder)


def test_backbones_of_one_size_are_refused(scenes, tmp_path, capsys):
    swin = ["--model", "swin_tiny_patch4_window7_224"]
    small = of_any_backbone(SMALL_DETECTOR)
    code, _, stderr = call(capsys, "train", "detection", *swin, "--data", str(scenes), "--out", str(tmp_path), *small)
    assert code == 2
    assert "takes images of one size only" in stderr


@pytest.mark.slow
def test_an_image_of_one_pixel_a_side_ends_nothing(trained, tmp_path, capsys):
    for name, size in (("flat", (600, 1)), ("thin", (1, 600)), ("dot", (1, 1)), ("usual", (64, 64))):
        Image.new("RGB", size, "red").save(tmp_path / f"{name}.png")
    for verb in ("predict", "explain"):
        code, _, stderr = call(
            capsys,
            verb,
            str(tmp_path),
            "--model",
            str(trained),
            "--out",
            str(tmp_path.with_name(f"{tmp_path.name}-{verb}")),
        )
        assert (code, stderr) == (0, "") or "Traceback" not in stderr
        made = {path.stem for path in tmp_path.with_name(f"{tmp_path.name}-{verb}").iterdir()}
        assert {"flat", "thin", "dot", "usual"} <= made, stderr


@pytest.mark.parametrize(
    ("task", "form", "words"),
    [
        ("detection", {"lines": "0 24 18 32 24"}, "a.txt, line 1: 24 is out of range: numbers are shares of the image"),
        ("detection", {"label": "labels/{split}/a.png.txt"}, "have no label file: looked for"),
        ("instance", {"lines": f"{BOX} 0.5 0.5 2 0.5 0.5 2"}, "a.txt, line 1: a box and keypoints; write kpt_shape"),
        ("instance", {}, "have a box and no mask, the first a 'dog' on"),
    ],
    ids=["pixels", "elsewhere", "keypoints", "boxes"],
)
def test_nothing_to_learn_from_ends_a_run_before_it_begins(task, form, words, tmp_path, capsys):
    data = yolo(tmp_path / "data", **form)
    code, stdout, stderr = call(capsys, "train", task, "--data", str(data), "--out", str(tmp_path / "out"), *SMALL)
    assert (code, stdout) == (2, "")
    assert words in stderr
    assert stderr.splitlines()[-1].startswith("convneur: ")
    assert "Traceback" not in stderr


def test_eval_without_labels_is_refused(trained, scenes, tmp_path, capsys):
    content = json.loads((scenes / "instances_val.json").read_text()) | {"annotations": []}
    (tmp_path / "instances_val.json").write_text(json.dumps(content))
    shutil.copytree(scenes / "images", tmp_path / "images")
    code, _, stderr = call(
        capsys, "eval", "--model", str(trained), "--data", str(tmp_path), "--out", str(tmp_path / "out")
    )
    assert code == 2
    assert "none of the 4 images to judge by has an object that counts" in stderr
