"""Neural memory: fast weights written and read in closed form. Imports torch and `convneur.ops` only."""

from convneur.memory.config import MemoryConfig
from convneur.memory.neural_memory import MemoryState, NeuralMemory
from convneur.memory.norm import RMSNorm
from convneur.memory.parts import contexts_in_parts
from convneur.memory.reference import reference

__all__ = ["MemoryConfig", "MemoryState", "NeuralMemory", "RMSNorm", "contexts_in_parts", "reference"]
