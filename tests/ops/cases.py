"""Arguments of every operation, and what the tests of operations share."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from convneur import ops
from convneur.ops._library import AVX512, LIBRARY

built = pytest.mark.skipif(LIBRARY is None, reason="the CPU kernels were not built")
every_operation = pytest.mark.parametrize("operation", ops.OPERATIONS, ids=lambda operation: operation.name)
PROCESSORS = ["avx2", pytest.param("avx512", marks=pytest.mark.skipif(not AVX512, reason="no AVX-512 here"))]


def image(*shape: int) -> Tensor:
    return torch.randn(shape).to(memory_format=torch.channels_last)


def linear_arguments(
    channels: int = 8, outputs: int = 12, size: tuple[int, int] = (5, 3), batch: int = 2, bias: bool = True, gelu=True
) -> tuple[Any, ...]:
    weight = torch.randn(outputs, channels) / channels**0.5
    return torch.randn(batch, *size, channels), weight, torch.randn(outputs) if bias else None, gelu


def global_branch_arguments(
    channels: int = 8,
    width: int = 16,
    heads: int = 4,
    size: tuple[int, int] = (9, 5),
    stride: int = 2,
    batch: int = 2,
    skip: bool = True,
    shift: bool = True,
    bias: bool = True,
    sharper: float = 1.0,
) -> tuple[Any, ...]:
    """Keys are multiplied by ``sharper``."""

    def weight(outputs: int, inputs: int) -> Tensor:
        return torch.randn(outputs, inputs) / inputs**0.5

    def gain() -> Tensor:
        return 0.5 + torch.rand(width)

    return (
        image(batch, channels, *size) + torch.randn(1, channels, 1, 1),
        *(weight(width, channels), torch.randn(width) if bias else None),
        *(gain(), torch.randn(width), sharper * weight(width, width), weight(width, width)),
        *(weight(heads, width), torch.randn(heads), weight(width, width), gain()),
        *(gain() if skip else None, weight(channels, width), torch.randn(channels) if bias else None),
        *((weight(channels, width), torch.randn(channels)) if shift else (None, None)),
        *(stride, 1e-6),
    )


def local_branch_arguments(
    channels: int = 16, size: tuple[int, int] = (9, 5), batch: int = 2, residual: bool = True, expansion: int = 4
) -> tuple[Any, ...]:
    hidden = expansion * channels
    return (
        *(image(batch, channels, *size), torch.randn(channels, 1, 7, 7) / 7, torch.randn(channels)),
        *(torch.randn(hidden, channels) / channels**0.5, torch.randn(hidden)),
        *(torch.randn(channels, hidden) / hidden**0.5, torch.randn(channels), 1e-6, residual),
    )


def gated_residual_arguments(
    channels: int = 8, size: tuple[int, int] = (9, 5), stride: int = 2, batch: int = 2, shift: bool = True
) -> tuple[Any, ...]:
    grid = [-(-side // stride) for side in size]
    gate, moved = (image(batch, channels, *grid) for _ in range(2))
    return image(batch, channels, *size), image(batch, channels, *size), gate, moved if shift else None, stride


ARGUMENTS = {
    "linear": linear_arguments,
    "global_branch": global_branch_arguments,
    "local_branch": local_branch_arguments,
    "gated_residual": gated_residual_arguments,
}


def arguments_of(operation: ops.Operation, **knobs: Any) -> tuple[Any, ...]:
    return ARGUMENTS[operation.name](**knobs)


def double(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(each.double() if isinstance(each, Tensor) else each for each in args)


def several(result: Tensor | list[Tensor]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def total(result: Tensor | list[Tensor]) -> Tensor:
    """A scalar to which every number adds something else."""
    return sum((each * torch.arange(each.numel()).cos().view(each.shape).to(each)).sum() for each in several(result))


def close(found: Any, expected: Any, to: float = 2e-5, near: float = 1e-3) -> None:
    """Equal but for rounding, by the norm of the difference, relative to that of what is expected and ``near``."""
    found, expected = several(found), several(expected)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert (one.double() - other.double()).norm() <= to * (other.double().norm() + near)


def compiled_for(processor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the kernels that were compiled for a kind of processor, on one that has more."""
    lanes = {"avx2": 8, "avx512": 16}[processor]
    for name in ("global_branch", "local_branch"):
        module: Any = importlib.import_module(f"convneur.ops.{name}")  # the package has the operation by that name
        function = getattr(LIBRARY, f"convneur_{name}_{processor}")
        function.argtypes, function.restype = module._FUNCTION.argtypes, None
        for constant, value in {"LANES": lanes, "PANEL": 2 * lanes, "_FUNCTION": function}.items():
            if hasattr(module, constant):
                monkeypatch.setattr(module, constant, value)


@contextmanager
def poisoned() -> Iterator[None]:
    """Fresh memory holds NaN, and nothing may be written behind it."""
    behind = []

    def fresh(shape: tuple[int, ...], stride: tuple[int, ...] | None = None) -> Tensor:
        count = math.prod(shape)
        whole = torch.full((count + 64,), 7.0)
        behind.append(whole[count:])
        made = whole[:count].fill_(torch.nan)
        return made.view(shape) if stride is None else made.as_strided(shape, stride)

    with (
        patch.object(Tensor, "new_empty", lambda _self, *shape: fresh(shape)),
        patch.object(torch, "empty_like", lambda x: fresh(x.shape, x.stride())),
    ):
        yield
    assert all((each == 7).all() for each in behind)


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
