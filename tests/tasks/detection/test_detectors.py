"""torchvision's contract, for every detector, on ours and on other backbones."""

from __future__ import annotations

from typing import get_args

import pytest
import timm
import torch

from convneur.tasks.detection import DetectorKind, FeaturePyramid, create_detector, freeze_stages, parameter_groups
from tests.models.builders import create
from tests.tasks.detection.builders import TINY, detector, scenes

KINDS = get_args(DetectorKind)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[pytest.mark.slow] * (kind not in ("mask_rcnn", "retinanet", "fcos"))) for kind in KINDS],
)
def test_losses_reach_every_parameter_and_detections_have_their_form(kind):
    model = detector(kind)
    images, targets = scenes()
    losses = model.train()(images, targets)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    with torch.inference_mode():
        found = model.eval()(images)
    for image, each in zip(images, found, strict=True):
        assert each["boxes"].shape == (len(each["scores"]), 4)
        assert each["labels"].shape == each["scores"].shape
        assert ("masks" in each) == ("mask" in kind)
        if "masks" in each:
            assert each["masks"].shape == (len(each["scores"]), 1, *image.shape[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_without_objects(kind):
    images, targets = scenes(1)
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    nothing["masks"] = torch.zeros(0, *images[0].shape[1:], dtype=torch.uint8)
    large = {"min_size": 160, "max_size": 224}  # FCOS normalises over a map, which must be more than a point
    losses = detector(kind, **large).train()([images[0], images[0]], [nothing, targets[0]])
    assert all(loss.isfinite() for loss in losses.values())
    alone = detector(kind, **large).train()(images, [nothing])
    assert all(loss.isfinite() for loss in alone.values())
    sum(alone.values()).backward()


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv3_small_050"])
def test_any_backbone_of_timm(name):
    model = create_detector("faster_rcnn", name, num_classes=3, min_size=64, max_size=64, out_channels=16)
    sum(model.train()(*scenes()).values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_maps_with_channels_last():
    pyramid = FeaturePyramid("swin_tiny_patch4_window7_224", out_channels=16, img_size=96, depths=(1, 1, 1, 1))
    assert pyramid.channels_last
    maps = pyramid(torch.randn(1, 3, 96, 96))
    assert [tuple(level.shape) for level in maps.values()] == [(1, 16, side, side) for side in (24, 12, 6, 3)]


def test_levels_have_the_strides_they_say():
    pyramid = FeaturePyramid("convneur_m1", out_channels=16, **TINY)
    maps = pyramid(torch.randn(1, 3, 96, 160))
    assert {name: tuple(level.shape) for name, level in maps.items()} == {
        "0": (1, 16, 24, 40),
        "1": (1, 16, 12, 20),
        "2": (1, 16, 6, 10),
        "3": (1, 16, 3, 5),
    }


def test_a_model_with_weights_is_taken_as_it_is():
    model = create("convneur_m1", **TINY, num_classes=5)
    kept = model.stages[0].blocks[0].mlp.fc1.weight.clone()
    body = FeaturePyramid(model, out_channels=16).body
    assert torch.equal(body.model.stages[0].blocks[0].mlp.fc1.weight, kept)


@pytest.mark.parametrize("backbone", ["convneur_m1", "resnet18", "convnext_atto"])
@pytest.mark.parametrize("stages", [0, 1, 3])
def test_frozen_stages_learn_nothing(backbone, stages):
    pyramid = FeaturePyramid(backbone, out_channels=16)
    freeze_stages(pyramid.body, stages)
    before = {name: value.clone() for name, value in pyramid.state_dict().items()}
    learning = [p for p in pyramid.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, 0.1)
    images = torch.randn(2, 3, 64, 64)
    sum(level.square().mean() for level in pyramid.train()(images).values()).backward()
    optimizer.step()
    with torch.no_grad():
        after = pyramid.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    stem = [name for name in before if name.startswith(("body.model.stem", "body.stem", "body.conv1", "body.bn1"))]
    second = [name for name in before if name.startswith(("body.model.stages.1", "body.stages_1", "body.layer2"))]
    third = [name for name in before if name.startswith(("body.model.stages.2", "body.stages_2", "body.layer3"))]
    assert stem
    assert second
    assert bool(moved & set(stem)) == (stages < 1)
    assert bool(moved & set(second)) == (stages < 3)
    assert moved & set(third)


def test_freezing_more_than_there_is_is_refused():
    with pytest.raises(ValueError, match="frozen_stages=9 is out of range; give 0 to"):
        freeze_stages(FeaturePyramid("resnet18", out_channels=16).body, 9)


@pytest.mark.parametrize("backbone", ["convneur_m1", "resnet18"])
@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_groups_hold_every_parameter_once_and_lower_layers_learn_slower(backbone, decay):
    model = create_detector("faster_rcnn", backbone, num_classes=3, out_channels=16)
    groups = parameter_groups(model, 1.0, layer_decay=decay)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    names = dict(model.named_parameters())

    def rate(part: str) -> float:
        return max(rates[id(p)] for name, p in names.items() if part in name)

    low, high = ("body.conv1", "body.layer4") if backbone == "resnet18" else ("model.stem", "stages.3")
    assert rate("roi_heads") == 1.0
    assert (rate(low) < rate(high) < 1.0) if decay < 1 else (rate(low) == rate(high) == 1.0)


def test_unknown_names_and_backbones_without_maps_are_one_clear_line():
    with pytest.raises(ValueError, match=r"kind='yolo' is not known; use one of faster_rcnn, mask_rcnn, cascade_rcnn"):
        create_detector("yolo")
    with pytest.raises(ValueError, match="choose another backbone"):
        FeaturePyramid(timm.create_model("resnet18", features_only=True, out_indices=(1, 2)), out_channels=16)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_of_one_pixel_a_side_is_looked_at_and_learned_from(kind):
    """At 256 px for the longer side less than a pixel is left of the shorter one."""
    model = detector(kind, max_size=256, out_channels=64, mask_channels=16).eval()
    for height, width in ((1, 600), (600, 1), (1, 1)):
        with torch.inference_mode():
            (found,) = model([torch.rand(3, height, width)])
        assert (found["boxes"] <= torch.tensor([width, height, width, height])).all()
    target = {"boxes": torch.tensor([[0.0, 0.0, 600, 1]]), "labels": torch.tensor([1])}
    target["masks"] = torch.ones(1, 1, 600, dtype=torch.uint8)
    losses = model.train()([torch.rand(3, 1, 600)], [target])
    assert all(loss.isfinite() for loss in losses.values())


def test_answers_are_the_same_whatever_image_comes_first():
    """torchvision would take the scales of the maps from it: of a thin one, which is mostly padding, too large ones."""
    model, other = detector("faster_rcnn").eval(), detector("faster_rcnn").eval()
    other.load_state_dict(model.state_dict())
    image = torch.rand(3, 96, 128)
    with torch.inference_mode():
        other([torch.rand(3, 4, 128)])
        (found,), (expected,) = other([image]), model([image])
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
