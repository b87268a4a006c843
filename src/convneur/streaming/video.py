"""Videos: a memory that is carried on from frame to frame.

Shape letters: B videos side by side, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from convneur.memory import Memory


@torch.inference_mode()
def video(model: nn.Module, frames: Iterable[Tensor], carry: bool = True) -> Iterator[Any]:
    """What a model says about one frame after the other.

    Each memory goes on from what it was written with before, so that frames are read with all that was seen. The tokens
    of all frames count alike in the slots of the default; in fast weights momentum and decay act between frames as
    between chunks of tokens. Models are trained on single images, so ``carry`` is a thing to try, or to train for, and
    no better by itself.

    Args:
        model: In eval mode; a backbone, or anything with one inside. Its memories are watched until the generator ends.
        frames: (B, C, H, W) each, of the same batch; sizes may differ.
        carry: Whether memories are carried on. Otherwise every frame is an image of its own.

    Yields:
        What the model gives for each frame.

    Raises:
        ValueError: If the model is in training mode or has no neural memory to carry.
    """
    if model.training:
        raise ValueError("the model is in training mode; call eval() first")
    memories = [module for module in model.modules() if isinstance(module, Memory)]
    if carry and not memories:
        raise ValueError("the model has no neural memory; choose another, or carry=False")
    states: dict[int, Any] = {}

    def go_on(memory: nn.Module, given: tuple[Any, ...], _: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (given[0], states.get(id(memory)), True), {}

    def keep(memory: nn.Module, _: tuple[Any, ...], answer: tuple[Tensor, Any]) -> Tensor:
        context, states[id(memory)] = answer
        return context

    hooks = []
    try:
        if carry:
            for memory in memories:
                hooks.append(memory.register_forward_pre_hook(go_on, with_kwargs=True))
                hooks.append(memory.register_forward_hook(keep))
        for frame in frames:
            yield model(frame)
    finally:
        for hook in hooks:
            hook.remove()
