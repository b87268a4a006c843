"""Neural memory: fast weights written and read in closed form. Imports torch only."""

from convneur.memory.config import MemoryConfig
from convneur.memory.folded import FoldedMemory
from convneur.memory.neural_memory import MemoryState, NeuralMemory
from convneur.memory.norm import RMSNorm, inverse_length
from convneur.memory.reference import reference

__all__ = ["FoldedMemory", "MemoryConfig", "MemoryState", "NeuralMemory", "RMSNorm", "inverse_length", "reference"]
