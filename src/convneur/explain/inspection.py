"""What each stage's memory did with one image: gates, what the written memory changed about them, and surprise.

Shape letters: C channels of a stage, H W pixels of its map, h w of its token grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from convneur.explain.looking import evaluated, gated_branches, hooked, one_image, unwritten
from convneur.layers import GlobalBranch
from convneur.memory import Memory
from convneur.models import ConvNeur


@dataclass(frozen=True)
class StageInspection:
    """What the first global branch of a stage did; tensors are on the CPU.

    Attributes:
        gate: (C, h, w) in [0, 1], what the local features were multiplied with.
        surprise: (h, w), how far off the memory is about each token: the mean over heads and channels of
            ``(M(k) - s v)^2`` once all tokens are written to slots; with fast weights the inner loss ``(M(k) - v)^2``
            where the write takes its gradient, NaN for tokens that are never written (those of the last chunk of a
            causal read). None where there is no memory.
        unwritten_gate: (C, h, w), what the gate would be had nothing been written. None where there is no memory.
        stride: Pixels of the image per pixel of the stage's map, along each side.
        token_stride: Pixels of the map per token.
        map_size: H and W.
    """

    gate: Tensor
    surprise: Tensor | None
    unwritten_gate: Tensor | None
    stride: int
    token_stride: int
    map_size: tuple[int, int]

    @property
    def written(self) -> Tensor | None:
        """(C, h, w), what writing the image changed about the gate; None where there is no memory."""
        return None if self.unwritten_gate is None else self.gate - self.unwritten_gate

    @property
    def covered(self) -> tuple[int, int]:
        """Height and width, in pixels of the image from its top left corner, of what the map stands on.

        It is less than the image where that is no multiple of the stride: the model drops the rest.
        """
        return self.map_size[0] * self.stride, self.map_size[1] * self.stride

    def gates_on_map(self, gates: Tensor) -> Tensor:
        """Gates (C, h, w), or what was computed from them linearly, as the block brings them to its map: (C, H, W)."""
        if self.token_stride == 1:
            return gates
        return F.interpolate(gates[None], size=self.map_size, mode="bilinear", align_corners=False)[0]

    def tokens_on_map(self, values: Tensor) -> Tensor:
        """Values of tokens (h, w), each on the pixels that its token was pooled from: (H, W)."""
        spread = values.repeat_interleave(self.token_stride, 0).repeat_interleave(self.token_stride, 1)
        return spread[: self.map_size[0], : self.map_size[1]]


@dataclass(frozen=True)
class Inspection:
    """What `inspect` saw, stage by stage."""

    stages: tuple[StageInspection, ...]


def inspect(model: ConvNeur, image: Tensor) -> Inspection:
    """Look at what the memories of a model do with an image; the model is left as it was.

    The first global branch of each stage is looked at. All is asked on the way through the whole model: what a stage's
    gate would be had nothing been written holds the stages before as they were, memories and all.

    Fusions ``gate`` and ``gate_add`` have gates; of the latter what is added beside the gate is not shown. With another
    token mixer than the memory there are gates, but nothing is written: surprise and the unwritten gate are None.

    Args:
        model: With gates; on the device of the image. It may be fused.
        image: (C, H, W) or (1, C, H, W), normalised, of any size the model takes.

    Raises:
        ValueError: If the model has no gates, because it is local-only or ``add`` or ``concat`` is its fusion; if the
            image does not fit.
    """
    stages: list[StageInspection] = []

    def look(branch: GlobalBranch, inputs: tuple[Tensor, ...], answers: tuple[Tensor, Tensor | None]) -> None:
        surprise = gate = None
        if isinstance(branch.memory, Memory):
            told: list[Tensor] = []
            note = (branch.memory, lambda memory, given, _answer: told.append(memory.surprise(given[0])))
            with hooked([note, *unwritten([branch])]):
                gate = branch.forward(*inputs)[0][0].sigmoid().cpu()  # not a call, which would come here again
            surprise = told[0][0].view(gate.shape[-2:]).cpu()
        info = model.feature_info[len(stages)]
        height, width = inputs[0].shape[-2:]
        stages.append(
            StageInspection(
                answers[0][0].sigmoid().cpu(), surprise, gate, info["reduction"], branch.token_stride, (height, width)
            )
        )

    branches = gated_branches(model)
    with evaluated(model), torch.inference_mode(), hooked((branch, look) for branch in branches):
        model.forward_features(one_image(image))
    return Inspection(tuple(stages))
