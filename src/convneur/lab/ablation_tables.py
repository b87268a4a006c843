"""Tables of models that differ in one thing, and budgets to train them with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

REFERENCE = "local-only"
LOCAL: dict[str, Any] = {"global_placement": "none"}
LINEAR: dict[str, Any] = {"preset": "linear"}

# What a cell changes of the default model. Causal chunks are short: a small image has few tokens.
TABLES: dict[str, dict[str, dict[str, Any]]] = {
    # The most telling cells of all tables, for where there is no time for all.
    "core": {
        REFERENCE: LOCAL,
        "memory": {},
        "pointwise control": {"token_mixer": "pointwise"},
        "squeeze-excitation": {"token_mixer": "se"},
        "self-attention": {"token_mixer": "attention"},
        "memory, linear": LINEAR,
        "memory, mlp": {"state": "mlp"},
        "memory, linear, causal": LINEAR | {"read": "causal", "chunk_size": 16},
        "memory, mlp, causal": {"state": "mlp", "read": "causal", "chunk_size": 16},
        "gate alone": {"fusion": "gate"},
        "gate alone, tokens not carried": {"fusion": "gate", "token_skip": False},
        "added": {"fusion": "add"},
        "per layer": {"global_placement": "per_layer"},
        "full resolution": {"token_strides": (1, 1, 1, 1)},
    },
    "token_mixer": {
        REFERENCE: LOCAL,
        "pointwise control": {"token_mixer": "pointwise"},
        "memory": {},
        "memory, linear": LINEAR,
        "memory, mlp": {"state": "mlp"},
        "squeeze-excitation": {"token_mixer": "se"},
        "CBAM": {"token_mixer": "cbam"},
        "non-local": {"token_mixer": "non_local"},
        "self-attention": {"token_mixer": "attention"},
        "RWKV, bidirectional": {"token_mixer": "rwkv"},
        "Titans": {"token_mixer": "titans"},
    },
    "memory": {
        REFERENCE: LOCAL,
        "pointwise control": {"token_mixer": "pointwise"},
        "slots": {},
        "slots, tokens not carried": {"token_skip": False},
        "linear, global": LINEAR,
        "linear, causal": LINEAR | {"read": "causal", "chunk_size": 16},
        "mlp, global": {"state": "mlp"},
        "mlp, causal": {"state": "mlp", "read": "causal", "chunk_size": 16},
        "linear, global, in order": LINEAR | {"chunk_size": 16, "anchor": "previous"},
        "linear, global, not centred": LINEAR | {"center_tokens": False},
        "published": {"preset": "published", "chunk_size": 16},
    },
    # The memory, beside what it has to beat.
    "search": {
        REFERENCE: LOCAL,
        "pointwise control": {"token_mixer": "pointwise"},
        "self-attention": {"token_mixer": "attention"},
        "memory": {},
        "memory, linear": LINEAR,
    },
    "fusion": {REFERENCE: LOCAL} | {kind: {"fusion": kind} for kind in ("gate", "add", "gate_add", "concat")},
    "placement": {REFERENCE: LOCAL} | {kind: {"global_placement": kind} for kind in ("per_stage", "per_layer")},
    "width": {REFERENCE: LOCAL} | {f"{k} x C1": {"memory_width": k} for k in (1, 2, 4)},
    "tokens": {REFERENCE: LOCAL}
    | {
        str(strides): {"token_strides": strides} for strides in ((1, 1, 1, 1), (2, 1, 1, 1), (4, 2, 1, 1), (8, 4, 2, 1))
    },
}


@dataclass(frozen=True)
class Budget:
    """What every cell is trained with.

    Attributes:
        epochs: Passes over the training images; 0 for the recipe's own.
        images: Training images, the same number of each class; 0 for all.
        seeds: Each trains every cell once.
        dims: Channels of the stages.
        depths: Blocks of the stages.
    """

    epochs: int
    images: int
    seeds: tuple[int, ...]
    dims: tuple[int, ...]
    depths: tuple[int, ...] = (2, 2, 6, 2)


BUDGETS = {
    "tiny": Budget(epochs=8, images=1_000, seeds=(0,), dims=(8, 16, 32, 64), depths=(1, 1, 1, 1)),
    "small": Budget(epochs=8, images=10_000, seeds=(0, 1, 2), dims=(24, 48, 96, 192)),
    "full": Budget(epochs=0, images=0, seeds=(0, 1, 2), dims=(40, 80, 160, 320)),
}
