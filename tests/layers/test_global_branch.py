"""A global branch as one operation is its modules one after another; who changes or watches one gets the modules."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize

from convneur import ops
from convneur.layers import GlobalBranch
from convneur.memory import MemoryConfig, RMSNorm, SlotMemory
from tests.covers import pairwise
from tests.layers.builders import block, outputs, stirred, watched
from tests.ops.cases import built, close, image, total


def branch(channels: int = 8, width: int = 16, **options) -> GlobalBranch:
    torch.manual_seed(3)
    return stirred(GlobalBranch(channels, width, **options))


@pytest.mark.parametrize(
    ("skip", "shift", "stride", "heads"), pairwise((True, False), (True, False), (1, 2, 4), (None, 1, 2))
)
def test_as_one_operation_it_computes_what_its_modules_compute(skip, shift, stride, heads):
    """The operation by name in float64, gradients included; and the kernel in float32."""
    single = branch(memory=MemoryConfig(heads=heads), token_skip=skip, shift=shift, token_stride=stride)
    module, x = copy.deepcopy(single).double(), image(2, 8, 13, 9).double()
    results = []
    for keep in (False, True):
        given = x.clone().requires_grad_()
        with watched(SlotMemory, "forward") as calls:
            if keep:
                with ops.keep_operations():
                    found = outputs(module(given))
            else:
                found = outputs(module(given))
        assert len(calls) == (not keep)
        leaves = [given, *module.parameters()]
        slopes = torch.autograd.grad(total(found), leaves, materialize_grads=True)
        results.append([*found, *slopes])
    close(*results, 1e-9)
    with torch.inference_mode(), watched(SlotMemory, "forward") as calls:
        close(outputs(single(x.float())), results[0][: len(found)])
    assert len(calls) == (ops.global_branch.missing is not None)


def ramp(x: Tensor) -> Tensor:
    """Factors of channels; a norm behind them would undo a factor of all alike."""
    return torch.linspace(1, 2, x.shape[-1], dtype=x.dtype)


class Ramped(nn.Module):
    """A parametrization: a layer whose output is multiplied by `ramp`."""

    def forward(self, weight: Tensor) -> Tensor:
        return (weight.T * ramp(weight.T)).T


class RampedLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        return ramp(out) * out


class RampedTokens(GlobalBranch):
    def tokens(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        tokens, grid = super().tokens(x)
        return ramp(tokens) * tokens, grid


LINEAR = ["down", "memory.to_keys", "memory.to_values", "memory.to_steps", "proj", "up", "up_shift"]
ANY = [*LINEAR, "memory", "memory.norm", "norm", "carry_norm", ""]


def replaced_forward(module: GlobalBranch, name: str) -> None:
    layer = module.get_submodule(name)
    forward = layer.forward
    layer.forward = lambda x: ramp(forward(x)) * forward(x)


def replaced_child(module: GlobalBranch, name: str) -> None:
    old = module.get_submodule(name)
    new = RampedLinear(old.in_features, old.out_features, bias=old.bias is not None)
    new.load_state_dict(old.state_dict())
    module.set_submodule(name, new)


def parametrized(module: GlobalBranch, name: str) -> None:
    parametrize.register_parametrization(module.get_submodule(name), "weight", Ramped())
    if module.get_submodule(name).bias is not None:
        parametrize.register_parametrization(module.get_submodule(name), "bias", Ramped())


def hooked(module: GlobalBranch, name: str) -> None:
    module.get_submodule(name).register_forward_hook(lambda _layer, _given, out: ramp(out) * out)


CHANGES = {
    f"{change.__name__}-{name}": (change, name)
    for change in (replaced_forward, replaced_child, parametrized, hooked)
    for name in LINEAR
}


@built
@pytest.mark.parametrize(("change", "name"), CHANGES.values(), ids=CHANGES.keys())
def test_what_is_put_in_the_place_of_a_layer_counts(change, name):
    """The kernel would ignore it. Here each multiplies what the layer gives by factors of its channels."""
    module, x = branch(token_stride=2), image(2, 8, 13, 9)
    exact = copy.deepcopy(module).double()
    with torch.no_grad():
        before = outputs(module(x))
        for parameter in exact.get_submodule(name).parameters():
            parameter.copy_(Ramped()(parameter))
        change(module, name)
        with watched(SlotMemory, "forward") as calls:
            found = outputs(module(x))
        close(found, outputs(exact(x.double())))
        assert calls
        assert sum((one - other).norm() for one, other in zip(found, before, strict=True)) > 0.1


@built
@pytest.mark.parametrize("name", ANY)
@pytest.mark.parametrize(
    "register", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"]
)
def test_a_hook_that_only_watches_is_called(register, name):
    module, x, seen = branch(), image(2, 8, 6, 6), []
    layer = module.get_submodule(name)
    with torch.no_grad():
        expected = outputs(module(x))
        handle = getattr(layer, register)(lambda each, *_: seen.append(each))
        with watched(SlotMemory, "forward") as calls:
            close(outputs(module(x)), expected)
            assert calls
            assert seen == [layer] * ("backward" not in register)
            handle.remove()
            module(x)
        assert len(calls) == 1, "the kernel serves again"


@built
def test_hooks_on_all_modules_are_called():
    module, x, seen = branch(), image(2, 8, 6, 6), []
    with torch.inference_mode(), register_module_forward_hook(lambda each, *_: seen.append(type(each))):
        module(x)
    assert {GlobalBranch, SlotMemory, RMSNorm, nn.Linear} <= set(seen)


def steps_of(heads: int) -> nn.Linear:
    return stirred(nn.Linear(16, heads))


SETTINGS: dict[str, Callable[[GlobalBranch], object]] = {
    "eps of the tokens' norm": lambda module: setattr(module.memory.norm, "eps", 0.3),
    "eps of the context's norm": lambda module: setattr(module.norm, "eps", 30.0),
    "eps of the carried token's norm": lambda module: setattr(module.carry_norm, "eps", 0.3),
    "all eps": lambda module: [setattr(m, "eps", 0.3) for m in (module.memory.norm, module.norm, module.carry_norm)],
    "heads": lambda module: setattr(module.memory, "heads", 2) or setattr(module.memory, "to_steps", steps_of(2)),
    "stride": lambda module: setattr(module, "token_stride", 3),
    "centring": lambda module: setattr(module, "center_tokens", False),
    "no shift": lambda module: setattr(module, "up_shift", None),
    "no token skip": lambda module: setattr(module, "carry_norm", None),
    "layer norm": lambda module: setattr(module, "norm", nn.LayerNorm(16)),
    "norm of torch": lambda module: setattr(module, "norm", nn.RMSNorm(16, eps=0.3)),
}


@built
@pytest.mark.parametrize("change", SETTINGS.values(), ids=SETTINGS.keys())
def test_settings_that_are_changed_later_count(change):
    """In float32, where the kernel may or may not follow, as in float64, where modules run."""
    module, x = branch(token_stride=2), image(2, 8, 13, 9)
    with torch.no_grad():
        before = outputs(module(x))
        change(module)
        found = outputs(module(x))
        close(found, outputs(copy.deepcopy(module).double()(x.double())))
        assert len(found) != len(before) or (
            found[0].shape != before[0].shape or (found[0] - before[0]).norm() > 1e-3 * before[0].norm()
        )


@built
def test_a_subclass_that_computes_something_else_is_not_passed_over():
    torch.manual_seed(3)
    module, x = stirred(RampedTokens(8, 16)), image(2, 8, 6, 6)
    with torch.no_grad(), watched(SlotMemory, "forward") as calls:
        close(outputs(module(x)), outputs(copy.deepcopy(module).double()(x.double())))
    assert len(calls) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"memory": MemoryConfig(state="mlp")},
        {"memory": MemoryConfig("linear")},
        {"memory": MemoryConfig("linear", read="causal", chunk_size=9)},
        {"memory": MemoryConfig("linear", chunk_size=9)},
        {"center_tokens": False},
        {"token_mixer": "se"},
    ],
    ids=["mlp", "linear", "causal", "chunks", "slots of tokens as they come", "se"],
)
def test_other_memories_and_mixers_go_by_their_modules(options):
    module, x = branch(**options), image(1, 8, 6, 6)
    with torch.inference_mode():
        close(outputs(module(x)), outputs(copy.deepcopy(module).double()(x.double())), 1e-4)
        with ops.keep_operations():
            close(outputs(module(x)), outputs(copy.deepcopy(module).double()(x.double())), 1e-4)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_and_layouts(dtype, channels_last):
    module, x = branch(token_stride=2), image(2, 8, 13, 9)
    x = x if channels_last else x.contiguous()
    with torch.inference_mode():
        expected = outputs(copy.deepcopy(module).double()(x.double()))
        close(outputs(module(x)), expected)
        found = outputs(module.to(dtype)(x.to(dtype)))
    assert found[0].dtype is dtype
    close(found, expected, 1e-9 if dtype is torch.float64 else 0.03)


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("size", [(6, 6), (41, 55)])
def test_rounding_is_no_context_where_all_places_are_the_same(size, kernels):
    """The mean of equal tokens is off by rounding, and two norms would raise that to the size of the tokens."""
    module, x = branch(token_stride=1), torch.randn(1, 8, 1, 1).expand(2, 8, *size)
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), ops.use_kernels(kernels):
        close(outputs(module(x)), outputs(copy.deepcopy(module).double()(x.double())), 1e-5)


@pytest.mark.parametrize("kernels", [True, False])
def test_an_empty_batch(kernels):
    with ops.use_kernels(kernels), torch.no_grad():
        for found in outputs(branch(token_stride=2)(torch.empty(0, 8, 13, 9))):
            assert found.shape == (0, 8, 7, 5)


@built
@pytest.mark.parametrize("fusion", ["gate", "gate_add", "add", "concat"])
def test_blocks_give_the_same_with_kernels_and_without(fusion):
    module, x = block(fusion), image(2, 16, 13, 9)
    with torch.inference_mode():
        expected = outputs(copy.deepcopy(module).double()(x.double()))
        with watched(SlotMemory, "forward") as calls:
            close(outputs(module(x)), expected)
            assert not calls
            with ops.use_kernels(False):
                close(outputs(module(x)), expected)
            assert calls
