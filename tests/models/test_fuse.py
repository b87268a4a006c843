"""A fused model gives what the plain one gave, follows weights that are loaded and no others, and does not learn."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from timm.utils import reparameterize_model
from torch import Tensor, nn

from convneur import ops
from convneur.layers import ConvNeurBlock
from convneur.layers.fused import FusedLocalBranch
from convneur.models import ConvNeur
from tests.models import builders

built = pytest.mark.skipif(ops.local_branch.missing is not None, reason="there are no CPU kernels to fuse for")
pytestmark = built
FORMS = pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"fusion": "gate", "token_skip": False},
        {"fusion": "concat", "global_placement": "per_layer"},
        {"fusion": "add"},
        {"global_placement": "none"},
        {"preset": "published"},
        {"preset": "linear"},
        {"preset": "linear", "memory": {"chunk_size": 4}},
        {"token_mixer": "se"},
    ],
    ids=str,
)


def stirred(**kwargs: Any) -> ConvNeur:
    """Wide enough for every kernel: with AVX-512 the narrowest has 16 channels."""
    return builders.stirred(**{"dims": (16, 24, 32)} | kwargs)


def images(batch: int = 2, height: int = 64, width: int = 48) -> Tensor:
    return torch.randn(batch, 3, height, width)


def blocks(model: nn.Module) -> list[ConvNeurBlock]:
    return [module for module in model.modules() if isinstance(module, ConvNeurBlock)]


def fused_parts(model: nn.Module) -> int:
    return sum(isinstance(module, FusedLocalBranch) for module in model.modules())


def other_weights() -> dict[str, Tensor]:
    return {name: 0.9 * value for name, value in stirred().state_dict().items()}


def plain(weights: dict[str, Tensor]) -> ConvNeur:
    model = stirred()
    model.load_state_dict(weights)
    return model


@torch.inference_mode()
def logits(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


@FORMS
def test_outputs_stay_and_so_does_the_state_dict(arguments):
    model = stirred(**arguments)
    kept, x = copy.deepcopy(model), images(2, 101, 75)
    assert model.fuse() is model
    assert fused_parts(model) == len(blocks(model)) > 0
    torch.testing.assert_close(logits(model, x), logits(kept, x), rtol=1e-5, atol=1e-5)
    for kernels in (True, False):
        with ops.use_kernels(kernels):
            torch.testing.assert_close(logits(model, x), logits(kept, x), rtol=1e-4, atol=1e-5)
    state = model.state_dict()
    assert list(state) == list(kept.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in kept.state_dict().items())
    model.fuse()
    assert fused_parts(model) == len(blocks(model)), "a second time changes nothing"


def test_timm_fuses_a_copy():
    model, x = stirred(), images()
    fused = reparameterize_model(model)
    assert (fused_parts(model), fused_parts(fused)) == (0, 3)
    torch.testing.assert_close(logits(fused, x), logits(model, x), rtol=1e-5, atol=1e-5)


def change_what_is_packed(model: ConvNeur) -> None:
    with torch.no_grad():
        for block in blocks(model):
            for layer in (block.conv_dw, block.norm, block.mlp):
                for parameter in layer.parameters():
                    parameter.mul_(1.5)


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "references"])
def test_changed_weights_are_not_followed_whatever_the_layout(kernels):
    model, x = stirred().fuse(), images()
    expected = logits(model, x)
    change_what_is_packed(model)
    with ops.use_kernels(kernels):
        for layout in (torch.contiguous_format, torch.channels_last):
            found = logits(model, x.contiguous(memory_format=layout))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
            found = logits(copy.deepcopy(model).to(memory_format=layout), x)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_an_export_has_the_weights_that_were_packed():
    model, x = stirred(dims=(16, 24), depths=(1, 1)).fuse(), images()
    expected = logits(model, x)
    change_what_is_packed(model)
    exported = torch.export.export(model, (x,), strict=False).module()
    torch.testing.assert_close(logits(exported, x), expected, rtol=1e-4, atol=1e-4)


def test_what_is_not_packed_is_followed():
    model, x = stirred().fuse(), images()
    follows = stirred()
    with torch.no_grad():
        for each in (model, follows):
            each.head.fc.weight.mul_(2)
            each.stages[1].downsample[1].weight.mul_(2)
            each.stages[0].blocks[0].global_branch.up.bias.add_(1)
    torch.testing.assert_close(logits(model, x), logits(follows, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("to", [torch.float64, torch.bfloat16, torch.channels_last])
def test_it_follows_to_another_precision_and_layout(to):
    model, x = stirred().fuse(), images()
    expected = logits(model, x)
    if isinstance(to, torch.dtype):
        found = logits(model.to(to), x.to(to)).float()
    else:
        found = logits(model.to(memory_format=to), x)
    rounding = 0.05 if to is torch.bfloat16 else 1e-5
    torch.testing.assert_close(found, expected, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_weights_that_are_loaded_are_packed_again(assign, inside):
    model, x = stirred().fuse(), images()
    whole = nn.ModuleDict({"body": model}) if inside else model
    weights = other_weights()
    whole.load_state_dict({f"body.{k}": v for k, v in weights.items()} if inside else weights, assign=assign)
    assert fused_parts(model) == 3
    torch.testing.assert_close(logits(model, x), logits(plain(other_weights()), x), rtol=1e-5, atol=1e-5)


def test_loaded_in_another_precision_it_follows_without_kernels():
    model, x = stirred().fuse().double(), images().double()
    model.load_state_dict(other_weights())
    torch.testing.assert_close(logits(model, x), logits(plain(other_weights()).double(), x), rtol=1e-9, atol=1e-9)


def test_it_refuses_to_train():
    with pytest.raises(ValueError, match="call eval"):
        stirred().train().fuse()
    model = stirred().fuse()
    for whole in (model, nn.Sequential(model)):
        with pytest.raises(ValueError, match="cannot be trained; load its state dict into a new one"):
            whole.train()
    assert model.train(False) is model


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_a_copy_of_a_fused_model_is_fused(copied):
    model, x = stirred().fuse(), images()
    other = copied(model)
    assert torch.equal(logits(other, x), logits(model, x))
    assert fused_parts(other) == 3
    with pytest.raises(ValueError, match="cannot be trained"):
        other.train()
    other.load_state_dict(other_weights())
    torch.testing.assert_close(logits(other, x), logits(plain(other_weights()), x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(model, x), logits(stirred(), x), rtol=1e-5, atol=1e-5)


def test_a_block_that_is_watched_or_adapted_stays_as_it_is():
    model, x, seen = stirred(), images(), []
    first, second, third = blocks(model)
    first.mlp.fc1.register_forward_hook(lambda *call: seen.append("hook"))
    second.mlp.act = nn.ReLU()
    expected = logits(model, x)
    torch.testing.assert_close(logits(model.fuse(), x), expected, rtol=1e-5, atol=1e-5)
    assert [block.fused is not None for block in (first, second, third)] == [False, False, True]
    assert seen == ["hook", "hook"]


def test_hooks_on_the_global_branch_are_called():
    model, x, seen = stirred().fuse(), images(), []
    branch = blocks(model)[0].global_branch
    expected = logits(model, x)
    branch.memory.to_values.register_forward_hook(lambda *call: seen.append(call[2].shape))
    torch.testing.assert_close(logits(model, x), expected, rtol=1e-5, atol=1e-5)
    assert seen == [(2, 12, 16)]


def test_gradients_pass_through_a_model_that_was_fused_in_inference_mode():
    x = images().requires_grad_()
    stirred()(x).sum().backward()
    expected, x.grad = x.grad, None
    model = stirred()
    with torch.inference_mode():
        model.fuse()
    model(x).sum().backward()
    torch.testing.assert_close(x.grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_fused_model_is_exported_with_dynamic_batch_and_size():
    model = stirred().fuse()
    dynamic = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    exported = torch.export.export(model, (images(2, 96, 64),), dynamic_shapes=(dynamic,), strict=False).module()
    for shape in [(1, 64, 64), (2, 101, 75)]:
        x = images(*shape)
        torch.testing.assert_close(logits(exported, x), logits(model, x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_fused_model_compiles():
    model, x = stirred(dims=(16, 24), depths=(1, 1)).fuse(), images()
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="aot_eager")
    torch.testing.assert_close(logits(compiled, x), logits(model, x), rtol=1e-5, atol=1e-5)
