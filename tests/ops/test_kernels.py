"""The kernels compute what the references compute in float64, into memory that may hold anything."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from threading import Thread

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convneur import ops
from convneur.ops._library import LIBRARY, MISSING
from tests.covers import pairwise
from tests.ops.cases import (
    PROCESSORS,
    arguments_of,
    built,
    close,
    compiled_for,
    double,
    every_operation,
    global_branch_arguments,
    image,
    local_branch_arguments,
    poisoned,
    several,
    threads,
)


@pytest.fixture(params=PROCESSORS)
def processor(request, monkeypatch) -> str:
    compiled_for(request.param, monkeypatch)
    return request.param


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="they are for Linux on x86-64")
@pytest.mark.skipif(shutil.which("cc") is None or "CC" in os.environ, reason="no cc, or CC is another")
@pytest.mark.skipif(not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="the processor has no AVX2")
def test_they_are_built_where_they_can_be():
    assert LIBRARY is not None, f"{MISSING} (hatch_build.py)"


def check(operation: ops.Operation, **knobs) -> None:
    """By the kernel; the numbers of the reference in float64, in the memory format of the reference."""
    args = arguments_of(operation, **knobs)
    with torch.inference_mode():
        assert operation.why_not(*args) is None
        expected, alike = operation.reference(*double(args)), operation.reference(*args)
        with poisoned():
            found = operation(*args)
    # A GELU below -2 is x (1 + erf) / 2 with erf near -1: alone it is as exact as numbers around 1 are.
    close(found, expected, near=1e-2 if knobs.get("gelu") else 1e-3)
    for one, other in zip(several(found), several(alike), strict=True):
        assert strides(one) == strides(other)
        assert not one.isnan().any()


def strides(x: Tensor) -> list[int]:
    """Of the dimensions where they mean something."""
    return [stride for stride, size in zip(x.stride(), x.shape, strict=True) if size > 1]


SIZES = [(1, 1), (2, 9), (7, 7), (10, 13), (33, 18)]


@pytest.mark.skipif(ops.linear.missing is not None, reason=f"{ops.linear.missing}")
@pytest.mark.parametrize(
    ("channels", "outputs", "size", "batch", "bias", "gelu"),
    pairwise((1, 8, 63, 100), (1, 12, 160), SIZES, (1, 3), (True, False), (True, False)),
)
def test_linear(channels, outputs, size, batch, bias, gelu):
    check(ops.linear, channels=channels, outputs=outputs, size=size, batch=batch, bias=bias, gelu=gelu)


@built
@pytest.mark.parametrize(
    ("widths", "sizes", "batch", "knobs"),
    pairwise(
        [(8, 16, 4), (40, 80, 4), (5, 24, 1), (63, 33, 3), (100, 20, 2)],
        # 1 to 720 tokens: sides below the stride, a tile or several, the last one whole or not
        [((1, 1), 1), ((1, 1), 4), ((3, 9), 4), ((13, 9), 2), ((56, 50), 4), ((33, 20), 1), ((40, 18), 1)],
        (1, 3),
        [
            {},
            {"skip": False},
            {"shift": False},
            {"bias": False},
            {"sharper": 0.0},
            {"sharper": 5.0},  # most weights of either softmax are 0 then
        ],
    ),
)
def test_global_branch(widths, sizes, batch, knobs, processor):
    (channels, width, heads), (size, stride) = widths, sizes
    given = {"channels": channels, "width": width, "heads": heads, "size": size, "stride": stride, "batch": batch}
    check(ops.global_branch, **given, **knobs)


@built
@pytest.mark.parametrize(
    ("channels", "size", "batch", "residual"),
    pairwise((16, 17, 24, 63, 100, 160), SIZES, (1, 3), (True, False)),
)
def test_local_branch(channels, size, batch, residual, processor):
    """Widths that panels and lanes divide and do not; feature maps smaller than the filter, and wider than a strip."""
    check(ops.local_branch, channels=channels, size=size, batch=batch, residual=residual)


@built
def test_a_wide_local_branch_takes_larger_groups(processor):
    check(ops.local_branch, channels=520, size=(11, 12))


@built
@pytest.mark.parametrize(
    ("channels", "size", "stride", "batch", "shift"),
    pairwise((8, 40, 104), [(1, 1), (3, 9), (13, 8), (56, 33)], (1, 2, 4), (1, 3), (True, False)),
)
def test_gated_residual(channels, size, stride, batch, shift):
    check(ops.gated_residual, channels=channels, size=size, stride=stride, batch=batch, shift=shift)


LARGE = {
    "linear": {"channels": 40, "outputs": 160, "size": (14, 13)},
    "global_branch": {"channels": 40, "width": 80, "size": (28, 27)},
    "local_branch": {"channels": 40, "size": (13, 11)},
    "gated_residual": {"channels": 40, "size": (28, 27)},
}


@built
@pytest.mark.parametrize("operation", ops.OPERATIONS[1:], ids=lambda operation: operation.name)  # linear is oneDNN's
@pytest.mark.parametrize("number", [1, 2, 3, 7])
def test_an_image_gives_the_same_to_the_last_bit_alone_and_with_others(operation, number):
    args = arguments_of(operation, batch=5, **LARGE[operation.name])
    of_images = {"gated_residual": 4}.get(operation.name, 1)  # how many arguments have a batch dimension
    with torch.inference_mode(), threads(number), poisoned():
        together = several(operation(*args))
        for place in (0, 4):
            some = [each[place : place + 1].clone(memory_format=torch.preserve_format) for each in args[:of_images]]
            assert operation.why_not(*some, *args[of_images:]) is None
            alone = several(operation(*some, *args[of_images:]))
            assert all(torch.equal(one[0], other[place]) for one, other in zip(alone, together, strict=True))


@built
@every_operation
def test_the_number_of_threads_does_not_matter(operation):
    args = arguments_of(operation, batch=3, **LARGE[operation.name])
    with torch.inference_mode():
        expected = operation.reference(*double(args))
        for number in (1, 2, 3, 5, 16):
            with threads(number), poisoned():
                close(operation(*args), expected)


@built
@every_operation
def test_several_threads_at_once_do_not_disturb_each_other(operation):
    calls = [arguments_of(operation, batch=1) for _ in range(4)]
    same: list[bool] = []

    def work(number: int) -> None:
        with torch.inference_mode():
            for _ in range(20):
                same.extend(map(torch.equal, several(operation(*calls[number])), expected[number]))

    with threads(2), torch.inference_mode():
        expected = [several(operation(*args)) for args in calls]
        workers = [Thread(target=work, args=(number,)) for number in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert len(same) == 4 * 20 * len(expected[0])
    assert all(same)


@built
def test_sums_of_many_tokens_keep_their_precision(processor):
    """Of an image of 2,048 px, whose tokens are mostly alike."""
    args = global_branch_arguments(16, 80, size=(128, 128), stride=1, batch=1)
    alike = (torch.randn(1, 16, 1, 1) + 0.05 * torch.randn(1, 16, 128, 128)).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        close(ops.global_branch(alike, *args[1:]), ops.global_branch.reference(*double((alike, *args[1:]))), 5e-5)


@built
def test_gelu_is_right_at_any_number(processor):
    """To 2e-7 of all numbers from -12 to 12, in steps of 1/4096, and of some far away."""
    steps = torch.arange(-12 * 4096, 12 * 4096) / 4096
    numbers = torch.cat([steps, torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e30, -1e30, 5.5, -5.5])])
    found, width = [], 256
    with torch.inference_mode():
        for some in numbers.split(width):  # biases of the first linear layer, after zeros; the second gives them back
            bias = F.pad(some, (0, width - len(some)))
            zeros, eye = torch.zeros(width, width), torch.eye(width)
            args = (torch.zeros(width, 1, 7, 7), bias * 0, zeros, bias, eye, bias * 0, 1e-6, False)
            found.append(ops.local_branch(image(1, width, 1, 1), *args).flatten()[: len(some)])
    exact = F.gelu(numbers.double())
    torch.testing.assert_close(torch.cat(found).double(), exact, rtol=2e-7, atol=2e-7)


@built
def test_nan_reaches_what_the_filter_reaches_and_nothing_else(processor):
    x, *weights = local_branch_arguments(16, (20, 20))
    spoilt = x.clone(memory_format=torch.preserve_format)
    spoilt[1, 3, 10, 10] = torch.nan
    with torch.inference_mode():
        clean, found = ops.local_branch(x, *weights), ops.local_branch(spoilt, *weights)
    near = torch.zeros(2, 20, 20, dtype=torch.bool)
    near[1, 7:14, 7:14] = True
    assert found.isnan().all(1).equal(near)
    assert torch.equal(found.permute(0, 2, 3, 1)[~near], clean.permute(0, 2, 3, 1)[~near])


@built
def test_nan_stays_in_its_image(processor):
    x, *weights = global_branch_arguments(batch=3)
    spoilt = x.clone(memory_format=torch.preserve_format)
    spoilt[1, 0, 0, 0] = torch.nan
    with torch.inference_mode():
        for clean, found in zip(ops.global_branch(x, *weights), ops.global_branch(spoilt, *weights), strict=True):
            assert found[1].isnan().all()
            assert torch.equal(found[[0, 2]], clean[[0, 2]])


@built
@pytest.mark.parametrize("channels", [24, 100])
def test_the_norm_of_equal_numbers_is_zero(channels, processor):
    """A mean that is off by a rounding error would be magnified a thousand times."""
    args = list(local_branch_arguments(channels, (5, 5)))
    args[1], args[2] = args[1] * 0, torch.full((channels,), 1000.1)
    with torch.inference_mode():
        close(ops.local_branch(*args), ops.local_branch.reference(*double(tuple(args))))


@built
@pytest.mark.parametrize("channels_last", [True, False])
def test_the_local_branch_takes_any_memory_format(channels_last, processor):
    x, *weights = local_branch_arguments()
    given = x if channels_last else x.contiguous()
    with torch.inference_mode():
        found = ops.local_branch(given, *weights)
        assert ops.local_branch.why_not(given, *weights) is None
        assert torch.equal(found, ops.local_branch(x, *weights))
        for each in (found, ops.local_branch.reference(given, *weights)):
            assert each.is_contiguous(memory_format=torch.channels_last)
