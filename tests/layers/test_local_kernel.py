"""The local branch by C is what the oracle says, and runs where it may."""

from __future__ import annotations

import copy
from threading import Event, Thread

import pytest
import torch
from torch import Tensor, nn

from convneur.layers import ConvNeurBlock, local_kernel
from convneur.layers.local_kernel import LANES, LocalWeights
from convneur.memory import Linear
from convneur.memory.packed import ONEDNN_AVAILABLE
from tests.memory.kernel_builders import guarded, stirred

pytestmark = pytest.mark.skipif(local_kernel.LIBRARY is None, reason="the C library of the local block was not built")
PROCESSORS = ["avx2"] + ["avx512"] * torch.backends.cpu.get_cpu_capability().startswith("AVX512")


@pytest.fixture(params=PROCESSORS, autouse=True)
def processor(request, monkeypatch) -> str:
    monkeypatch.setattr(local_kernel, "PROCESSOR", request.param)
    return request.param


@pytest.fixture
def calls(monkeypatch) -> list[LocalWeights]:
    """What the kernel was called with."""
    made: list[LocalWeights] = []
    run = local_kernel.local
    monkeypatch.setattr(local_kernel, "local", lambda *given: made.append(given[0]) or run(*given))
    return made


def maps(*size: int, channels: int = 16, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, *size).to(memory_format=torch.channels_last)


def laid_out(block: ConvNeurBlock) -> LocalWeights:
    weights = local_kernel.lay_out(block.conv_dw, block.norm, block.mlp.fc1, block.mlp.fc2, block.gamma)
    assert weights is not None
    return weights


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("channels", [16, 17, 24, 40, 48, 63, 96, 160])
@pytest.mark.parametrize("size", [(1, 1), (2, 9), (7, 7), (10, 13), (33, 18)])
def test_it_is_what_the_oracle_says(channels, size, residual):
    """Widths that panels and lanes divide and do not; maps smaller than the filter, and wider than a strip."""
    torch.manual_seed(0)
    block, x = stirred(ConvNeurBlock(channels)), maps(*size, channels=channels)
    exact = copy.deepcopy(block).double()
    with torch.inference_mode():
        expected = exact.local(x.double()) * exact.gamma.view(1, -1, 1, 1) + (x if residual else 0)
        found = local_kernel.local(laid_out(block), x, residual)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=2e-6 * expected.abs().max().item())


def test_wide_maps_take_larger_groups():
    torch.manual_seed(0)
    block, x = stirred(ConvNeurBlock(520)), maps(11, 12, channels=520)
    assert block.mlp.fc1.out_features > local_kernel.WIDE
    with torch.inference_mode():
        expected = copy.deepcopy(block).double()(x.double()).float()
        torch.testing.assert_close(local_kernel.local(laid_out(block), x, True), expected, rtol=1e-4, atol=1e-4)


def only_gelu(channels: int) -> ConvNeurBlock:
    """A block that answers with GELU of b + b', the biases of its convolution (before the norm, so without effect)
    and of its first map."""
    block = ConvNeurBlock(channels).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
        block.gamma.fill_(1)
        block.mlp.fc2.weight[:, :channels] = torch.eye(channels)
    return block


def test_gelu_is_right_at_any_number():
    """To 5e-7 of all numbers from -12 to 12, in steps of 1/4096, and of some far away."""
    steps = torch.arange(-12 * 4096, 12 * 4096) / 4096
    numbers = torch.cat([steps, torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e30, -1e30, 5.5, -5.5])])
    block, x = only_gelu(64), maps(1, 1, channels=64, batch=1)
    found = []
    with torch.inference_mode():
        for some in numbers.split(64):
            block.mlp.fc1.bias[: len(some)] = some
            found.append(local_kernel.local(laid_out(block), x, False).flatten()[: len(some)])
    exact = nn.functional.gelu(numbers.double())
    torch.testing.assert_close(torch.cat(found).double(), exact, rtol=2e-7, atol=2e-7)


def test_what_is_no_number_stays_none_and_stays_where_it_is():
    block, x = stirred(ConvNeurBlock(16)), maps(20, 20)
    spoilt = x.clone(memory_format=torch.preserve_format)
    spoilt[1, 3, 10, 10] = torch.nan
    weights = laid_out(block)
    with torch.inference_mode():
        clean, found = local_kernel.local(weights, x, True), local_kernel.local(weights, spoilt, True)
    near = torch.zeros(2, 20, 20, dtype=torch.bool)
    near[1, 7:14, 7:14] = True
    assert found.isnan().any(1).equal(near)
    assert found.isnan().all(1).equal(near)
    assert torch.equal(found.permute(0, 2, 3, 1)[~near], clean.permute(0, 2, 3, 1)[~near])


def test_it_writes_into_its_own_alone(processor):
    """Called as `local` does, with guards behind the answer and the room."""
    block, (batch, height, width, channels, hidden, group, threads) = (
        stirred(ConvNeurBlock(24)),
        (2, 5, 9, 24, 96, 28, 2),
    )
    weights, x = laid_out(block), maps(height, width, channels=channels)
    (out, behind_out) = guarded(batch, height, width, channels)
    (room, behind_room) = guarded(threads * group * (channels + hidden + 2 * local_kernel.APART))
    arrays = (x, *weights[:-1], out, room)
    getattr(local_kernel.LIBRARY, f"convneur_local_{processor}")(
        *(array.data_ptr() for array in arrays), 1, threads, batch, height, width, channels, hidden, group, weights.eps
    )
    assert (behind_out == 7).all()
    assert (behind_room == 7).all()
    with torch.inference_mode():
        torch.testing.assert_close(out.permute(0, 3, 1, 2), block(x), rtol=1e-5, atol=1e-5)


def test_each_image_is_answered_by_itself_whatever_the_threads():
    """Batches and threads change who makes a pixel, and not what comes."""
    block, x, before = stirred(ConvNeurBlock(40)), maps(13, 11, channels=40, batch=3), torch.get_num_threads()
    weights = laid_out(block)
    with torch.inference_mode():
        whole = local_kernel.local(weights, x, True)
        try:
            for threads in (1, 2, 3, 5):
                torch.set_num_threads(threads)
                assert torch.equal(local_kernel.local(weights, x, True), whole)
                assert torch.equal(local_kernel.local(weights, x[1:2], True), whole[1:2])
        finally:
            torch.set_num_threads(before)


def test_a_fused_block_goes_by_it(calls):
    block = stirred(ConvNeurBlock(16))
    fused, x = copy.deepcopy(block).fuse(), maps(9, 9)
    with torch.inference_mode():
        torch.testing.assert_close(fused(x), block(x), rtol=1e-5, atol=1e-5)
    assert len(calls) == 1
    for layer in (fused.conv_dw, fused.mlp.fc1, fused.mlp.fc2):
        assert layer.fuse().packed is None, "nothing would read it"


@pytest.mark.parametrize("intel", [True, False])
def test_on_intel_wide_maps_of_many_pixels_are_left_with_torch(intel, calls, monkeypatch):
    monkeypatch.setattr(local_kernel, "MKL_AT_HOME", intel)
    wide = stirred(ConvNeurBlock(256))
    fused, small, large = copy.deepcopy(wide).fuse(), maps(32, 32, channels=256, batch=1), maps(32, 33, channels=256)
    with torch.inference_mode():
        torch.testing.assert_close(fused(small), wide(small), rtol=1e-4, atol=1e-4)
        assert len(calls) == 1
        torch.testing.assert_close(fused(large), wide(large), rtol=1e-4, atol=1e-4)
        assert len(calls) == (1 if intel else 2)
    if ONEDNN_AVAILABLE:
        assert (fused.last.packed is not None) == intel
    for layer in (fused.conv_dw, fused.mlp.fc1):
        layer.fuse()
    with torch.no_grad():
        for each in (wide, fused):
            each.mlp.fc1.weight.mul_(2)
            each.conv_dw.weight.mul_(3)
    with torch.inference_mode():
        for x in (small, large):
            torch.testing.assert_close(fused(x), wide(x), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(fused(torch._neg_view(x)), wide(-x), rtol=1e-4, atol=1e-4)


def test_who_wants_something_else_is_left_with_torch(calls):
    """Gradients, other layouts and precisions, autocast, tracing, other parts: as before, and to the same result."""
    block = stirred(ConvNeurBlock(16))
    fused, x = copy.deepcopy(block).fuse(), maps(9, 9)

    def check(make=lambda module, x: module(x), x=x) -> None:
        torch.testing.assert_close(make(fused, x), block(x), rtol=1e-5, atol=1e-5)
        assert not calls

    check()  # gradients
    with torch.no_grad():
        check(x=x.contiguous())
        check(lambda module, x: torch.compile(module, backend="aot_eager")(x))
        check(lambda module, x: torch.export.export(module, (x,), strict=False).module()(x))
        check(lambda module, x: torch.jit.trace(module, x, check_trace=False)(x))
        check(lambda module, x: torch.func.vmap(module)(x[None])[0])
        with torch.autocast("cpu", torch.bfloat16):
            fused(x)
        assert not calls
        copy.deepcopy(fused).double()(x.double())
        assert not calls
        other = copy.deepcopy(fused)
        other.mlp.act = nn.ReLU()
        other(x)
        assert not calls
        fused(x)
        assert len(calls) == 1


def _dilated(block: ConvNeurBlock) -> None:
    block.conv_dw.dilation, block.conv_dw.padding = (2, 2), (6, 6)


def _circular(block: ConvNeurBlock) -> None:
    block.conv_dw.padding_mode, block.conv_dw._reversed_padding_repeated_twice = "circular", [3] * 4


def _other_eps(block: ConvNeurBlock) -> None:
    block.norm.eps = 0.5


def _other_gelu(block: ConvNeurBlock) -> None:
    block.mlp.act.approximate = "tanh"


def _scaled(block: ConvNeurBlock) -> None:
    for _ in range(2):  # the second could lie where the first weight was
        block.mlp.fc1.weight.data = block.mlp.fc1.weight.data * 1.5


@pytest.mark.parametrize("change", [_dilated, _circular, _other_eps, _other_gelu, _scaled])
@pytest.mark.parametrize("before", [True, False])
def test_changed_settings_and_weights_are_seen(change, before):
    """Made before the block is fused, and after."""
    plain, x = stirred(ConvNeurBlock(16)), maps(9, 9)
    fused = copy.deepcopy(plain)
    change(plain)
    with torch.inference_mode():
        if not before:
            fused.fuse()(x)
        change(fused)
        if before:
            fused.fuse()
        torch.testing.assert_close(fused(x), plain(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("part", "other"),
    [
        ("mlp.fc1", Linear(16, 32)),
        ("conv_dw", nn.Conv2d(16, 16, 7, padding=3, groups=8)),
        ("norm", nn.LayerNorm((9, 16))),
    ],
)
def test_weights_that_do_not_fit_are_not_laid_out(part, other):
    block = stirred(ConvNeurBlock(16))
    block.set_submodule(part, other)
    assert local_kernel.lay_out(block.conv_dw, block.norm, block.mlp.fc1, block.mlp.fc2, block.gamma) is None


@pytest.mark.parametrize("name", ["conv_dw.weight", "norm.bias", "mlp.fc1.bias", "mlp.fc2.weight"])
def test_tensors_of_other_kinds_are_left_with_torch(name):
    """A subclass may have no memory of its own."""
    block = stirred(ConvNeurBlock(16))
    layer, last = block.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
    kind = type("Other", (nn.Parameter,), {})
    setattr(layer, last, kind(getattr(layer, last).detach()))
    assert local_kernel.lay_out(block.conv_dw, block.norm, block.mlp.fc1, block.mlp.fc2, block.gamma) is None


def test_a_changed_block_is_exported_as_it_is():
    block, x = stirred(ConvNeurBlock(16)).fuse(), maps(9, 9)
    with torch.no_grad():
        block(x)
        block.mlp.fc2 = Linear(64, 16)
        for strict in (True, False):
            program = torch.export.export(copy.deepcopy(block), (x,), strict=strict).module()
            torch.testing.assert_close(program(x), block(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [24, 96, 100])
def test_norms_of_equal_numbers_are_nothing(channels):
    """A mean that is off by a rounding error would be brought up a thousand times."""
    block, x = stirred(ConvNeurBlock(channels)), maps(5, 5, channels=channels)
    with torch.no_grad():
        block.conv_dw.weight.zero_()
        block.conv_dw.bias.fill_(1000.1)
        exact = copy.deepcopy(block).double().local(x.double()).float() * block.gamma.view(1, -1, 1, 1)
        torch.testing.assert_close(local_kernel.local(laid_out(block), x, False), exact, rtol=1e-5, atol=1e-5)


def test_another_thread_may_lay_out_anew_meanwhile(monkeypatch):
    """What was laid out is whole until the new one is."""
    block, x = stirred(ConvNeurBlock(16)).fuse(), maps(4, 4)
    with torch.inference_mode():
        expected = block(x)
    begun, answered = Event(), Event()
    lay_out, serves, other = local_kernel.lay_out, local_kernel.serves, Thread(target=block.fuse)

    def slowly(*given):
        begun.set()
        assert answered.wait(30)
        return lay_out(*given)

    def interrupted(*given) -> bool:
        found = serves(*given)
        other.start()
        assert begun.wait(30)
        return found

    monkeypatch.setattr(local_kernel, "lay_out", slowly)
    monkeypatch.setattr(local_kernel, "serves", interrupted)
    try:
        with torch.inference_mode():
            assert torch.equal(block(x), expected)
    finally:
        answered.set()
        other.join()


@pytest.mark.parametrize("narrow", [8, 15])
def test_few_channels_are_left_with_torch(narrow, processor, calls):
    if narrow >= LANES[processor]:
        pytest.skip("they are enough here")
    block = stirred(ConvNeurBlock(narrow))
    with torch.inference_mode():
        expected = block(maps(9, 9, channels=narrow).mul(0))
        torch.testing.assert_close(block.fuse()(maps(9, 9, channels=narrow).mul(0)), expected)
    assert not calls


def test_copies_and_moved_blocks_are_laid_out_anew(calls):
    block, x = stirred(ConvNeurBlock(16)), maps(9, 9)
    fused = copy.deepcopy(block).fuse()
    there = copy.deepcopy(fused).double().float()
    with torch.no_grad():
        there.conv_dw.weight.mul_(2)
        block.conv_dw.weight.mul_(2)
        torch.testing.assert_close(there(x), block(x), rtol=1e-5, atol=1e-5)
    assert len(calls) == 1
    assert calls[0].filters.data_ptr() != fused.by_hand.filters.data_ptr()


def test_maps_without_pixels_are_left_with_torch(calls):
    block = stirred(ConvNeurBlock(16)).fuse()
    with torch.inference_mode():
        assert block(torch.empty(0, 16, 5, 5).to(memory_format=torch.channels_last)).shape == (0, 16, 5, 5)
    assert not calls
