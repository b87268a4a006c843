"""What weights were when something was worked out from them, so that it is noticed when they are no longer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn


class WeightSnapshot(NamedTuple):
    """One weight as it was.

    Attributes:
        layer: Whose it was.
        name: Its name there.
        weight: The weight itself.
        numbers: What was in it, kept so that nothing else comes to lie there.
        state: Where they were, and how often they had been changed.
    """

    layer: nn.Module
    name: str
    weight: Tensor | None
    numbers: Tensor | None
    state: tuple[int, int]


def snapshot(layer: nn.Module, *names: str) -> list[WeightSnapshot]:
    """The weights of a layer as they are now; the names of those that something is worked out from."""
    weights = [layer._parameters.get(name) for name in names]
    return [
        WeightSnapshot(layer, name, each, None if each is None else each.detach(), _state(each))
        for name, each in zip(names, weights, strict=True)
    ]


def unchanged(weights: Sequence[WeightSnapshot]) -> bool:
    """Whether all are where they were, as they were: not replaced, loaded into, copied, moved or stepped.

    What is written through ``.data`` in place is not seen.
    """
    # Looked up where torch keeps them, and in a loop: this is asked by each block for each image.
    for layer, name, weight, _, state in weights:
        if layer._parameters.get(name) is not weight or _state(weight) != state:
            return False
    return True


def _state(weight: Tensor | None) -> tuple[int, int]:
    if weight is None:
        return 0, 0
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version
