"""What people call from Python, the same for every task: train, load, predict, evaluate, embed, export."""

import copy
import csv
import dataclasses
import inspect
import io
import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import convneur
from convneur.api import settings_of
from convneur.printing import Console
from convneur.python_calls import as_python
from convneur.tasks.registry import TASKS, task_named
from convneur.tasks.run_data import run_data_of
from convneur.training.run import _fitted, fit_model
from convneur_command.main import main
from convneur_options.backbone import BackboneConfig
from convneur_options.fit import FitConfig
from convneur_options.use import EvaluateOptions, FeatureOptions, PredictOptions
from tests.data.semantic.builders import write_scenes as write_pixels
from tests.data.test_contents import classes
from tests.tasks.detection.builders import write_scenes as write_objects

BACKBONE = {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "memory_width": 16}
CPU = {"fit": {"accelerator": "cpu"}, "workers": 0, "epochs": 1}
SETTINGS = {
    "classification": {"image_size": 32, "batch_size": 128, "train_images": 256},
    "detection": {"batch_size": 1, "min_size": 96, "max_size": 128, "max_unreadable": 0.5},
    "segmentation": {"batch_size": 2, "decoder_channels": 32, "augment": {"crop": (64, 64)}},
}
HEADS = {"out_channels": 16, "mask_channels": 16, "smallest_anchor": 16, "boxes_per_image": 32, "proposals": 100}
SETTINGS["detection"]["heads"] = HEADS
SPECS = [task_named(task) for task in TASKS]


def asked(model, image, **options):
    """All that a model says of an image; of a detector also what it is not sure of."""
    options |= {"score": 0.0} if "score" in model.uses else {}
    return model.predict(image, progress=False, **options)[0].to_dict()


def flattened(value):
    """The numbers in a nested value; null is none."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from flattened(each)
    else:
        yield np.nan if value is None else value


@pytest.fixture(scope="module", params=SETTINGS)
def run(request, tmp_path_factory):
    """A run of each task: its name, its data and what came out."""
    task, root = request.param, tmp_path_factory.mktemp(request.param)
    data = {
        "classification": lambda: "digits",
        "detection": lambda: write_objects(root / "data"),
        "segmentation": lambda: write_pixels(root / "data"),
    }[task]()
    out = root / "run"
    made = convneur.train(data, task, out=out, progress=False, backbone=BACKBONE, **CPU, **SETTINGS[task])
    return task, data, made


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The same picture in every form that is taken."""
    pixels = np.random.default_rng(0).integers(0, 256, (72, 96, 3), np.uint8)
    file = tmp_path_factory.mktemp("images") / "picture.png"
    Image.fromarray(pixels).save(file)
    floats = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    return [file, str(file), Image.fromarray(pixels), pixels, pixels.astype(np.float32) / 255, floats, floats.double()]


def test_a_run_is_trained_reported_and_loaded(run):
    task, data, made = run
    assert made.report.is_file()
    assert len(made.curve) == 1
    assert made.numbers["images"] > 0
    assert re.fullmatch(r"TrainedRun\('.*': (accuracy|ap|miou) [\d.]+ after \d+ epochs\)", repr(made))
    assert repr(dataclasses.replace(made, folder=Path("gone"))) == "TrainedRun('gone')"
    assert made.numbers["command"].startswith(f"convneur.train({str(data)!r}, {task!r}, ")
    with (made.folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == made.numbers["images"]
    assert all(row["file"] for row in rows)
    again = convneur.train(
        data, task, out=made.folder, progress=False, backbone=BACKBONE, **CPU, **SETTINGS[task]
    )  # finished, with the same settings
    assert again.numbers == made.numbers
    with pytest.raises(FileExistsError, match=r"seed 0 \(now 1\)"):
        convneur.train(data, task, out=made.folder, progress=False, backbone=BACKBONE, seed=1, **CPU, **SETTINGS[task])


def test_images_of_all_kinds_have_the_same_answer(run, images):
    answers = run[2].model.predict(images, progress=False)
    assert len(answers) == len(images)
    assert [each.file for each in answers] == [str(images[0])] * 2 + [f"image {number}" for number in range(2, 7)]
    told = [each.to_dict() for each in answers]
    for each in told:
        del each["file"]
        json.dumps(each)
    assert told[1:5] == told[:1] * 4
    assert len(run[2].model.predict([images[0], images[0]], progress=False)) == 2, "an answer for each"
    for answer in (answers[0], answers[2]):
        assert isinstance(answer.plot(), Image.Image)
        assert answer._repr_png_().startswith(b"\x89PNG")


def test_an_evaluation_can_be_had_and_kept(run, tmp_path):
    _, data, made = run
    told = made.model.evaluate(data, progress=False, workers=0)
    for key, value in told.numbers.items():
        if key != "ms_per_image":
            flat, again = (np.array(list(flattened(each)), float) for each in (made.numbers[key], value))
            np.testing.assert_allclose(flat, again, rtol=1e-3, atol=1e-3, err_msg=key)
    assert "<table>" in told._repr_html_()
    told.save(tmp_path)
    with pytest.raises(FileExistsError, match="holds a training run"):
        told.save(made.folder)
    assert all(len(repr(each)) < 400 for each in (told, made.model)), "a line each"
    assert {"report.html", "metrics.json", "predictions.csv"} <= {path.name for path in tmp_path.iterdir()}


def test_features_are_of_each_image(run, images):
    model = run[2].model
    vectors = model.embed(images[2:4], progress=False, image_size=64)
    assert vectors.shape == (2, 32)
    torch.testing.assert_close(vectors[0], vectors[1])
    maps = model.features(images[2], progress=False, image_size=64)
    assert [tuple(each.shape) for each in maps] == [(1, 8, 16, 16), (1, 16, 8, 8), (1, 24, 4, 4), (1, 32, 2, 2)]


def test_what_an_answer_does_not_have_is_said_with_what_it_has(run, images):
    task, _, made = run
    missing, has = {"classification": ("boxes", "label"), "segmentation": ("label", "mask")}.get(
        task, ("mask", "boxes")
    )
    (answer,) = made.model.predict(images[2], progress=False)
    with pytest.raises(AttributeError, match=f"Prediction has no {missing}; it has .*{has}"):
        getattr(answer, missing)
    assert not hasattr(answer, missing)
    assert copy.copy(answer).to_dict() == answer.to_dict()


def test_options_that_mean_nothing_are_refused_by_name(run):
    task, data, made = run
    foreign = {"classification": "score", "detection": "top_k", "segmentation": "batch_size"}[task]
    with pytest.raises(ValueError, match=f"^{foreign} means nothing to a"):
        made.model.predict("x.png", **{foreign: 1})
    with pytest.raises(ValueError, match="flip is no option of a"):
        made.model.embed("x.png", flip=True)
    with pytest.raises(ValueError, match="sze is no option of a"):
        made.model.evaluate(data, sze=1)


def test_settings_that_are_unknown_are_refused_with_what_was_meant(tmp_path):
    for given, meant in (({"epoch": 1}, "did you mean epochs"), ({"optim": {"lrr": 1}}, "did you mean lr")):
        with pytest.raises(ValueError, match=meant):
            convneur.train("digits", out=tmp_path / "run", **given)
    with pytest.raises(ValueError, match="did you mean 'segmentation'"):
        convneur.train("digits", "segmentaton")
    with pytest.raises(ValueError, match="did you mean 'finetune'"):
        convneur.train("digits", recipe="fine-tune")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"optim": 1e-3}, "optim=0.001 does not fit; give a dict, such as optim={'lr': 0.002}"),
        ({"lr": 1e-3}, "lr is no setting; give it in a part, as optim={'lr': 0.001}"),
        ({"epochs": "ten"}, "epochs='ten' does not fit; give a whole number"),
        ({"epochs": 2.5}, "epochs=2.5 does not fit; give a whole number"),
        ({"epochs": True}, "epochs=True does not fit; give a whole number"),
        ({"seed": np.zeros((9, 9))}, "does not fit; give a whole number"),
        ({"workers": "two"}, "workers='two' does not fit; give a whole number or None"),
        ({"image_size": "big"}, "image_size='big' does not fit; give a whole number"),
        ({"optim": {"betas": 0.9}}, "betas=0.9 does not fit; give a tuple of 2, each a finite number"),
        ({"optim": {"lr": float("nan")}}, "lr=nan does not fit; give a finite number"),
        ({"backbone": {"dims": ("8",)}}, "dims=('8',) does not fit; give a tuple, of which each is a whole number"),
        ({"fit": {"precision": "bf61"}}, "precision='bf61' does not fit; did you mean 'bf16'?"),
        ({"hold_out": "no"}, "hold_out='no' does not fit; give True or False"),
        ({"recipe": 42}, "recipe 42 is not known; use one of "),
        ({"out": 42}, "out=42 does not fit; give a string or a path"),
        ({"batch_size": 0}, "batch_size 0 is out of range; give at least 1"),
        ({"optim": {"lr": -1}}, 'optim.lr -1.0 is out of range; give at least 0 (give it as optim={"lr": ...})'),
        ({"resume": True}, "holds no run to go on with; leave resume=True out to begin one"),
    ],
)
def test_settings_that_do_not_fit_are_refused_as_python_has_them(given, why, tmp_path):
    with pytest.raises((ValueError, OSError)) as refused:
        convneur.train("digits", **{"out": tmp_path / "run", "progress": False} | given)
    assert why in str(refused.value)
    assert "--" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_numbers_and_paths_of_other_libraries_are_plain_settings():
    given = {"epochs": np.int64(3), "weights": Path("run"), "optim": {"lr": np.float32(0.5), "betas": [0.9, 1]}}
    config, recipe = settings_of(task_named("classification"), "digits", None, given)
    assert json.loads(json.dumps([config.weights, recipe.epochs, recipe.optim.lr])) == ["run", 3, 0.5]
    assert recipe.optim.betas == (0.9, 1.0)


def test_a_shell_is_told_of_flags_and_python_of_arguments(tmp_path, capsys):
    arguments = "eval --model convneur_m1 --data digits --out".split()
    assert main([*arguments, str(tmp_path), "--batch-size", "0"]) == 2
    assert "convneur: --batch-size 0 is out of range" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"^batch_size 0 is out of range"):
        convneur.evaluate("convneur_m1", "digits", tmp_path, batch_size=0)
    assert as_python("run convneur stream --fill VALUE") == "run convneur stream --fill VALUE"


@pytest.mark.parametrize(
    ("call", "kinds"),
    [
        (
            convneur.train,
            {each for spec in SPECS for each in (spec.config_class, type(next(iter(spec.recipes.values()))))},
        ),
        (convneur.evaluate, {EvaluateOptions}),
        (convneur.predict, {PredictOptions}),
        (convneur.Predictor.evaluate, {EvaluateOptions}),
        (convneur.Predictor.predict, {PredictOptions}),
        (convneur.Predictor.embed, {FeatureOptions}),
        (convneur.Predictor.features, {FeatureOptions}),
    ],
    ids=lambda each: getattr(each, "__qualname__", ""),
)
def test_signatures_have_every_setting(call, kinds):
    shown = inspect.signature(call).parameters
    assert {field.name for kind in kinds for field in dataclasses.fields(kind)} <= shown.keys()
    assert all(each.kind is not each.VAR_KEYWORD for each in shown.values())


def test_answers_do_not_depend_on_what_else_is_asked(run, images):
    """Each call has its options; between the answers of an iteration nothing is switched off for the caller."""
    model, console = run[2].model, Console(quiet=True)

    def asked(size):
        return model.predict_each([images[2]] * 3, [], console, image_size=size)

    alone = [[each.to_dict() for each in asked(size)] for size in (64, 96)]
    both = list(zip(asked(64), asked(96), strict=True))
    assert [[each.to_dict() for each in answers] for answers in zip(*both, strict=True)] == alone
    next(asked(64))
    assert not torch.is_inference_mode_enabled()


def test_answers_do_not_depend_on_what_other_threads_ask(run, images):
    model, between = run[2].model, []

    def ask(size):
        return asked(model, images[2], image_size=size)

    def ask_another(*_):
        if not between:
            between.append(None)
            with ThreadPoolExecutor(1) as thread:
                between.append(thread.submit(ask, 128).result())

    alone = {size: ask(size) for size in (64, 128)}
    assert alone[64] != alone[128]
    hook = model.model.register_forward_pre_hook(ask_another)
    try:
        assert ask(64) == alone[64]
    finally:
        hook.remove()
    assert between[1] == alone[128]


def test_the_model_is_plain_and_answers_follow_what_it_learns(run, images):
    found = convneur.load(run[2].folder)
    before = asked(found, images[2])
    found.embed(images[2], progress=False)
    model = found.model.train()
    weights = [each for name, each in model.named_parameters() if "mlp.fc1.weight" in name]
    inputs = [torch.ones(3, 64, 64)] if run[0] == "detection" else torch.ones(1, 3, 64, 64)
    with torch.no_grad():
        for weight in weights:
            weight.mul_(-50)
    assert asked(found, images[2]) != before
    if run[0] != "detection":
        model(inputs).square().sum().backward()
        assert all(weight.grad is not None for weight in weights)
    assert model.training


def test_what_is_no_image_is_refused_and_what_cannot_be_read_is_told(run, images, tmp_path, capsys):
    model = run[2].model
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    for several in ([images[2], broken, images[0]], [images[2], broken], broken):
        with pytest.raises(ValueError, match=r"broken\.png cannot be read .*; leave it out, mend it, or give skip"):
            model.predict(several, progress=False)
    capsys.readouterr()
    found = model.predict([images[2], broken, images[0]], skip_unreadable=True)
    assert [each.file for each in found] == ["image 0", str(images[0])]
    assert [name for name, _ in found.unreadable] == [str(broken)]
    assert "1 images could not be read and were left out; the first: " in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ValueError, match="none of the images can be read"):
        model.predict(broken, skip_unreadable=True, progress=False)
    for wrong, why in (
        (np.zeros((4, 4, 7), np.uint8), "is no image"),
        (torch.zeros(2, 3, 4, 4), "is no image"),
        (np.full((4, 4, 3), 255.0), "floats of an image must be in 0 to 1"),
        (np.zeros((4, 4, 3), np.int64), "give bytes"),
        ([], "no images given"),
    ):
        with pytest.raises(ValueError, match=why):
            model.predict(wrong, progress=False)
    with pytest.raises(ValueError, match="cannot be read"):
        model.embed(broken, progress=False)
    large = np.zeros((72, 96, 3), np.uint8)  # in memory as in a file
    Image.fromarray(large).save(tmp_path / "large.png")
    found = model.predict(
        [images[2].resize((16, 16)), large, tmp_path / "large.png"], skip_unreadable=True, max_megapixels=0.001
    )
    assert found.unreadable[0] == ("image 1", "96 x 72 px is more than the limit of 0.001 megapixels")
    assert found.unreadable[1][1] == found.unreadable[0][1]
    assert len(found) == 1


def test_arguments_of_other_types_are_refused_with_what_to_give(run):
    _, data, made = run
    for given, why in (
        (42, "42 is no image; give image files"),
        (None, "no image"),
        ([None], "no image"),
        (b"", "no im"),
    ):
        with pytest.raises(ValueError, match=why):
            made.model.predict(given, progress=False)
        with pytest.raises(ValueError, match=why):
            convneur.predict(given, made.folder, progress=False)
    assert len(made.model.predict((np.zeros((64, 64), np.uint8) for _ in range(2)), progress=False)) == 2
    for call in (made.model.predict, made.model.evaluate, made.model.embed):
        with pytest.raises(ValueError, match="image_size='x' does not fit; give a whole number or None"):
            call("x.png", image_size="x")
        with pytest.raises(ValueError, match="progress=1 does not fit; give True or False"):
            call("x.png", progress=1)
    with pytest.raises(ValueError, match="data=42 does not fit; give a string or a path"):
        made.model.evaluate(42)
    for out in (None, made.folder / "judged"):
        with pytest.raises(ValueError, match="workers='x' does not fit"):
            convneur.evaluate(made.folder, data, out, workers="x", progress=False)
        with pytest.raises(ValueError, match="sze is no option of a"):
            convneur.evaluate(made.folder, data, out, sze=1, progress=False)


def test_a_pillow_image_is_seen_as_its_file_is(run, tmp_path):
    draw, model = np.random.default_rng(1), run[2].model
    clear = Image.fromarray(draw.integers(0, 256, (72, 96, 4), np.uint8), "RGBA")
    deep = Image.fromarray(draw.integers(0, 2**16, (72, 96), np.uint16))
    for name, image in (("clear.png", clear), ("deep.png", deep)):
        image.save(tmp_path / name)
        by_file, by_image = model.predict([tmp_path / name, Image.open(tmp_path / name)], progress=False)
        assert by_file.to_dict() | {"file": ""} == by_image.to_dict() | {"file": ""}


def test_what_its_run_learned_from_is_known_however_the_model_is_named(tmp_path, monkeypatch):
    """And a part, or an epoch, that there is not is refused."""
    classes(tmp_path / "flat", 10)
    settings = {"image_size": 32, "batch_size": 4, "backbone": BACKBONE, **CPU}
    with pytest.raises(ValueError, match="keep='bset' does not fit; did you mean 'best'"):
        convneur.train(tmp_path / "flat", out=tmp_path / "none", keep="bset", progress=False, **settings)
    convneur.train(tmp_path / "flat", out=tmp_path / "run", progress=False, **settings)
    (tmp_path / "link").symlink_to(tmp_path / "run" / "model")
    monkeypatch.chdir(tmp_path / "run" / "model")
    counts = [
        convneur.load(name).evaluate(tmp_path / "flat", progress=False, workers=0).images
        for name in (tmp_path / "run", ".", "model.safetensors", f"local-dir:{tmp_path / 'run'}", tmp_path / "link")
    ]
    assert set(counts) == {4}
    with pytest.raises(ValueError, match="did you mean 'test'"):
        convneur.load(".").evaluate(tmp_path / "flat", part="tets", progress=False)


def test_what_a_model_learned_from_is_kept_with_it_or_said_not_to_be_known(run, tmp_path, capsys):
    task, data, made = run
    model, there = convneur.load(made.folder), tmp_path / "there"
    if task == "classification":  # few images, of two of its classes
        data = classes(tmp_path / "data")
        for number, name in enumerate("ab"):
            (data / name).rename(data / str(number))
    model.save(there)
    found, unknown = convneur.load(there), "nothing says what the model learned from"
    capsys.readouterr()
    assert found.evaluate(data, workers=0).images == model.evaluate(data, workers=0).images
    assert unknown not in capsys.readouterr().err
    found.save(tmp_path / "further" / "model")
    assert run_data_of(tmp_path / "further") == run_data_of(tmp_path / "further" / "model" / "model.safetensors")
    assert run_data_of(tmp_path / "further").contents == run_data_of(made.folder).contents is not None
    with pytest.raises(FileExistsError, match="holds a training run"):
        model.save(made.folder)
    dataclasses.replace(model, source=None).save(there)  # another model in its place, of which nothing is known
    assert not (there / "images.json.gz").exists()
    convneur.load(there).evaluate(data, workers=0)
    assert capsys.readouterr().err.count(unknown) == 1


def test_the_best_and_the_last_epoch_can_be_asked_for(run):
    _, _, made = run
    for which in ("last", "best"):
        assert convneur.load(made.folder, which=which).classes == made.model.classes
    with pytest.raises(FileNotFoundError, match="holds no model of the best epoch"):
        convneur.load(made.folder / "model", which="best")


def test_a_file_of_weights_is_taken_for_the_model_of_its_run(run, images, tmp_path):
    _, data, made = run
    expected = made.model.predict(images[2], progress=False)[0].to_dict()
    checkpoint = max((made.folder / "checkpoints").glob("*.ckpt"))
    for file in (made.folder / "model" / "model.safetensors", checkpoint):
        found = convneur.load(file)
        assert found.predict(images[2], progress=False)[0].to_dict() == expected
        numbers = found.evaluate(data, progress=False, workers=0).numbers  # by what its run held out
        for key in {"top1", "miou"} & set(numbers):
            assert numbers[key] == pytest.approx(made.numbers[key], abs=0.003)
    alone = tmp_path / "alone" / "in" / "x.ckpt"
    alone.parent.mkdir(parents=True)
    alone.write_bytes(checkpoint.read_bytes())
    with pytest.raises(FileNotFoundError, match="says of which model"):
        convneur.load(alone)
    damaged = tmp_path / "run" / "checkpoints" / "x.ckpt"
    shutil.copytree(made.folder / "model", tmp_path / "run" / "model")
    damaged.parent.mkdir()
    damaged.write_bytes(checkpoint.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="cannot be read"):
        convneur.load(damaged)


def test_of_fewer_images_than_a_batch_has_it_has_all(tmp_path):
    """As if that had been asked for, to the last bit; the run is known again by what was asked for."""
    spec, told = task_named("classification"), io.StringIO()
    data = str(classes(tmp_path / "data", 10))
    settings = {"image_size": 32, "backbone": BackboneConfig(**BACKBONE), "fit": FitConfig(accelerator="cpu")}

    def weights(size, resume=False, **changes):
        config, recipe = settings_of(spec, data, None, {"workers": 0, "epochs": 1, "batch_size": size} | changes)
        out = tmp_path / str(size)
        return fit_model(spec, config, recipe, out, resume, False, Console(file=told)).predictors[0].model.state_dict()

    asked = weights(16, **settings)
    assert "images to train on can fill" not in told.getvalue()
    for resume in (False, True):
        torch.testing.assert_close(weights(64, resume, **settings), asked, rtol=0, atol=0)
    line = "more than the 16 images to train on can fill: batches have 16; the learning rate stays 0.002"
    assert told.getvalue().replace("\n", " ").count(line) == 2
    many = settings | {"fit": FitConfig(accelerator="cpu", devices=17)}
    with pytest.raises(ValueError, match="a batch of 64 in each of 17 processes is larger than the set of 16 images"):
        weights(64, **many)


@pytest.mark.parametrize("task", TASKS)
def test_what_a_recipe_meets_is_told(task):
    """Batches that cannot be filled, what that makes of the rate, and rates that are for trained weights."""
    spec = task_named(task)
    config, recipe = spec.config_class("photos"), spec.recipes["finetune"]
    fitted, (batch, weights, few) = _fitted(spec, config, recipe, 3)
    most = 2 if task == "classification" else 3  # Mixup takes pairs
    assert fitted == dataclasses.replace(recipe, batch_size=most)
    rate = recipe.optim.lr * most / recipe.optim.lr_batch
    assert batch.endswith(f"batches have {most}; the learning rate is {rate:g}, in proportion")
    assert "(--optim.layer-decay 0.8, as in the recipe finetune) are for trained weights; give --weights" in weights
    assert few == f"{recipe.epochs} optimizer steps in all are few for a model that learns from scratch; give more " + (
        "--epochs, a smaller --batch-size, or --weights"
    )
    assert _fitted(spec, dataclasses.replace(config, weights="runs/x"), recipe, 100) == (recipe, [])
    for name in set(spec.recipes) - {"finetune"}:
        assert _fitted(spec, config, spec.recipes[name], 1000) == (spec.recipes[name], [])
    two = dataclasses.replace(recipe, fit=FitConfig(accelerator="cpu", devices=2))
    assert _fitted(spec, config, two, 9)[0].batch_size == 4


@pytest.mark.parametrize("name", ["test_resnet", pytest.param("test_vit", marks=pytest.mark.slow)])
def test_any_model_of_timm_is_trained_evaluated_and_loaded_as_a_classifier(name, tmp_path):
    settings = {"model": name, "image_size": 64, "batch_size": 64, "train_images": 128} | CPU
    made = convneur.train("digits", out=tmp_path / "run", progress=False, **settings)
    told = made.model.evaluate("digits", progress=False, workers=0)
    assert told.numbers["top1"] == pytest.approx(made.numbers["top1"], abs=0.003)
    assert made.model.predict(torch.zeros(1, 20, 20), progress=False)[0].label in map(str, range(10))
    theirs = timm.create_model(f"local-dir:{made.folder / 'model'}", pretrained=True).eval()
    with torch.inference_mode():
        torch.testing.assert_close(theirs(torch.ones(1, 3, 64, 64)), made.model.model(torch.ones(1, 3, 64, 64)))
    started = convneur.train(
        "digits", out=tmp_path / "again", progress=False, weights=str(made.folder), overwrite=True, **settings
    )
    assert started.curve[0]["loss"] < made.curve[0]["loss"]
    with pytest.raises(ValueError, match=r"^backbone\.\* mean nothing to model test_"):
        convneur.train("digits", out=tmp_path / "third", backbone=BACKBONE, **settings)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_a_batch_of_one_value_per_channel_says_which_batch_fits(task, tmp_path):
    """What is left over of an epoch makes no batch, so that only a run of such batches has one."""
    settings: dict = {"image_size": 32, "train_images": 4, "augment": {"mixup": 0, "cutmix": 0}}
    data = "digits"
    if task == "segmentation":
        settings, data = {"augment": {"crop": (32, 32)}}, write_pixels(tmp_path / "data")
    settings |= {"model": "test_resnet", "progress": False} | CPU
    with pytest.raises(ValueError, match="for some norms of the model; give a batch_size of 2 or more"):
        convneur.train(data, task, out=tmp_path / "run", batch_size=1, **settings)


def test_every_task_takes_the_options_of_every_run():
    common = {"val_share", "hold_out", "train_images", "max_unreadable", "seed", "keep"}
    for task in TASKS:
        spec = task_named(task)
        assert common <= set(spec.config_class.__dataclass_fields__)
        assert {"val_share", "seed", "part", "image_size", "workers"} <= spec.predictor_class.uses


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_a_folder_of_its_own(task, monkeypatch):
    """So that a run of one is not in the way of another's, and the same call with resume goes on with it."""
    outs = []
    monkeypatch.setattr("convneur.api.train_run", lambda *given: outs.append(given[3]))
    monkeypatch.setattr("convneur.training.run.train", lambda *given: outs.append(given[3]))
    assert convneur.train("photos", task, resume=True).folder == Path("runs", task)
    main(["train", task, "--data", "photos", "--resume"])
    main(["train", *[task][task == "classification" :], "--data", "photos", "--out", "here"])
    assert outs == [Path("runs", task)] * 2 + [Path("here")]


def test_importing_the_package_does_not_import_what_trains():
    code = "import sys, convneur; sys.exit(any(name in sys.modules for name in ('lightning', 'convneur.api')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
