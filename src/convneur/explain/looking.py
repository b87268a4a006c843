"""Looking into a model, and answering in its place, while it is left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from convneur.layers import GlobalBranch
from convneur.memory import Memory
from convneur.models import ConvNeur

Hook = Callable[..., Any]  # (module, inputs, answer) -> another answer, or None


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; afterwards each of its modules trains or not as before."""
    before = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def hooked(hooks: Iterable[tuple[nn.Module, Hook]]) -> Iterator[None]:
    """Modules with a hook behind each; they are removed whatever happens."""
    handles = []
    try:
        for module, hook in hooks:
            handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def branches_of(model: ConvNeur) -> list[list[GlobalBranch]]:
    """The global branches of each stage."""
    return [[module for module in stage.modules() if isinstance(module, GlobalBranch)] for stage in model.stages]


def gated_branches(model: ConvNeur) -> list[GlobalBranch]:
    """The first global branch of each stage.

    Raises:
        ValueError: If the model has no gates: it is local-only, or fuses by addition or concatenation.
    """
    branches = branches_of(model)
    if not model.has_gates or not all(branches):
        raise ValueError("the model has no gates; create it with fusion='gate' and a global branch in each stage")
    return [own[0] for own in branches]


def unwritten(branches: Iterable[GlobalBranch]) -> list[tuple[nn.Module, Hook]]:
    """Hooks that have the memories of branches answer as if nothing was written.

    A memory that a hook looks at is asked part by part, even where the model was fused.
    """
    return [(branch.memory, _as_unwritten) for branch in branches]


def _as_unwritten(memory: Memory, inputs: tuple[Tensor, ...], _answer: Tensor) -> Tensor:
    return memory.read_initial(inputs[0])


def has_memory(model: ConvNeur) -> bool:
    """Whether what reads the tokens is a memory, rather than something it is compared with."""
    return all(isinstance(branch.memory, Memory) for own in branches_of(model) for branch in own)


def one_image(image: Tensor) -> Tensor:
    """(C, H, W) or (1, C, H, W) -> (1, C, H, W).

    Raises:
        ValueError: For anything else.
    """
    batch = image[None] if image.ndim == 3 else image
    if batch.ndim != 4 or len(batch) != 1:
        raise ValueError(f"an image of shape {tuple(image.shape)} does not fit; give one, (C, H, W) or (1, C, H, W)")
    return batch
