"""Neural memory: fast weights written and read in closed form. Imports torch only."""

from convneur.memory import kernels, library
from convneur.memory.config import MemoryConfig
from convneur.memory.folded import (
    Folded,
    FoldedMaps,
    Maps,
    Written,
    all_watched,
    fold,
    maps_of,
    mlp_maps_of,
    read_folded,
    watched,
    write_folded,
)
from convneur.memory.neural_memory import MemoryState, NeuralMemory
from convneur.memory.norm import RMSNorm
from convneur.memory.packed import Packed, refuse_training, require_eval
from convneur.memory.parts import contexts_in_parts
from convneur.memory.products import FixedLinear, Linear, is_exporting, linear
from convneur.memory.reference import reference
from convneur.memory.training import answer

__all__ = [
    "FixedLinear",
    "Folded",
    "FoldedMaps",
    "Linear",
    "Maps",
    "MemoryConfig",
    "MemoryState",
    "NeuralMemory",
    "Packed",
    "RMSNorm",
    "Written",
    "all_watched",
    "answer",
    "contexts_in_parts",
    "fold",
    "is_exporting",
    "kernels",
    "library",
    "linear",
    "maps_of",
    "mlp_maps_of",
    "read_folded",
    "reference",
    "refuse_training",
    "require_eval",
    "watched",
    "write_folded",
]
