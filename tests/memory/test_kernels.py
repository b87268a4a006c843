"""The kernels in C compute what the oracle computes, are taken where they serve, and are not needed."""

from __future__ import annotations

import copy
import platform
import shutil
import sys
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convneur import MemoryConfig
from convneur.layers import GlobalBranch
from convneur.memory import Linear, RMSNorm, fold, kernels, maps_of, reference
from convneur.memory.neural_memory import NeuralMemory

built = pytest.mark.skipif(kernels.LIBRARY is None, reason="the C library of the memory was not built")


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="it is for Linux on x86-64")
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
@pytest.mark.skipif(not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="the processor has no AVX2")
def test_it_is_built_where_it_can_be():
    assert kernels.LIBRARY is not None, "pip install builds it (hatch_build.py)"


def stirred(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


@built
@pytest.mark.parametrize("knobs", [{}, {"momentum": False}, {"decay": False}, {"reference_length": None}])
@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("width", [16, 40, 80])
@pytest.mark.parametrize("count", [1, 9, 196])
def test_the_memory_is_what_the_oracle_says(knobs, heads, width, count):
    """Heads of 4 to 80 numbers, which eight lanes divide and do not; two images, centred and not."""
    config = MemoryConfig(max_step=0.5, heads=heads, **knobs)
    memory, proj = stirred(NeuralMemory(width, config)), Linear(width, width, bias=False).eval()
    tokens = torch.randn(2, count, width) + torch.randn(width)
    double = copy.deepcopy(memory).double()
    for center in (False, True):
        seen = tokens.double() - tokens.double().mean(1, keepdim=True) if center else tokens.double()
        expected = F.linear(reference(double, seen), proj.weight.double())
        with torch.inference_mode():
            maps = maps_of(memory, proj)
            assert maps is not None
            folded = fold(maps)
            assert kernels.serve(tokens, *folded)
            got = kernels.read(folded, kernels.write(config, folded, tokens, center))
        assert (got - expected).norm() <= 1e-4 * (expected.norm() + 1e-3), center


@built
@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 49, 40), (3, 1000, 80)])
def test_contexts_are_two_norms_and_a_sum(shape):
    read, tokens = torch.randn(shape) * 3, torch.randn(shape) * 0.01
    norm, carry = (stirred(RMSNorm(shape[-1])) for _ in range(2))
    with torch.inference_mode():
        context, carried = kernels.contexts(read, tokens, norm.weight, carry.weight)
        torch.testing.assert_close(context, norm.double()(read.double()).float())
        torch.testing.assert_close(carried, context + carry.double()(tokens.double()).float())


@built
def test_nothing_beyond_what_was_asked_for_is_written():
    """Whatever numbers are in fresh memory, and however many threads there are."""
    memory, proj = stirred(NeuralMemory(80)), Linear(80, 80, bias=False).eval()
    tokens = torch.randn(5, 33, 80)
    with torch.inference_mode():
        folded = fold(maps_of(memory, proj))
        expected = kernels.write(memory.config, folded, tokens, True)
        threads = torch.get_num_threads()
        try:
            for number in (1, 2, 7):
                torch.set_num_threads(number)
                torch.utils.deterministic.fill_uninitialized_memory = True
                torch.use_deterministic_algorithms(True)  # torch.empty is filled with NaN
                again = kernels.write(memory.config, folded, tokens, True)
                assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))
        finally:
            torch.use_deterministic_algorithms(False)
            torch.set_num_threads(threads)


class Counted:
    """The library, and how often it was asked to write."""

    def __init__(self, library) -> None:
        self.library, self.calls = library, 0

    def __getattr__(self, name: str):
        if name == "convneur_write":
            self.calls += 1
        return getattr(self.library, name)


@pytest.fixture
def counted(monkeypatch) -> Counted:
    library = Counted(kernels.LIBRARY)
    monkeypatch.setattr(kernels, "LIBRARY", library)
    return library


def branch(width: int = 16, **kwargs) -> GlobalBranch:
    torch.manual_seed(3)
    return stirred(GlobalBranch(8, width, **kwargs))


def answers(module: GlobalBranch, x: Tensor, library) -> tuple[Tensor, ...]:
    """With and without the library they are to be the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "LIBRARY", library)
        found = module(x)
    return tuple(each for each in found if each is not None)


@built
@pytest.mark.parametrize("knobs", [{}, {"center_tokens": False}, {"carry_tokens": False}, {"shift": False}])
@pytest.mark.parametrize("fused", [False, True])
def test_a_branch_gives_the_same_with_them_and_without(knobs, fused, counted):
    module, x = branch(**knobs), torch.randn(2, 8, 12, 7)
    if fused:
        module.fuse()
    with torch.inference_mode():
        torch.testing.assert_close(answers(module, x, counted), answers(module, x, None), rtol=1e-4, atol=1e-5)
    assert counted.calls == 1


@built
def test_they_stay_out_where_they_do_not_serve(counted):
    x = torch.randn(2, 8, 6, 6)
    branch()(x)[0].sum().backward()  # gradients
    with torch.inference_mode():
        branch().double()(x.double())
        branch(width=12)(x)
        with torch.autocast("cpu"):
            branch()(x)
        looked_at, seen = branch(), []
        looked_at.memory.to_values.register_forward_hook(lambda *_: seen.append("values"))
        looked_at(x)
        looked_at.norm.register_forward_hook(lambda *_: seen.append("norm"))
        looked_at(x)
        assert seen == ["values", "values", "norm"]
        torch.export.export(branch(), (x,), strict=False)
    assert counted.calls == 0
    with torch.inference_mode():
        branch()(x)
    assert counted.calls == 1


@built
def test_several_threads_at_once_do_not_disturb_each_other():
    module, images = branch(), torch.randn(8, 1, 8, 20, 20)
    found: dict[int, Tensor] = {}

    def work(number: int) -> None:
        with torch.inference_mode():
            for _ in range(50):
                found[number] = module(images[number])[0]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.inference_mode():
        assert all(torch.equal(found[number], module(images[number])[0]) for number in range(8))


def test_a_library_of_another_machine_is_left_alone(tmp_path, monkeypatch):
    file = tmp_path / "_kernels.so"
    file.write_bytes(b"\x7fELF of something else")
    monkeypatch.setattr(kernels, "FILE", file)
    assert kernels._load() is None
    monkeypatch.setattr(kernels, "FILE", tmp_path / "none.so")
    assert kernels._load() is None


@built
@pytest.mark.parametrize("with_shift", [True, False])
@pytest.mark.parametrize(
    ("size", "grid"), [((7, 5), (7, 5)), ((56, 33), (14, 9)), ((13, 8), (7, 4)), ((3, 9), (1, 1)), ((1, 1), (1, 1))]
)
def test_maps_are_joined_as_torch_interpolates(size, grid, with_shift):
    x, local = (torch.randn(2, 16, *size).to(memory_format=torch.channels_last) for _ in range(2))
    gate, shift = (torch.randn(2, 16, *grid) for _ in range(2))

    def up(small: Tensor) -> Tensor:
        return F.interpolate(small.double(), size=size, mode="bilinear", align_corners=False)

    expected = x.double() + local.double() * up(gate) + (up(shift) if with_shift else 0)
    with torch.inference_mode():
        assert kernels.join_serves(x, local, gate)
        found = kernels.join(x, local, gate, shift if with_shift else None)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)


@built
def test_maps_are_joined_in_inference_of_whole_lanes_channels_last():
    x = torch.randn(1, 16, 6, 6).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert kernels.join_serves(x, x, x)
        assert not kernels.join_serves(x.contiguous(), x, x)
        assert not kernels.join_serves(x, x.contiguous(), x)
        odd = torch.randn(1, 12, 6, 6).to(memory_format=torch.channels_last)
        assert not kernels.join_serves(odd, odd, odd)
        assert not kernels.join_serves(x.double(), x.double(), x.double())
    assert not kernels.join_serves(x, x, x)
