"""Neural memory: a state written from an image's tokens, read by all of them. Imports torch and `convneur.ops` only."""

from convneur.memory.config import MemoryConfig
from convneur.memory.memory import Memory
from convneur.memory.neural_memory import MemoryState, NeuralMemory
from convneur.memory.norm import RMSNorm
from convneur.memory.parts import contexts_in_parts
from convneur.memory.reference import reference
from convneur.memory.slot_memory import SlotMemory


def make_memory(width: int, config: MemoryConfig | None = None) -> Memory:
    """The memory that a configuration describes: `SlotMemory` for ``slots``, `NeuralMemory` for fast weights.

    Args:
        width: D, channels of a token.
        config: Options; the defaults if not given.

    Raises:
        ValueError: If ``width`` is not a positive multiple of the number of heads.
    """
    config = config if config is not None else MemoryConfig()
    return SlotMemory(width, config) if config.state == "slots" else NeuralMemory(width, config)


__all__ = [
    "Memory",
    "MemoryConfig",
    "MemoryState",
    "NeuralMemory",
    "RMSNorm",
    "SlotMemory",
    "contexts_in_parts",
    "make_memory",
    "reference",
]
