"""Decoders on backbones."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from convneur.tasks.segmentation import create_segmenter, parameter_groups

TINY = {"dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "memory_width": 16}


@pytest.mark.parametrize("decoder", ["semantic_fpn", "upernet", "unet", "segformer"])
def test_gradients_reach_everything(decoder):
    model = create_segmenter(decoder, num_classes=3, backbone_args={**TINY, "ls_init_value": 0.1})
    model(torch.randn(2, 3, 64, 96)).square().mean().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_a_backbone_of_timm():
    model = create_segmenter("deeplabv3plus", "resnet18", 4).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 50, 60)).shape == (1, 4, 50, 60)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nonsense",), "decoder='nonsense' is not known; use one of semantic_fpn"),
        (("unet", "resnet1"), "is no model of timm"),
        (("deeplabv3plus", "convneur_m1"), "output_stride=16 is not supported"),
        (("unet", "swin_tiny_patch4_window7_224"), "takes images of one size only"),
    ],
)
def test_what_does_not_go_together_is_said(arguments, told):
    with pytest.raises(ValueError, match=told):
        create_segmenter(*arguments)


def test_groups_and_frozen_stages():
    model = create_segmenter("semantic_fpn", num_classes=3, frozen_stages=2, backbone_args=TINY)
    groups = {group["name"]: group for group in parameter_groups(model, 1e-3, 0.05, 0.1, 0.5)}
    inside = [p for group in groups.values() for p in group["params"]]
    wanted = [p for p in model.parameters() if p.requires_grad]
    assert sorted(map(id, inside)) == sorted(map(id, wanted))
    assert not any(p.requires_grad for n, p in model.named_parameters() if ".stem." in n or ".stages.0." in n)
    assert groups["head_decay"]["lr"] == 1e-3
    assert {group["lr"] for name, group in groups.items() if name.startswith("global")} < {
        1e-4 * 0.5**n for n in range(9)
    }


def test_semantic_fpn_takes_images_of_which_a_map_is_one_value_per_group():
    model = create_segmenter("semantic_fpn", num_classes=3, backbone_args=TINY, pyramid_channels=32, channels=32).eval()
    assert model(torch.zeros(1, 3, 32, 32)).isfinite().all()


def test_semantic_fpn_costs_what_it_does_as_published():
    """M2 at 512 x 2048 px is published with 106 GMACs; the pyramid's own convolutions are half of that."""
    with torch.device("meta"):
        model, images = create_segmenter("semantic_fpn", "convneur_m2", 150).eval(), torch.empty(1, 3, 512, 2048)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    assert counter.get_total_flops() / 2e9 == pytest.approx(106, rel=0.04)
