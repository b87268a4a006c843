"""Every kind of model in every format answers as it does in PyTorch."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from timm.models.byobnet import RepVggBlock
from torch import nn

from convneur.export import agreement
from convneur.export.program import trace
from convneur.models import ConvNeur
from tests.export.builders import KINDS, ONE_STAGE, SIZES, exported, photos, small, worst

VARIANTS: dict[str, dict[str, Any]] = {
    "linear": {},
    "stages": {"dims": (8, 16), "depths": (1, 1)},
    "mlp": {"memory": {"state": "mlp"}},
    "published": {"preset": "published", "depths": (2,)},  # one block has no global branch
    "local": {"global_placement": "none"},
    "concat": {"fusion": "concat"},
    "attention": {"token_mixer": "attention"},
}
# With those in test_formats.py each format but OpenVINO meets the default memory and another, any size and one size.
# The rest of the product is slow.
COVER = [
    ("onnx", "published", False),
    ("keep-ops", "published", False),
    ("torch", "linear", False),
]
OTHERS = [
    (kind, variant, dynamic)
    for kind, variant, dynamic in product(KINDS, VARIANTS, (True, False))
    if (kind, variant, dynamic) not in COVER and not (dynamic and variant == "published")  # written in chunks
]


@pytest.mark.parametrize(
    ("kind", "variant", "dynamic"), [*COVER, *(pytest.param(*each, marks=pytest.mark.slow) for each in OTHERS)]
)
def test_it_agrees(kind, variant, dynamic, tmp_path):
    found = exported(tmp_path, kind, small(**ONE_STAGE | VARIANTS[variant]), dynamic)
    assert worst(found, SIZES if dynamic else SIZES[:1]) < 1e-4


def fused(**changes: Any) -> ConvNeur:
    """A fused model whose plain weights were changed afterwards, which it does not follow."""
    model = small(**ONE_STAGE | {"depths": (2,)} | changes).fuse()
    frozen = all(block.fused is not None for block in model.stages[0].blocks)
    batch = photos(model, SIZES[:1])[1]
    with torch.no_grad():
        before = model(batch)
        for block in model.stages[0].blocks:
            block.mlp.fc1.weight.mul_(-1)
            block.conv_dw.bias.add_(1)
        assert torch.equal(model(batch), before) == frozen, "frozen where there is a kernel to fuse for"
    return model


@pytest.mark.parametrize("keep_ops", [False, True])
def test_a_fused_model_is_exported_as_it_answers_with_plain_weights(keep_ops):
    model = fused()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    program = trace(model, (3, 32, 32), keep_ops=keep_ops).program
    assert max(agreement(model, program.module(), batch).difference for batch in photos(model, SIZES)) < 1e-4
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    shapes = {name: value.shape for name, value in before.items()}
    assert {name: value.shape for name, value in program.state_dict.items()} == shapes, "none is packed, none left over"
    assert not any(isinstance(each, torch.Tensor) for each in program.constants.values())


def test_by_hand_a_fused_model_is_exported_as_it_answers_in_every_memory_format():
    model, batch = fused(), photos(small(), SIZES[:1])[1]
    program = torch.export.export(model, (batch,), strict=False).module()
    for memory_format in (torch.contiguous_format, torch.channels_last):
        assert agreement(model, program, batch.contiguous(memory_format=memory_format)).difference < 1e-4


def test_what_timm_folds_in_models_of_other_families_is_folded():
    model = nn.Sequential(RepVggBlock(8, 8), RepVggBlock(8, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    program = trace(model, (8, 32, 32)).program
    assert [str(node.target) for node in program.graph.nodes].count("aten.conv2d.default") == 2, "of five"
    assert agreement(model, program.module(), torch.randn(3, 8, 40, 56)).difference < 1e-4
