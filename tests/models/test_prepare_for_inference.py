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
    images, ready = torch.randn(2, 3, 64, 48), prepare_for_inference(model, CPU)
    assert all(module.fused is not None for module in ready.modules() if isinstance(module, ConvNeurBlock))
    assert not any(module.fused is not None for module in model.modules() if isinstance(module, ConvNeurBlock))
    with torch.inference_mode():
        torch.testing.assert_close(ready["body"](images), model["body"](images), rtol=1e-5, atol=1e-5)
    assert all(one is other for one, other in zip(model.parameters(), ready.parameters(), strict=True)), "shared"
    with pytest.raises(ValueError, match="cannot be trained"):
        ready.train()


def test_what_is_in_several_places_and_what_has_hooks_is_so_in_the_other_model():
    shared, seen = nn.Linear(2, 2), []
    model = nn.Sequential(shared, nn.ReLU(), shared)
    shared.register_forward_hook(lambda *_: seen.append("called"))
    ready = prepare_for_inference(model, CPU)
    assert ready[0] is ready[2] is not shared
    ready(torch.ones(1, 2))
    assert seen == ["called"] * 2


@pytest.mark.parametrize("frozen", [True, False])
def test_models_of_timm_stay_as_they_are(frozen):
    """timm cannot fold this one once its norms are frozen."""
    model, images = timm.create_model("fastvit_t8", num_classes=5).eval(), torch.randn(1, 3, 64, 64)
    if frozen:
        freeze(model)
    with torch.inference_mode():
        expected = model(images)
        assert torch.equal(prepare_for_inference(model, CPU)(images), expected)


@pytest.mark.parametrize("make", [stirred, lambda: timm.create_model("test_resnet")])
def test_a_model_goes_on_training_while_the_other_is_asked(make):
    model, images = make().train(), torch.randn(2, 3, 64, 64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        answers = prepare_for_inference(model, CPU)(images)
        assert model.training
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "statistics stay"
        torch.testing.assert_close(answers, copy.deepcopy(model).eval()(images), rtol=1e-4, atol=1e-4)
