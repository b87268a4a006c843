"""What of the model can be changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class BackboneConfig:
    """What of the model can be changed; None stands for what the preset says.

    Attributes:
        preset: Global branch as a whole: ``slots``, ``linear`` (of earlier versions), or ``published`` (the paper's).
        global_placement: Which blocks have a global branch; ``none`` is a plain ConvNeXt.
        fusion: How its answer meets the local features.
        token_strides: Pixels of a stage's map per token.
        memory_width: Width of the memory.
        center_tokens: Take the mean of an image's tokens off each.
        token_skip: Let the gate follow from each token itself, too.
        token_mixer: What reads the tokens: the memory, or something else to compare it with.
        dims: Channels of the stages, if not the variant's.
        depths: Blocks of the stages, if not the variant's.
        state: Memory: what is written, slots or fast weights.
        read: Memory: every token reads after all writes, or in order.
        anchor: Memory: where the inner gradient is taken.
        chunk_size: Memory: tokens per write.
        patch_size: Stride of the stem.
        ls_init_value: Initial layer scale.
        drop_path_rate: Stochastic depth of the last block.
    """

    preset: Literal["slots", "linear", "published"] = "slots"
    global_placement: Literal["per_stage", "per_layer", "none"] | None = None
    fusion: Literal["gate", "add", "gate_add", "concat"] | None = None
    token_strides: tuple[int, ...] | None = None
    memory_width: int | None = None
    center_tokens: bool | None = None
    token_skip: bool | None = None
    token_mixer: str | None = None
    dims: tuple[int, ...] | None = None
    depths: tuple[int, ...] | None = None
    state: Literal["slots", "linear", "mlp"] | None = None
    read: Literal["global", "causal"] | None = None
    anchor: Literal["initial", "previous"] | None = None
    chunk_size: int | None = None
    patch_size: int = 4
    ls_init_value: float = 1e-6
    drop_path_rate: float = 0.0

    def arguments(self) -> dict[str, Any]:
        """Arguments of `convneur.create_model`, as JSON can hold them."""
        knobs = {name: getattr(self, name) for name in ("state", "read", "anchor", "chunk_size")}
        memory = {name: value for name, value in knobs.items() if value is not None}
        given = {name: value for name, value in vars(self).items() if name not in knobs and value is not None}
        given = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
        return given | ({"memory": memory} if memory else {})
