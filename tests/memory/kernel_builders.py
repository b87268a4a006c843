"""What the tests of the C library share."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from convneur.memory import library

built = pytest.mark.skipif(library.LIBRARY is None, reason="the C library of the memory was not built")


def stirred(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


def guarded(*shape: int) -> tuple[Tensor, Tensor]:
    """Room for numbers, and what lies behind it."""
    count = math.prod(shape)
    whole = torch.full((count + 64,), 7.0)
    return whole[:count].view(shape), whole[count:]


class Counted:
    """The library, and how often it was asked for each of its functions."""

    def __init__(self, library) -> None:
        self.library, self.calls = library, Counter()

    def __getattr__(self, name: str):
        self.calls[name.removeprefix("convneur_")] += 1
        return getattr(self.library, name)


def answers(module: nn.Module, x: Tensor, loaded) -> tuple[Tensor, ...]:
    """With and without the library they are to be the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "LIBRARY", loaded)
        found = module(x)
    return (found,) if isinstance(found, Tensor) else tuple(each for each in found if each is not None)


def undisturbed(module: nn.Module, images: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether first answers stay the same to the last bit when each image has a thread, all of them at once."""
    same: list[bool] = []

    def work(number: int) -> None:
        with torch.inference_mode():
            for _ in range(50):
                same.append(torch.equal(module(images[number])[0], expected[number]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(same) == 50 * len(images) and all(same)
