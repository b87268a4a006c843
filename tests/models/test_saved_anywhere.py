"""A saved classifier gives the same answers in timm, here and in transformers, and has the name of no other weights."""

import json

import pytest
import timm
import torch
from PIL import Image

from convneur.data.transforms import Preprocessing, eval_transform
from convneur.models import load_model, save_model
from tests.models.builders import SMALL, stirred

LABELS = [*"abcdefg"]


@pytest.fixture
def saved(tmp_path):
    """A model as training leaves it, and its folder."""
    overlay = {"input_size": (3, 64, 64), "crop_pct": 0.9, "pool_size": None}
    model = stirred(pretrained_cfg_overlay=overlay)
    save_model(model, tmp_path / "model", SMALL, LABELS)
    return model, tmp_path / "model"


def test_timm_and_we_load_it_with_the_number_of_classes_in_one_place_or_in_two(saved):
    model, folder = saved
    images = torch.rand(2, 3, 64, 64)
    config = json.loads((folder / "config.json").read_text())
    assert config["num_classes"] == 7
    assert "num_classes" not in config["model_args"]
    for arguments in (config["model_args"], {**config["model_args"], "num_classes": 7}):  # as earlier versions wrote it
        (folder / "config.json").write_text(json.dumps({**config, "model_args": arguments}))
        theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        ours = load_model(folder)
        assert ours.classes == LABELS
        with torch.inference_mode():
            for each in (theirs, ours.model):
                torch.testing.assert_close(each(images), model(images))


@pytest.mark.parametrize("name", ["convneur_m1", "test_convnext"])
def test_it_does_not_carry_the_tag_of_other_weights(name, tmp_path):
    model = timm.create_model(name, num_classes=3)
    assert model.pretrained_cfg["tag"]
    save_model(model, tmp_path, {})
    assert "tag" not in json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    assert not load_model(tmp_path).config.get("tag")


def test_transformers_loads_it(saved):
    transformers = pytest.importorskip("transformers")
    model, folder = saved
    loaded = transformers.AutoModelForImageClassification.from_pretrained(folder)
    picture = Image.effect_noise((90, 70), 80).convert("RGB")
    with torch.inference_mode():
        images = eval_transform(Preprocessing.of(model.pretrained_cfg))(picture)[None]
        expected = model(images)
        torch.testing.assert_close(loaded(images).logits, expected)
    told = transformers.pipeline("image-classification", model=str(folder), top_k=7)(picture)
    assert {each["label"]: pytest.approx(each["score"], abs=1e-3) for each in told} == dict(
        zip(LABELS, expected.softmax(1)[0].tolist(), strict=True)
    )
