"""What is to answer only is fused on a CPU, and answers as before."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.utils import freeze
from torch import nn

from convneur.models.ready import ready_on
from tests.models.builders import create

CPU = torch.device("cpu")


def test_ours_is_fused_wherever_it_is():
    torch.manual_seed(0)
    backbone = create("convneur_m1", dims=(8, 16, 24), depths=(1, 1, 1), memory_width=16, num_classes=7)
    model = nn.ModuleDict({"body": backbone}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    plain, images = copy.deepcopy(model), torch.randn(2, 3, 64, 48)
    assert ready_on(CPU, model) is model
    assert all(block.last is not None for stage in model["body"].stages for block in stage.blocks)
    with torch.inference_mode():
        torch.testing.assert_close(model["body"](images), plain["body"](images), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="cannot be trained"):
        model.train()


@pytest.mark.parametrize("frozen", [True, False])
def test_models_of_timm_stay_as_they_are(frozen):
    """timm cannot fold this one once its norms are frozen."""
    model, images = timm.create_model("fastvit_t8", num_classes=5).eval(), torch.randn(1, 3, 64, 64)
    if frozen:
        freeze(model)
    with torch.inference_mode():
        expected = model(images)
        assert torch.equal(ready_on(CPU, model)(images), expected)
