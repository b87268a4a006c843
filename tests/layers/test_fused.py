"""A fused block computes what it computed, for inference, with the weights that it had."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn

from convneur import ops
from convneur.layers import ConvNeurBlock
from convneur.layers.depthwise import DepthwiseConv2d
from convneur.layers.fused import FusedLocalBranch
from convneur.ops import _library
from tests.layers.builders import block, stirred, watched
from tests.ops.cases import built, close, image

FUSIONS = [None, "gate", "gate_add", "add", "concat"]
every_fusion = pytest.mark.parametrize("fusion", FUSIONS)


def pair(fusion: str | None = None) -> tuple[ConvNeurBlock, ConvNeurBlock]:
    """A plain block and a fused copy."""
    plain = block(fusion)
    fused = copy.deepcopy(plain).fuse()
    assert (fused.fused is None) == (ops.local_branch.missing is not None)
    return plain, fused


@every_fusion
@pytest.mark.parametrize("size", [(10, 7), (3, 3), (4, 33), (1, 1)])
def test_it_computes_as_before_at_any_size_layout_and_precision(fusion, size):
    (plain, fused), x = pair(fusion), image(2, 16, *size)
    double = copy.deepcopy(plain).double()
    with torch.inference_mode():
        expected = double(x.double())
        for given in (x, x.contiguous(), x.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)):
            close(fused(given), expected)
        close(fused(x[1:]), expected[1:])
        close(copy.deepcopy(fused).double()(x.double()), expected, 1e-6)  # what is folded was folded in float32
        close(copy.deepcopy(fused).double().float()(x), expected)
        close(copy.deepcopy(fused).bfloat16()(x.bfloat16()), expected, 0.1)
        assert fused(x[:0]).shape == x[:0].shape
        with torch.autocast("cpu", torch.bfloat16):
            assert fused(x).dtype is plain(x).dtype
            close(fused(x), expected, 0.1)


@built
@every_fusion
def test_it_goes_by_the_kernel(fusion):
    (_, fused), x = pair(fusion), image(2, 16, 9, 7)
    with torch.inference_mode(), watched(nn.Conv2d, "forward") as calls:
        fused(x)
        assert not calls
    with torch.inference_mode(), ops.use_kernels(False):
        close(fused(x), copy.deepcopy(fused).double()(x.double()))


@every_fusion
def test_the_state_dict_stays_and_one_that_is_loaded_is_packed_again(fusion):
    (plain, fused), other, x = pair(fusion), stirred(block(fusion)), image(2, 16, 9, 7)
    assert list(fused.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(value, fused.state_dict()[name]) for name, value in plain.state_dict().items())
    for assign in (False, True):
        fused.load_state_dict(copy.deepcopy(other).state_dict(), assign=assign)
        with torch.inference_mode():
            close(fused(x), copy.deepcopy(other).double()(x.double()))
        fused.load_state_dict(plain.state_dict())


@built
@pytest.mark.parametrize("fusion", [None, "gate_add"])
def test_it_is_frozen_for_every_layout(fusion):
    """Weights that are changed in place are not followed; `fuse` once more follows them."""
    (plain, fused), x = pair(fusion), image(2, 16, 9, 7)
    with torch.inference_mode():
        expected = fused(x)
    with torch.no_grad():
        for module in (plain, fused):
            for layer in (module.conv_dw, module.norm, module.mlp.fc1, module.mlp.fc2):
                layer.weight.mul_(1.5)
    with torch.no_grad():
        program = torch.export.export(fused, (x,), strict=False).module()
        for module in (fused, program):
            for given in (x, x.contiguous()):
                close(module(given), expected)
        close(fused.double()(x.double()), expected)
        close(fused.float().fuse()(x), plain(x))


@every_fusion
def test_copies_are_fused(fusion):
    (_, fused), x = pair(fusion), image(2, 16, 9, 7)
    with torch.inference_mode():
        for other in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
            assert torch.equal(other(x), fused(x))
            assert (other.fused is None) == (fused.fused is None)


@built
def test_what_was_packed_for_another_processor_is_computed_all_the_same(monkeypatch):
    """As after a pickle went from one machine to another."""
    (plain, fused), x = pair(), image(2, 16, 9, 7)
    lanes = 8 if _library.LANES == 16 else 16
    packed = fused.fused
    panels = [packed.get_buffer(name) for name in ("panels1", "panels2")]
    for name, each in zip(("panels1", "panels2"), panels, strict=True):
        columns = each.mT.flatten(0, 1)  # of all panels
        columns = nn.functional.pad(columns, (0, 0, 0, -len(columns) % (2 * lanes)))
        setattr(packed, name, columns.unflatten(0, (-1, 2 * lanes)).mT.contiguous())
    with torch.inference_mode():
        close(fused(x), copy.deepcopy(plain).double()(x.double()))


@every_fusion
def test_it_refuses_to_learn(fusion):
    with pytest.raises(ValueError, match="call eval"):
        block(fusion).train().fuse()
    _, fused = pair(fusion)
    if fused.fused is not None:
        with pytest.raises(ValueError, match="cannot be trained"):
            fused.train()


@every_fusion
def test_gradients_pass_through_to_the_input(fusion):
    """Also where it was fused under inference_mode, whose tensors autograd does not take."""
    plain, x = block(fusion), image(2, 16, 9, 7)
    fused = copy.deepcopy(plain)
    with torch.inference_mode():
        fused.fuse()
    slopes = []
    for module in (plain, fused):
        given = x.clone().requires_grad_()
        slopes += torch.autograd.grad(module(given).square().sum(), given)
    close(*slopes, 1e-4)


def _set(name: str, layer: nn.Module) -> Callable[[ConvNeurBlock], None]:
    return lambda module: module.set_submodule(name, layer)


def _twice(name: str) -> Callable[[ConvNeurBlock], object]:
    return lambda module: module.get_submodule(name).register_forward_hook(lambda _layer, _given, out: 2 * out)


def _other_forward(name: str) -> Callable[[ConvNeurBlock], None]:
    def change(module: ConvNeurBlock) -> None:
        layer = module.get_submodule(name)
        layer.forward = lambda x, forward=layer.forward: 2 * forward(x)

    return change


def _settings(name: str, **settings: object) -> Callable[[ConvNeurBlock], None]:
    def change(module: ConvNeurBlock) -> None:
        for setting, value in settings.items():
            setattr(module.get_submodule(name), setting, value)

    return change


LAYERS = ("conv_dw", "norm", "mlp", "mlp.fc1", "mlp.act", "mlp.fc2")
UNLIKE = {
    "mlp": _set("mlp", nn.Identity()),
    "mlp.fc2": _set("mlp.fc2", nn.Sequential(nn.Linear(64, 16), nn.Tanh())),
    "fc2 without a bias": _set("mlp.fc2", nn.Linear(64, 16, bias=False)),
    "fc1 without a bias": _set("mlp.fc1", nn.Linear(16, 64, bias=False)),
    "GELU class": _set("mlp.act", nn.GELU("tanh")),
    "GELU setting": _settings("mlp.act", approximate="tanh"),
    "activation": _set("mlp.act", nn.Tanh()),
    "norm without a gain": _set("norm", nn.LayerNorm(16, elementwise_affine=False)),
    "no norm": _set("norm", nn.Identity()),
    "smaller kernel": _set("conv_dw", DepthwiseConv2d(16, 5)),
    "full convolution": _set("conv_dw", nn.Conv2d(16, 16, 7, padding=3)),
    "dilation": _settings("conv_dw", dilation=(2, 2), padding=(6, 6)),
    "padding mode": _settings("conv_dw", padding_mode="circular"),
    **{f"hook on {name}": _twice(name) for name in LAYERS},
    **{f"forward of {name}": _other_forward(name) for name in LAYERS},
}


@pytest.mark.parametrize("fusion", [None, "gate_add"])
@pytest.mark.parametrize("change", UNLIKE.values(), ids=UNLIKE.keys())
def test_a_block_with_other_parts_computes_as_before(change, fusion):
    plain, x = block(fusion), image(2, 16, 9, 7)
    change(plain)
    with torch.inference_mode():
        expected = plain.eval()(x)
        close(plain.fuse()(x), expected)


@built
def test_the_eps_of_the_norm_counts():
    plain, x = block(), image(2, 16, 9, 7)
    plain.norm.eps = 0.5
    fused = copy.deepcopy(plain).fuse()
    assert fused.fused is not None
    with torch.inference_mode():
        close(fused(x), copy.deepcopy(plain).double()(x.double()))


@built
@pytest.mark.parametrize("channels", [5, _library.LANES - 1])
def test_few_channels_are_left_with_pytorch(channels):
    plain, x = block(channels=channels), image(2, channels, 9, 7)
    fused = copy.deepcopy(plain).fuse()
    assert fused.fused is None
    with torch.inference_mode():
        close(fused(x), plain(x))


def test_weights_without_numbers_are_not_packed():
    with torch.device("meta"):
        assert ConvNeurBlock(16).eval().fuse().fused is None


@built
def test_a_branch_says_what_it_takes():
    branch = block().fuse().fused
    assert isinstance(branch, FusedLocalBranch)
    assert not branch.state_dict()
    assert not list(branch.parameters())
    with pytest.raises(RuntimeError), torch.inference_mode():
        branch(image(1, 17, 5, 5))
