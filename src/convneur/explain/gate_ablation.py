"""What a classifier would say if a stage's memory were silent, or said the same everywhere.

Shape letters: K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convneur.explain.looking import Hook, branches_of, evaluated, has_memory, hooked, one_image, unwritten
from convneur.models import ConvNeur

Answers = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class GateAblation:
    """Probabilities of the classes, all (K,), on the CPU.

    Attributes:
        probabilities: Of the model as it is.
        unwritten: Per stage, where its memories answer as if nothing was written; None where there is no memory.
        flat: Per stage, where its global branches answer everywhere what they answer on average.
    """

    probabilities: Tensor
    unwritten: tuple[Tensor, ...] | None
    flat: tuple[Tensor, ...]

    @property
    def top(self) -> int:
        """The class that the model names as it is."""
        return int(self.probabilities.argmax())

    def change(self, probabilities: Tensor) -> float:
        """By how much the probability of `top` differs from that of the model as it is."""
        return float(probabilities[self.top] - self.probabilities[self.top])


def ablate_gates(model: ConvNeur, image: Tensor) -> GateAblation:
    """Ask a classifier again, with the global branches of one stage at a time answering something else.

    Later stages run on with what comes of it. The gate and what is added beside it are replaced together; ``flat`` is
    the mean over positions of both, of the gate before its sigmoid. The model is left as it was.

    Args:
        model: A classifier with global branches, of any fusion; on the device of the image.
        image: (C, H, W) or (1, C, H, W), normalised as the model takes it.

    Raises:
        ValueError: If the model has no classifier or no global branches, or the image does not fit.
    """
    branches = branches_of(model)
    if not model.num_classes:
        raise ValueError("the model has no classifier; give one with num_classes above 0")
    if not all(branches):
        raise ValueError("the model has no global branches; there is nothing to replace")
    image = one_image(image)
    with evaluated(model), torch.inference_mode():
        as_it_is = _ask(model, image)
        silent = None
        if has_memory(model):
            silent = tuple(_ask(model, image, unwritten(own)) for own in branches)
        flat = tuple(_ask(model, image, [(branch, _flat) for branch in own]) for own in branches)
    return GateAblation(as_it_is, silent, flat)


def _ask(model: ConvNeur, image: Tensor, hooks: Sequence[tuple[nn.Module, Hook]] = ()) -> Tensor:
    with hooked(hooks):
        logits: Tensor = model(image)
    return logits.float().softmax(1)[0].cpu()


def _flat(_branch: object, _inputs: object, answers: Answers) -> Answers:
    first, second = answers
    return _everywhere(first), None if second is None else _everywhere(second)


def _everywhere(answer: Tensor) -> Tensor:
    """The mean over positions of (B, C, h, w), at each of them."""
    return answer.mean((2, 3), keepdim=True).expand_as(answer)
