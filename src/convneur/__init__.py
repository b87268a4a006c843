"""ConvNeur: efficient vision backbones with a neural memory of the whole image.

Importing this package registers ``convneur_m1`` to ``convneur_m4`` with timm.
"""

import convneur_command

if convneur_command.is_the_command():
    convneur_command.heed_signals()  # what follows takes seconds

from convneur.memory import MemoryConfig, MemoryState, NeuralMemory, SlotMemory
from convneur.models import ConvNeur, GlobalConfig, create_model, from_convnext
from convneur_options import __version__ as __version__

__all__ = [
    "ConvNeur",
    "GlobalConfig",
    "MemoryConfig",
    "MemoryState",
    "NeuralMemory",
    "SlotMemory",
    "create_model",
    "from_convnext",
]
