"""What was trained without a memory is a start for a model with one: at first it computes the same."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from convneur.data.semantic import MaskEncoding
from convneur.models import create_model, save_model
from convneur.printing import Console
from convneur.tasks.backbone_utils import body_of
from convneur.tasks.classification.model import create_classifier
from convneur.tasks.detection.models import create_detector
from convneur.tasks.given_weights import start_from
from convneur.tasks.segmentation.models import create_segmenter
from convneur.tasks.segmentation.saved import save_segmenter
from convneur_options.backbone import BackboneConfig
from convneur_options.classification import RECIPES, ClassificationConfig
from convneur_options.run import RunConfig
from convneur_options.segmentation import Inference
from tests.memory.builders import stir

TINY: dict[str, Any] = {"dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
LOCAL = TINY | {"global_placement": "none"}
FUSIONS = pytest.mark.parametrize("fusion", ["gate_add", "gate", "add", "concat"])


@pytest.fixture
def classifier(tmp_path) -> nn.Module:
    """In ``tmp_path / "classifier"``, local-only."""
    model = stir(create_model("convneur_m1", **LOCAL, num_classes=3)).eval()
    save_model(model, tmp_path / "classifier", LOCAL | {"num_classes": 3})
    return model


def same(one: nn.Module, other: nn.Module) -> None:
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        found, expected = one.eval()(images), other.eval()(images)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@FUSIONS
@pytest.mark.parametrize("classes", [3, 5])
def test_a_classifier(classifier, classes, fusion, tmp_path, capsys):
    backbone = BackboneConfig(fusion=fusion, dims=(8, 16, 24, 32), depths=(1, 1, 1, 1))
    recipe = replace(RECIPES["quick"], backbone=backbone)
    config = ClassificationConfig(data="", weights=str(tmp_path / "classifier"))
    model, _ = create_classifier(config, recipe, classes, Console(stderr=True))
    same(nn.Sequential(model.stem, model.stages), nn.Sequential(classifier.stem, classifier.stages))
    said = " ".join(capsys.readouterr().err.split())
    assert "the memory (" in said
    assert ("head.fc" in said) == (classes != 3)
    if classes == 3:
        same(model, classifier)


def start(create, find, folder) -> Any:
    return start_from(create, find, RunConfig(data="", weights=str(folder)), TINY)


@FUSIONS
def test_a_classifier_for_a_segmenter_and_a_detector(classifier, fusion, tmp_path):
    backbone = TINY | {"fusion": fusion}
    segmenter = partial(create_segmenter, backbone="convneur_m1", num_classes=2, channels=32, backbone_args=backbone)
    made = start(segmenter, lambda model: model.body, tmp_path / "classifier").body.model
    same(nn.Sequential(made.stem, made.stages), nn.Sequential(classifier.stem, classifier.stages))
    detector = partial(create_detector, "retinanet", backbone="convneur_m1", num_classes=2, backbone_args=backbone)
    made = body_of(start(detector, body_of, tmp_path / "classifier")).model
    same(nn.Sequential(made.stem, made.stages), nn.Sequential(classifier.stem, classifier.stages))


@FUSIONS
def test_a_segmenter_for_a_segmenter(fusion, tmp_path):
    arguments = {"backbone": "convneur_m1", "num_classes": 2, "channels": 32, "backbone_args": LOCAL}
    given = stir(create_segmenter(**arguments)).eval()
    save_segmenter(
        given, tmp_path, arguments, MaskEncoding(("a", "b"), np.zeros((2, 3), np.uint8)), Inference(), "card"
    )
    create = partial(create_segmenter, **arguments | {"backbone_args": TINY | {"fusion": fusion}})
    same(start(create, lambda model: model.body, tmp_path), given)


def test_weights_of_another_memory_name_the_flag(tmp_path):
    arguments = TINY | {"num_classes": 3, "preset": "linear"}
    save_model(create_model("convneur_m1", **arguments), tmp_path, arguments)
    create = partial(create_segmenter, backbone="convneur_m1", num_classes=2, channels=32, backbone_args=TINY)
    with pytest.raises(ValueError, match=r"they have another memory: add --backbone\.preset linear"):
        start(create, lambda model: model.body, tmp_path)
    backbone = BackboneConfig(dims=(8, 16, 24, 32), depths=(1, 1, 1, 1))
    config = ClassificationConfig(data="", weights=str(tmp_path))
    with pytest.raises(ValueError, match=r"they have another memory: add --backbone\.preset linear"):
        create_classifier(config, replace(RECIPES["quick"], backbone=backbone), 3)


def test_other_sizes_are_refused(classifier, tmp_path):
    create = partial(create_segmenter, backbone="convneur_m1", num_classes=2, channels=32)
    with pytest.raises(ValueError, match="do not fit the backbone"):
        start(create, lambda model: model.body, tmp_path / "classifier")
    config = ClassificationConfig(data="", weights=str(tmp_path / "classifier"))
    with pytest.raises(ValueError, match="are of another variant or memory"):
        create_classifier(config, RECIPES["quick"], 3)
