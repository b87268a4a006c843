"""The family as data: sizes of the variants, and presets of the global branch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from convneur.memory import MemoryConfig
from convneur.models.config import GlobalConfig, Variant
from convneur.models.registry_utils import choose

VARIANTS: dict[str, Variant] = {
    "convneur_m1": Variant((40, 80, 160, 320), (2, 2, 6, 2), "convnext_atto"),
    "convneur_m2": Variant((48, 96, 192, 384), (2, 2, 6, 2), "convnext_femto"),
    "convneur_m3": Variant((64, 128, 256, 512), (2, 2, 6, 2), "convnext_pico"),
    "convneur_m4": Variant((80, 160, 320, 640), (2, 2, 8, 2), "convnext_nano"),
}

PRESETS: dict[str, GlobalConfig] = {
    "slots": GlobalConfig(),
    # Models of earlier versions.
    "linear": GlobalConfig(memory=MemoryConfig(state="linear")),
    # The paper's memory, kept for reproduction: full-resolution tokens, causal chunks of 196, inner loss a plain sum.
    "published": GlobalConfig(
        fusion="gate",
        token_strides=(1, 1, 1, 1),
        center_tokens=False,
        token_skip=False,
        memory=MemoryConfig(state="mlp", read="causal", chunk_size=196, reference_length=None),
    ),
}


def resolve_preset(
    preset: str, memory: MemoryConfig | Mapping[str, Any] | None = None, **overrides: Any
) -> GlobalConfig:
    """Configuration of a preset with the overrides that are not None.

    Args:
        preset: Name in `PRESETS`.
        memory: A whole memory configuration, or some of its options by name.
        **overrides: Fields of `GlobalConfig`.

    Raises:
        ValueError: For an unknown preset, option or value.
    """
    config = PRESETS[choose(preset, PRESETS, "preset")]
    if memory is not None and not isinstance(memory, MemoryConfig):
        for knob in memory:
            choose(knob, [f.name for f in fields(MemoryConfig)], "option of the memory")
        own = config.memory if memory.get("state") != "slots" else MemoryConfig()
        memory = replace(own, **memory)
    given = {name: value for name, value in {"memory": memory, **overrides}.items() if value is not None}
    if given.get("token_mixer", config.token_mixer) != "memory":
        # Taking the mean off is part of how we write. It would make the pointwise control global, too.
        given.setdefault("center_tokens", False)
    return replace(config, **given)
