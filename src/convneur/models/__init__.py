"""The backbone, its variants, their registration with timm, and conversion from ConvNeXt."""

from convneur.models.backbone import ConvNeur
from convneur.models.config import GlobalConfig, Variant
from convneur.models.convert import from_convnext
from convneur.models.hub import Loaded, load_model, save_model
from convneur.models.registry import create_model
from convneur.models.variants import PRESETS, VARIANTS

__all__ = [
    "PRESETS",
    "VARIANTS",
    "ConvNeur",
    "GlobalConfig",
    "Loaded",
    "Variant",
    "create_model",
    "from_convnext",
    "load_model",
    "save_model",
]
