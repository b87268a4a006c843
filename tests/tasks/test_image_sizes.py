"""Models of one size, of some sizes, and of images that are not square: used as they are made, or refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from PIL import Image

import convneur
from convneur.export.checked import export_checked
from convneur.models import load_model, save_model
from convneur.tasks.classification.model import create_classifier
from convneur_options.classification import RECIPES, ClassificationConfig
from tests.data.test_contents import classes


def saved(folder, name, size, **arguments):
    """A classifier of two classes for images of a height and width."""
    overlay = {"input_size": (3, *size), "pool_size": None}
    model = timm.create_model(name, num_classes=2, pretrained_cfg_overlay=overlay, **arguments)
    save_model(model, folder, arguments, ["a", "b"])
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """It takes images of 32 px and no others."""
    return saved(tmp_path_factory.mktemp("vit"), "vit_tiny_patch16_224", (32, 32), img_size=32, depth=1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return classes(tmp_path_factory.mktemp("photos") / "data", 3)


def test_a_model_of_one_size_is_used_at_that_size(vit, photos, tmp_path, capsys):
    model = convneur.load(vit)
    assert set(model.evaluate(photos, progress=False, workers=0).numbers["top1_by_image_size"]) == {"32"}
    assert len(model.predict(photos, progress=False, workers=0)) == 6
    file = convneur.load(model.export(tmp_path / "model.pt2"), trust=True)
    assert file.config["fixed_input_size"] is True
    capsys.readouterr()
    assert file.evaluate(photos, workers=0).images == 6
    assert "nothing says what the model learned from (exported files never do)" in capsys.readouterr().err


def test_another_size_is_refused_by_every_verb_with_what_to_give(vit, photos, tmp_path):
    model = convneur.load(vit)
    for ask in (
        lambda: model.predict(photos, progress=False, workers=0, image_size=40),
        lambda: model.evaluate(photos, progress=False, workers=0, image_size=40),
        lambda: model.embed(photos, progress=False, image_size=40),
        lambda: model.features(photos, progress=False, image_size=40),
        lambda: export_checked(vit, "torch", tmp_path / "x.pt2", image_size=40, progress=False),
    ):
        with pytest.raises(ValueError, match="takes no images of 40 px") as caught:
            ask()
        told = str(caught.value)
        assert told.endswith("; leave image_size out for the 32 px that it is made for")
        assert "\n" not in told


def test_a_model_of_some_sizes_is_judged_at_those(photos, tmp_path):
    """Three quarters of 32 px are not divided by its patches."""
    folder = saved(tmp_path / "model", "vit_tiny_patch16_224", (32, 32), img_size=32, depth=1, dynamic_img_size=True)
    numbers = convneur.load(folder).evaluate(photos, progress=False, workers=0).numbers
    assert set(numbers["top1_by_image_size"]) == {"32", "48"}


def test_images_that_are_not_square_stay_so(photos, tmp_path):
    model = convneur.load(saved(tmp_path / "model", "test_resnet", (32, 48)))
    seen = set()
    model.model.register_forward_pre_hook(lambda _, inputs: seen.add(tuple(inputs[0].shape[2:])))
    result = model.evaluate(photos, progress=False, workers=0)
    assert list(result.numbers["top1_by_image_size"]) == ["24x36", "32x48", "48x72"]
    assert seen == {(24, 36), (32, 48), (48, 72)}
    assert [tuple(each.shape) for each in result.look(0)] == [(3, 32, 48)] * 2
    seen.clear()
    model.predict(Image.new("RGB", (64, 64)), progress=False)
    assert seen == {(32, 48)}


@pytest.mark.parametrize(
    ("name", "sizes", "told"),
    [
        ("test_vit", (100, 0), "give --image-size 96, 128 or 160"),
        ("test_vit", (96, 100), "give --eval-size 96, 128 or 160"),
        ("xcit_nano_12_p16_224", (100, 0), "give --image-size 96, 128 or 224"),
        ("efficientformer_l1", (100, 0), "give --image-size 224"),
        ("vit_tiny_patch16_224", (64, 96), "of --image-size 64 (Input height (64) doesn't match model (96)); leave"),
        ("halonet26t", (64, 0), "takes no images of 64 px (AssertionError); give --image-size 256"),
    ],
)
def test_sizes_that_a_model_cannot_be_trained_at_are_refused_before_it_is(name, sizes, told):
    config = ClassificationConfig(data="photos", model=name)
    recipe = replace(RECIPES["quick"], image_size=sizes[0], eval_size=sizes[1])
    with pytest.raises(ValueError, match="takes no images of") as caught:
        create_classifier(config, recipe, 3)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", ["detection", "instance", "segmentation"])
def test_a_backbone_that_does_not_take_images_of_any_size_is_refused_before_training(task, tmp_path):
    with pytest.raises(ValueError, match=r"model halonet26t takes images of some sizes only"):
        convneur.train("none", task, model="halonet26t", out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "run.json").exists()


def test_trying_sizes_draws_nothing():
    torch.manual_seed(0)
    model, arguments = create_classifier(ClassificationConfig("x", model="test_vit"), RECIPES["quick"], 3)
    torch.manual_seed(0)
    again = timm.create_model("test_vit", num_classes=3, img_size=64)
    assert arguments == {"img_size": 64}
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_model_that_takes_nothing_small_is_loaded(tmp_path):
    folder = saved(tmp_path / "model", "halonet26t", (256, 256))
    assert tuple(load_model(folder).config["input_size"]) == (3, 256, 256)
