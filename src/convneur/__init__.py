"""ConvNeur: efficient vision backbones with a neural memory of the whole image.

Importing this package registers ``convneur_m1`` to ``convneur_m4`` with timm. What trains and uses whole models
(`convneur.api`) is imported when it is first asked for: it needs ``pip install 'convneur[train]'``, and takes seconds.
"""

from typing import TYPE_CHECKING, Any

import convneur_command

if convneur_command.is_the_command():
    convneur_command.heed_signals()  # what follows takes seconds

from convneur.memory import MemoryConfig, MemoryState, NeuralMemory, SlotMemory
from convneur.models import ConvNeur, GlobalConfig, create_model, from_convnext
from convneur_options import __version__ as __version__

if TYPE_CHECKING:
    from convneur.api import Predictor, TrainedRun, evaluate, load, predict, train

__all__ = [
    "ConvNeur",
    "GlobalConfig",
    "MemoryConfig",
    "MemoryState",
    "NeuralMemory",
    "Predictor",
    "SlotMemory",
    "TrainedRun",
    "create_model",
    "evaluate",
    "from_convnext",
    "load",
    "predict",
    "train",
]
_LATE = {"Predictor", "TrainedRun", "evaluate", "load", "predict", "train"}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from convneur import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})
