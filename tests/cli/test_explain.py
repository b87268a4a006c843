"""explain as people use it, on untrained runs of every task; what the backbone is given is what prediction gives it."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from convneur.data.decode import decode_image
from convneur.data.semantic import MaskEncoding
from convneur.data.transforms import Preprocessing, eval_transform
from convneur.explain import ablate_gates, inspect, receptive_fields
from convneur.models import ConvNeur, load_model, save_model
from convneur.tasks.detection.models import create_detector
from convneur.tasks.detection.saved import load_detector, save_detector
from convneur.tasks.inspection import open_inspected
from convneur.tasks.segmentation.inference import segment
from convneur.tasks.segmentation.models import create_segmenter
from convneur.tasks.segmentation.saved import load_segmenter, save_segmenter
from convneur_command.main import main
from convneur_options.segmentation import Inference
from tests.cli.test_classify import call
from tests.data import files
from tests.models.builders import create

SMALL = {"dims": [8, 12, 16, 24], "depths": [1, 1, 1, 1], "memory_width": 16}
LABELS = ["a <b>", "two", "three"]
MAPS = ["gate", "gate-channel", "unwritten", "written", "written-channel", "surprise", "receptive-field"]


def stir(module: torch.nn.Module) -> None:
    """Give weights to what a new model has none of."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "global_branch.up" in name:
                parameter.normal_(std=0.1)
            if name.endswith("gamma"):
                parameter.fill_(0.5)


def classifier(folder, **arguments):
    given = SMALL | {"num_classes": 3} | arguments
    save_model(create("convneur_m1", **given), folder / "model", given, LABELS)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    classifier(root / "classifier")
    classifier(root / "local", global_placement="none")
    classifier(root / "added", fusion="add")
    arguments = {
        "kind": "faster_rcnn",
        "backbone": "convneur_m1",
        "num_classes": 2,
        "min_size": 64,
        "max_size": 90,
        "out_channels": 16,
        "backbone_args": SMALL,
    }
    detector = create_detector(**arguments)
    stir(detector)
    save_detector(detector, root / "detector" / "model", arguments, ["x", "y"], [1, 2], "")
    arguments = {"decoder": "semantic_fpn", "backbone": "convneur_m1", "num_classes": 2, "backbone_args": SMALL}
    segmenter = create_segmenter(**arguments)
    stir(segmenter)
    for name, how in (("segmenter", Inference(size=70)), ("tiled", Inference(size=96, window=64, margin=8))):
        code = MaskEncoding(["x", "y"], np.zeros((2, 3), np.uint8))
        save_segmenter(segmenter, root / name / "model", arguments, code, how, "")
    arguments |= {"backbone": "resnet18", "backbone_args": {}}
    code = MaskEncoding(["x", "y"], np.zeros((2, 3), np.uint8))
    save_segmenter(create_segmenter(**arguments), root / "resnet" / "model", arguments, code, Inference(), "")
    return root


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    pixels = np.random.default_rng(0).integers(0, 255, (75, 101, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("photos") / "a & <i>.png"
    Image.fromarray(pixels).resize((202, 150)).save(path)
    return path


def given_to(backbone: ConvNeur, run) -> torch.Tensor:
    """The first image that a backbone is given while ``run`` runs."""
    seen = []
    hook = backbone.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        run()
    hook.remove()
    return seen[0]


@pytest.fixture(scope="module")
def explained(tmp_path_factory, runs, photo):
    """What comes of a classifier and a photograph at 72 px."""
    out = tmp_path_factory.mktemp("explained") / "out"
    arguments = ["explain", str(photo), "--model", str(runs / "classifier"), "--out", str(out), "--image-size", "72"]
    assert main(arguments) == 0
    return out


def test_a_classifier_is_explained(explained, runs, photo):
    stem = photo.stem
    assert sorted(path.name for path in explained.iterdir()) == sorted(
        [".convneur-explain", f"{stem}.html", f"{stem}.json", *(f"{stem}-{m}.png" for m in [*MAPS, "grad-cam"])]
    )
    loaded, config, _ = load_model(runs / "classifier")
    image = eval_transform(Preprocessing.of(config, 72))(decode_image(photo))
    told = json.loads((explained / f"{stem}.json").read_text())
    answers = ablate_gates(loaded, image)
    assert told["answers"][0]["label"] == LABELS[answers.top]
    assert sum(each["probability"] for each in told["answers"]) == pytest.approx(1, abs=1e-5)
    for how, found in (("unwritten", answers.unwritten), ("flat", answers.flat)):
        assert told["change_of_first_answer"][how] == pytest.approx([answers.change(each) for each in found], abs=1e-5)
    for stage, seen in zip(told["stages"], inspect(loaded, image).stages, strict=True):
        assert stage["covered"] == list(seen.covered)
        assert np.allclose(stage["gate"]["map"], seen.gate.mean(0), atol=1e-4)
        assert np.allclose(stage["surprise"]["map"], seen.surprise, rtol=1e-3, atol=1e-4)
        assert np.allclose(stage["written"]["map"], seen.written.mean(0), atol=1e-4)
        assert stage["surprise"]["never_written"] == 0
    whole, local = receptive_fields(loaded, image)
    beyond = float(whole[local == 0].sum() / whole.sum())
    assert told["receptive_field"]["share_beyond_convolutions"] == pytest.approx(beyond, abs=1e-4)
    assert told["receptive_field"]["half_radius_with_memory"] >= told["receptive_field"]["half_radius_without"]


def test_the_page_holds_all_it_shows_at_its_place(explained, photo):
    page = (explained / f"{photo.stem}.html").read_text()
    assert not re.search("https?:", page)  # pictures in base64 may spell anything but the colon
    assert all(source.startswith("data:") for source in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert all(source.startswith("data:") for source in re.findall(r"url\(([^)]*)\)", page))
    assert "<i>" not in page
    assert "a &lt;b&gt;" in page
    assert page.count('data-stage="') == 4
    assert page.count('<figure class="card">') == 4 * 6 + 3
    # 72 px are two whole pixels of the last map, and 18 of the first
    stage = [part.split("</figure>")[0] for part in page.split('data-stage="')[1:]]
    assert "height:100.0000%;width:100.0000%" in stage[0]
    assert f"height:{100 * 64 / 72:.4f}%;width:{100 * 64 / 72:.4f}%" in stage[3]


@pytest.mark.parametrize("name", ["detector", "segmenter", "tiled"])
def test_backbones_of_other_runs_are_given_what_prediction_gives_them(name, runs, photo):
    picture = decode_image(photo)
    subject = open_inspected(str(runs / name), None)
    prepared = subject.prepare(picture)
    if name == "detector":
        model = load_detector(runs / name).model
        expected = given_to(model.backbone.body.model, lambda: model([to_tensor(picture)]))
    else:
        saved = load_segmenter(runs / name)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        expected = given_to(
            saved.model.body.model, lambda: segment(saved.model, pixels, saved.inference, torch.device("cpu"))
        )
    if name == "tiled":  # of the tiles one is explained, the middle of the picture: not one of those that are looked at
        assert prepared.shape == expected.shape
        whole = open_inspected(str(runs / "segmenter"), 96).prepare(picture)
        assert torch.equal(prepared, whole[..., 16:80, 32:96])
    else:
        torch.testing.assert_close(prepared, expected)
    shown = subject.picture(prepared)
    assert shown.shape == prepared.shape[1:]
    assert 0 <= shown.min() < shown.max() <= 1
    assert len(inspect(subject.backbone, prepared).stages) == 4


@pytest.mark.slow
def test_a_detector_is_explained_at_another_size(runs, photo, tmp_path, capsys):
    arguments = ["--model", str(runs / "detector"), "--out", str(tmp_path), "--image-size", "40"]
    code, table, err = call(capsys, "explain", str(photo.parent), *arguments)
    assert code == 0, err
    assert "answer" not in table
    told = json.loads((tmp_path / f"{photo.stem}.json").read_text())
    assert told["image_size"] == [64, 64]  # 40 x 54, padded
    assert told["model"] == "Faster R-CNN with convneur_m1"
    assert "answers" not in told
    assert not (tmp_path / f"{photo.stem}-grad-cam.png").exists()


def test_a_name_has_random_weights_and_says_so(photo, tmp_path, capsys):
    arguments = ["--model", "convneur_m1", "--image-size", "64", "--out", str(tmp_path)]
    code, _, err = call(capsys, "explain", str(photo), *arguments)
    assert code == 0
    assert "has no trained weights" in err
    assert "The weights are random" in (tmp_path / f"{photo.stem}.html").read_text()


@pytest.mark.slow
def test_without_grad_cam_all_else_is_told(runs, photo, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    bad = tmp_path / "bad.png"
    bad.write_bytes(files.truncated_jpeg())
    arguments = ["--model", str(runs / "classifier"), "--image-size", "32", "--out", str(tmp_path / "out")]
    code, _, err = call(capsys, "explain", str(photo), str(bad), *arguments)
    assert code == 0
    assert "pip install 'convneur[explain]'" in err
    assert err.count("bad.png could not be read") == 1
    assert len(list((tmp_path / "out").glob("*.png"))) == len(MAPS)


def test_bad_input_is_one_line_and_exit_code_2(runs, photo, tmp_path, capsys, monkeypatch):
    for name in ("truncated.jpg", "text.png", "bomb.png"):
        (tmp_path / name).write_bytes(files.UNREADABLE[name]())
    run, out = ["--model", str(runs / "classifier")], ["--out", str(tmp_path / "out")]
    for arguments, message in [
        ([str(tmp_path / "absent.png"), *run], "does not exist; give image files"),
        ([*run], "no images given"),
        ([str(tmp_path / "truncated.jpg"), *run], "could not be read"),
        ([str(tmp_path / "text.png"), *run], "not an image"),
        ([str(tmp_path / "bomb.png"), *run], "30000 x 30000 px is more than the limit of 100 megapixels"),
        ([str(photo), *run, "--image-size", "3000"], "would take it as 3000 x 3000 px"),
        ([str(photo), *run, "--image-size", "0"], "--image-size 0 is out of range"),
        ([str(photo), *run, "--image-size", "16"], "smaller than the total stride"),
        ([str(photo), "--model", "convneur_m9"], "neither a folder nor a model"),
        ([str(photo), "--model", "resnet18"], "resnet18 has no memory; give a run, or one of convneur_m1"),
        ([str(photo), "--model", str(runs / "resnet")], "has no memory; give a model whose backbone is one of"),
        ([str(photo), "--model", str(runs / "local")], "cannot be explained: the model has no gates"),
        ([str(photo), "--model", str(runs / "added")], "cannot be explained: the model has no gates"),
        ([str(photo), "--model", str(tmp_path)], "holds no model"),
    ]:
        code, _, err = call(capsys, "explain", *arguments, *out)
        lines = [line for line in err.splitlines() if line.strip() and "explaining" not in line]
        assert code == 2, (arguments, err)
        assert len(lines) == 1, (arguments, err)
        assert message in lines[0], (arguments, err)
