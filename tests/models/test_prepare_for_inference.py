"""A model that is to be asked and not to learn is fused on a CPU, and gives what it gave."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.utils import freeze
from torch import nn

from convneur import ops
from convneur.layers import ConvNeurBlock
from convneur.models.prepare_for_inference import prepare_for_inference
from tests.models.builders import stirred

CPU = torch.device("cpu")


@pytest.mark.skipif(ops.local_branch.missing is not None, reason="there are no CPU kernels to fuse for")
def test_convneur_blocks_are_fused_wherever_they_are():
    model = nn.ModuleDict({"body": stirred(dims=(16, 24, 32))}).eval()
    plain, images = copy.deepcopy(model), torch.randn(2, 3, 64, 48)
    assert prepare_for_inference(model, CPU) is model
    assert all(module.fused is not None for module in model.modules() if isinstance(module, ConvNeurBlock))
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
        assert torch.equal(prepare_for_inference(model, CPU)(images), expected)


def test_a_model_in_training_mode_is_refused_where_it_would_be_fused():
    model = stirred().train()
    with pytest.raises(ValueError, match="call eval"):
        prepare_for_inference(model, CPU)
    assert prepare_for_inference(model, torch.device("meta")).training
