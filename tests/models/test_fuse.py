"""A fused model computes what the plain one computes, and does not pretend to learn."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from timm.utils import reparameterize_model
from torch import Tensor

from convneur import MemoryConfig, NeuralMemory
from convneur.layers import GlobalBranch
from convneur.memory import Linear, Maps, answer, fold, maps_of, products, read_folded, reference, write_folded
from convneur.models import ConvNeur
from tests.models.builders import create

SMALL = {"dims": (8, 16, 24), "depths": (1, 1, 1), "memory_width": 16, "num_classes": 7}


def stirred(**kwargs) -> ConvNeur:
    """A model none of whose weights is what a new one has."""
    torch.manual_seed(0)
    model = create("convneur_m1", **SMALL | kwargs).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def linears(model: ConvNeur) -> list[Linear]:
    return [layer for layer in model.modules() if isinstance(layer, Linear)]


@pytest.mark.parametrize("knobs", [{}, {"momentum": False}, {"decay": False}, {"reference_length": None}, {"heads": 2}])
@pytest.mark.parametrize("count", [1, 9, 196])
def test_the_folded_memory_is_what_the_oracle_says(knobs, count, monkeypatch):
    """Output and every gradient, in float64 to 1e-9 and, through oneDNN where it serves, in float32 to 1e-4."""
    monkeypatch.setattr(products, "SMALL", 1)
    torch.manual_seed(0)
    memory = NeuralMemory(16, MemoryConfig(max_step=0.5, **knobs))
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    tokens, proj, grad = torch.randn(2, count, 16), torch.randn(16, 16), torch.randn(2, count, 16)

    def run(memory: NeuralMemory, function: Callable[..., Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        given = [t.to(dtype, copy=True).requires_grad_() for t in (tokens, proj)]
        out = function(memory, *given)
        leaves = dict(memory.named_parameters()) | {"tokens": given[0], "proj": given[1]}
        slopes = torch.autograd.grad(out, list(leaves.values()), grad.to(dtype), materialize_grads=True)
        return {"output": out} | dict(zip(leaves, slopes, strict=True))

    def maps(memory: NeuralMemory, proj: Tensor) -> Maps:
        found = maps_of(memory, Linear(16, 16, bias=False))
        assert found is not None
        return found._replace(proj=proj)

    def folded(memory: NeuralMemory, tokens: Tensor, proj: Tensor) -> Tensor:
        once = fold(maps(memory, proj))
        return read_folded(once, write_folded(memory.config, once, tokens))

    def by_hand(memory: NeuralMemory, tokens: Tensor, proj: Tensor) -> Tensor:
        out = answer(memory.config, maps(memory, proj), tokens)
        assert type(out.grad_fn).__name__ in ("AnswerBackward", "AnswerByKernelBackward")
        return out

    def oracle(memory: NeuralMemory, tokens: Tensor, proj: Tensor) -> Tensor:
        return F.linear(reference(memory, tokens), proj)

    double = copy.deepcopy(memory).double()
    expected = run(double, oracle, torch.float64)
    for function in (folded, by_hand):
        for of, dtype, tolerance in ((double, torch.float64, 1e-9), (memory, torch.float32, 1e-4)):
            got = run(of, function, dtype)
            for name, value in expected.items():
                assert (got[name] - value).norm() <= tolerance * (value.norm() + 1e-3), (function, name)


def test_a_hook_inside_the_memory_is_called():
    model, seen = stirred(), []
    branch = next(module for module in model.modules() if isinstance(module, GlobalBranch))
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = model(images)
        branch.memory.to_values.register_forward_hook(lambda *call: seen.append(call[2].shape))
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)
    assert seen == [(1, 16, 16)]


@pytest.mark.parametrize("changes", [{}, {"fusion": "gate", "carry_tokens": False}, {"global_placement": "per_layer"}])
def test_outputs_stay_and_so_does_the_state_dict(changes):
    model = stirred(**changes)
    kept = copy.deepcopy(model)
    images = torch.randn(2, 3, 101, 75)
    assert model.fuse() is model
    assert all(branch.folded is not None for branch in model.modules() if isinstance(branch, GlobalBranch))
    with torch.inference_mode():
        torch.testing.assert_close(model(images), kept(images), rtol=1e-5, atol=1e-5)
    state = model.state_dict()
    assert list(state) == list(kept.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in kept.state_dict().items())


def test_timm_fuses_a_copy():
    model = stirred()
    fused = reparameterize_model(model)
    images = torch.randn(2, 3, 64, 64)
    assert [m.folded is None for m in model.modules() if isinstance(m, GlobalBranch)] == [True] * 3
    assert [m.folded is None for m in fused.modules() if isinstance(m, GlobalBranch)] == [False] * 3
    with torch.inference_mode():
        torch.testing.assert_close(fused(images), model(images), rtol=1e-5, atol=1e-5)
    reparameterize_model(stirred(fusion="concat"))  # has a linear map of its own for both branches


def test_weights_that_are_loaded_are_folded_again():
    model, other = stirred().fuse(), stirred()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.9)
    model.load_state_dict(other.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), other(images), rtol=1e-5, atol=1e-5)


def test_it_follows_to_another_precision():
    model = stirred().fuse().double()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model(images.double()).float(), stirred()(images), rtol=1e-5, atol=1e-5)


def test_it_refuses_to_train():
    with pytest.raises(ValueError, match="call eval"):
        stirred().train().fuse()
    with pytest.raises(ValueError, match="cannot be trained; load its state dict into a new one"):
        stirred().fuse().train()


@pytest.mark.parametrize(
    "changes",
    [{"memory": {"state": "mlp"}}, {"preset": "published"}, {"memory": {"chunk_size": 4}}, {"globalizer": "se"}],
)
def test_what_cannot_be_folded_gives_the_same_and_refuses_to_train_all_the_same(changes):
    model, images = stirred(**changes), torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = model(images)
        torch.testing.assert_close(model.fuse()(images), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="cannot be trained"):
        model.train()


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_a_copy_of_a_fused_model_is_fused(copied):
    model, images = stirred().fuse(), torch.randn(1, 3, 64, 64)
    other = copied(model)
    with torch.inference_mode():
        torch.testing.assert_close(other(images), model(images), rtol=0, atol=0)
    assert all((a.packed is None) == (b.packed is None) for a, b in zip(linears(model), linears(other), strict=True))
    with pytest.raises(ValueError, match="cannot be trained"):
        other.train()


def test_a_fused_model_is_exported_with_dynamic_batch_and_size():
    model = stirred().fuse()
    dynamic = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    exported = torch.export.export(model, (torch.randn(2, 3, 96, 64),), dynamic_shapes=(dynamic,), strict=False)
    for shape in [(1, 3, 64, 64), (2, 3, 101, 75)]:
        images = torch.randn(shape)
        with torch.inference_mode():
            torch.testing.assert_close(exported.module()(images), model(images), rtol=1e-4, atol=1e-4)


def test_what_is_inside_a_fused_memory_can_still_be_looked_at_and_replaced():
    model, images = stirred().fuse(), torch.randn(1, 3, 64, 64)
    branch, seen = next(module for module in model.modules() if isinstance(module, GlobalBranch)), []
    with torch.inference_mode():
        expected = model(images)
        handle = branch.proj.register_forward_hook(lambda *call: seen.append("proj"))
        torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)
        assert seen == ["proj"]
    other = stirred()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.9)
    model.load_state_dict(other.state_dict())  # while it cannot be folded
    handle.remove()
    with torch.inference_mode():
        torch.testing.assert_close(model(images), other(images), rtol=1e-5, atol=1e-5)
    branch.memory.store_norm = torch.nn.LayerNorm(16)
    assert maps_of(branch.memory, branch.proj) is None, "another norm is not folded as if it were ours"


def test_gradients_pass_through_a_model_that_was_fused_in_inference_mode():
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    stirred()(images).sum().backward()
    expected, images.grad = images.grad, None
    model = stirred()
    with torch.inference_mode():
        model.fuse()
    model(images).sum().backward()
    torch.testing.assert_close(images.grad, expected, rtol=1e-4, atol=1e-5)


def test_a_fused_model_compiles():
    model, images = stirred().fuse(), torch.randn(2, 3, 64, 64)
    torch.compiler.reset()
    with torch.inference_mode():
        compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="aot_eager")
        torch.testing.assert_close(compiled(images), model(images), rtol=1e-5, atol=1e-5)
