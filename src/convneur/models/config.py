"""Configuration of a variant and of its global branch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from convneur.layers import TOKEN_MIXERS, FusionKind
from convneur.memory import MemoryConfig
from convneur.models.registry_utils import choose

PlacementKind = Literal["per_stage", "per_layer", "none"]


@dataclass(frozen=True)
class Variant:
    """Sizes of one member of the family.

    Attributes:
        dims: Channels of the four stages.
        depths: Blocks of the four stages.
        baseline: The timm model it is without its global branch.
    """

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    baseline: str


@dataclass(frozen=True)
class GlobalConfig:
    """The global branch of a whole backbone.

    Attributes:
        placement: ``per_stage``: the first block of each stage has one (published); ``per_layer``: every block;
            ``none``: a local-only model, which is a ConvNeXt.
        fusion: How its answer meets the local features: ``gate`` (published), ``add``, ``gate_add`` or ``concat``.
        token_strides: Per stage, pixels of its map per token; (4, 2, 1, 1) is one grid of stride 16 for stages 1 to 3.
        width: Width of the memory; None stands for twice the channels of the first stage (published).
        center_tokens: Take the mean of an image's tokens off each before they are written (not in the paper).
        token_skip: Let the gate follow from each token itself, too, not from the memory's answer alone (not in the
            paper).
        token_mixer: What reads the tokens: the memory, or something else to compare it with.
        memory: Options of the memory itself.
    """

    placement: PlacementKind = "per_stage"
    fusion: FusionKind = "gate_add"
    token_strides: tuple[int, ...] = (4, 2, 1, 1)
    width: int | None = None
    center_tokens: bool = True
    token_skip: bool = True
    token_mixer: str = "memory"
    memory: MemoryConfig = field(default_factory=MemoryConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_strides", tuple(self.token_strides))  # JSON has lists
        choose(self.placement, get_args(PlacementKind), "global_placement")
        choose(self.token_mixer, TOKEN_MIXERS, "token_mixer")
        choose(self.fusion, get_args(FusionKind), "fusion")
        if any(not isinstance(stride, int) or stride < 1 for stride in self.token_strides):
            raise ValueError(f"token_strides={self.token_strides} is out of range; give whole numbers from 1 on")
        if self.width is not None and (not isinstance(self.width, int) or self.width < 1):
            raise ValueError(f"memory_width={self.width!r} is out of range; give a whole number from 1 on, or None")
