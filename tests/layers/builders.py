"""What the tests of layers share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn

from convneur.layers import ConvNeurBlock, FusionKind, GlobalBranch
from convneur.memory import MemoryConfig
from tests.memory.builders import stir


def stirred(module: nn.Module) -> nn.Module:
    """One none of whose weights is what a new one has."""
    return stir(module).eval()


def block(fusion: FusionKind | None = None, channels: int = 16, **branch) -> ConvNeurBlock:
    """Local only, or with a global branch."""
    torch.manual_seed(3)
    if fusion is None:
        return stirred(ConvNeurBlock(channels))
    options = {"token_stride": 2, "memory": MemoryConfig(heads=2), "shift": fusion == "gate_add"} | branch
    return stirred(ConvNeurBlock(channels, GlobalBranch(channels, 16, **options), fusion))


def outputs(found: Tensor | tuple[Tensor | None, ...]) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else [each for each in found if each is not None]


@contextmanager
def watched(kind: type, name: str) -> Iterator[list[str]]:
    """How often a method of a class is called; the class itself is not what says that a module was touched."""
    calls, method = [], getattr(kind, name)

    def call(*args, **kwargs):
        calls.append(name)
        return method(*args, **kwargs)

    with patch.object(kind, name, call):
        yield calls
