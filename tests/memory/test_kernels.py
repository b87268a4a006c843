"""The kernels in C compute what the oracle computes, are taken where they serve, and are not needed."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from convneur.layers import ConvNeurBlock, GlobalBranch, branch_kernel, local_kernel
from convneur.memory import RMSNorm, kernels, library
from convneur.memory.norm import unit
from tests.memory.kernel_builders import answers, built, guarded, stirred, undisturbed


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="it is for Linux on x86-64")
@pytest.mark.skipif(shutil.which("cc") is None or "CC" in os.environ, reason="no cc, or CC is another")
@pytest.mark.skipif(not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="the processor has no AVX2")
def test_they_are_built_where_they_can_be():
    assert None not in (library.LIBRARY, local_kernel.LIBRARY, branch_kernel.LIBRARY), (
        "pip install builds them (hatch_build.py)"
    )


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
def test_sums_of_many_tokens_keep_their_precision():
    """Of an image of 2,048 px, whose tokens are mostly alike."""
    tokens = torch.randn(80) + 0.05 * torch.randn(1, 16384, 80)
    with torch.inference_mode():
        found = unit(tokens, center=True)
    exact = tokens.double() - tokens.double().mean(1, keepdim=True)
    expected = exact * exact.square().mean(-1, keepdim=True).add(1e-6).rsqrt()
    assert (found - expected).norm() <= 1e-5 * expected.norm()


@built
def test_fresh_memory_may_hold_anything(monkeypatch):
    """torch.empty is filled with NaN; and the answer does not follow from the number of threads."""
    tokens = torch.randn(5, 33, 80)
    x, local = (torch.randn(5, 16, 13, 8).to(memory_format=torch.channels_last) for _ in range(2))
    gate, shift = (torch.randn(5, 16, 4, 3) for _ in range(2))
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)

    def found() -> tuple[Tensor, ...]:
        contexts = kernels.contexts(tokens, 2 * tokens, tokens[0, 0], tokens[0, 1])
        return unit(tokens, center=True), *contexts, kernels.join(x, local, gate, shift)

    with torch.inference_mode():
        expected, threads = found(), torch.get_num_threads()
        assert all(each.isfinite().all() for each in expected)
        try:
            torch.use_deterministic_algorithms(True)
            for number in (1, 2, 7):
                torch.set_num_threads(number)
                assert all(torch.equal(a, b) for a, b in zip(expected, found(), strict=True))
        finally:
            torch.use_deterministic_algorithms(False)
            torch.set_num_threads(threads)


@built
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("count", "width"), [(1, 8), (5, 40), (200, 40), (33, 24)])
def test_nothing_is_written_beyond_its_place(count, width, threads):
    tokens, gain = torch.randn(2, count, width), torch.randn(width)
    outs = [*(guarded(2, count, width) for _ in range(3)), guarded(threads * width)]
    (unit, _), (contexts, _), (carried, _), (room, _) = outs
    loaded = library.LIBRARY
    arrays = (tokens.data_ptr(), unit.data_ptr(), room.data_ptr())
    loaded.convneur_unit(*arrays, threads, 2, count, width, 1, 1e-6)
    arrays = tuple(each.data_ptr() for each in (unit, tokens, gain, gain, contexts, carried))
    loaded.convneur_contexts(*arrays, threads, 2 * count, width, 1e-6)
    grid, size = (3, 2), (count, 7)
    maps = [torch.randn(2, *each, width) for each in (size, size, grid, grid)]
    out, share = guarded(2, *size, width), 2 * grid[1] * width
    joined_room = guarded(threads * share)
    arrays = tuple(each.data_ptr() for each in (*maps, out[0], joined_room[0]))
    loaded.convneur_join(*arrays, share, threads, 2, *size, width, *grid)
    for made, behind_it in (*outs, out, joined_room):
        assert made.isfinite().all()
        assert (behind_it == 7).all()


@built
def test_a_new_thread_whose_number_of_threads_is_not_known_yet():
    """Where the environment says one thread and the program more, PyTorch tells a new thread at its first question."""
    code = """
import threading, torch
from convneur.memory import kernels
torch.set_num_threads(4)
maps = [torch.randn(8, 192, size, size).to(memory_format=torch.channels_last) for size in (56, 56, 14, 14)]
def work():
    with torch.inference_mode():
        kernels.join(*maps)
for _ in range(10):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
"""
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=alone)
    assert done.returncode == 0, done.stderr


def branch(width: int = 16, **kwargs) -> GlobalBranch:
    torch.manual_seed(3)
    return stirred(GlobalBranch(8, width, **kwargs))


@built
@pytest.mark.parametrize("knobs", [{}, {"center_tokens": False}, {"carry_tokens": False}, {"shift": False}])
@pytest.mark.parametrize("fused", [False, True])
def test_a_branch_gives_the_same_with_them_and_without(knobs, fused, counted):
    module, x = branch(**knobs), torch.randn(2, 8, 12, 7)
    if fused:
        module.fuse()
    with torch.inference_mode():
        torch.testing.assert_close(answers(module, x, counted), answers(module, x, None), rtol=1e-4, atol=1e-5)
    norms = {"contexts": 1} if knobs.get("carry_tokens", True) else {"unit": 1}
    assert counted.calls == norms


def block(**kwargs) -> ConvNeurBlock:
    torch.manual_seed(3)
    return stirred(ConvNeurBlock(8, GlobalBranch(8, 16, token_stride=2, shift=True), fusion="gate_add", **kwargs))


@built
def test_they_stay_out_where_they_do_not_serve(counted, monkeypatch):
    monkeypatch.setattr(branch_kernel, "LIBRARY", None)  # it would do all of it
    x, seen = torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last), []
    block()(x)[0].sum().backward()
    assert counted.calls == {"answer": 1, "answer_gradient": 1}, "those with gradients are others"
    counted.calls.clear()
    with torch.inference_mode():
        block().double()(x.double())
        branch(width=12)(x)
        with torch.autocast("cpu"):
            block()(x)
        torch.export.export(block(), (x,), strict=False)
        assert counted.calls == {}
        watched = block().global_branch
        watched.memory.to_values.register_forward_hook(lambda *_: seen.append("values"))
        watched(x)
        assert counted.calls == {"unit": 2, "contexts": 1}, "the memory goes by its modules, and those are norms"
        counted.calls.clear()
        watched.norm.register_forward_hook(lambda *_: seen.append("norm"))
        watched(x)
        with register_module_forward_hook(lambda module, *_: seen.append(type(module))):
            block()(x)
        assert RMSNorm in seen
        assert seen.count("values") == 2
        assert seen.count("norm") == 1
        assert set(counted.calls) == {"unit", "join"}
        counted.calls.clear()
        block()(x)
    assert counted.calls == {"contexts": 1, "join": 1}


@built
@pytest.mark.parametrize("other", [nn.LayerNorm(16), nn.RMSNorm(16, eps=1.0), nn.Identity()], ids=repr)
def test_a_norm_that_was_replaced_is_the_one_that_is_used(other):
    module, x = branch(), torch.randn(2, 8, 6, 6)
    module.norm = other
    with torch.inference_mode():
        found = answers(module, x, library.LIBRARY)
        torch.testing.assert_close(found, answers(module, x, None), rtol=1e-4, atol=1e-4)


@built
def test_weights_that_are_elsewhere_are_not_read():
    tokens = torch.randn(1, 4, 16)
    with torch.inference_mode():
        assert not library.serve(tokens, torch.empty(16, device="meta"))
        assert library.serve(tokens, torch.empty(16))


@built
def test_several_threads_at_once_do_not_disturb_each_other():
    module, images = branch(), torch.randn(8, 1, 8, 20, 20)
    with torch.inference_mode():
        expected = [module(image)[0] for image in images]
    assert undisturbed(module, images, expected)


@pytest.fixture
def copied(tmp_path):
    """A library and its source, which others may spoil."""
    for name in ("kernels.c", "_kernels.so"):
        shutil.copy(Path(library.__file__).with_name(name), tmp_path)
    return tmp_path / "kernels.c"


@built
def test_a_library_of_another_source_is_left_alone(copied):
    """An update of the package in place does not build it again."""
    assert library.load_library(copied, {}) is not None
    copied.write_bytes(copied.read_bytes() + b"\n")
    assert library.load_library(copied, {}) is None


@built
def test_a_library_of_another_machine_is_left_alone(copied):
    made = copied.with_name("_kernels.so")
    made.unlink()
    assert library.load_library(copied, {}) is None
    made.write_bytes(b"\x7fELF of something else")
    assert library.load_library(copied, {}) is None


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
        assert kernels.join_serves(x, local, gate, shift)
        found = kernels.join(x, local, gate, shift if with_shift else None)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)


@built
def test_maps_are_joined_in_inference_of_whole_lanes_channels_last():
    x = torch.randn(1, 16, 6, 6).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert kernels.join_serves(x, x, x, None)
        assert not kernels.join_serves(x.contiguous(), x, x, None)
        assert not kernels.join_serves(x, x.contiguous(), x, None)
        odd = torch.randn(1, 12, 6, 6).to(memory_format=torch.channels_last)
        assert not kernels.join_serves(odd, odd, odd, None)
        assert not kernels.join_serves(x.double(), x.double(), x.double(), None)
        assert not kernels.join_serves(x, x, x, x.double())
        assert not kernels.join_serves(x, x, x, x[:, :, :3])
        several = x.expand(4, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        assert not kernels.join_serves(several, several, x, None), "torch would take one gate for all"
    assert not kernels.join_serves(x, x, x, None)
