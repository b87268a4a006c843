"""Pooled features of a trained model, whatever it was trained for.

Shape letters: B batch, C channels, H W pixels, D width of the features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convneur.data.transforms import Preprocessing
from convneur.models.weights import weights_hash
from convneur.tasks.registry import open_predictor


class FeatureModel(NamedTuple):
    """A model of features in eval mode, what it expects of an image, D, and what tells it from others.

    ``identity`` has the architecture, its arguments, and a hash of the weights.
    """

    module: nn.Module
    preprocessing: Preprocessing
    width: int
    identity: dict[str, Any]


def load_features(source: str, image_size: int | None = None) -> FeatureModel:
    """Load a model for its features.

    Args:
        source: Folder of a run or model of any task, ``hf-hub:USER/NAME``, or a timm name with pretrained weights.
        image_size: Pixels a side; what a classifier was made for, or the backbone of another model, if not given.

    Raises:
        FileNotFoundError: If there is no such folder or name.
        ValueError: If it cannot be loaded, or gives no features of images of that size.
    """
    predictor = open_predictor(source)
    module, preprocessing = predictor.feature_module(), predictor.preprocessing(image_size)
    architecture, arguments = predictor.architecture
    # Weights fit several memories: the arguments tell them apart.
    identity = {"architecture": architecture, "arguments": arguments, "weights": weights_hash(module)}
    return FeatureModel(module.eval(), preprocessing, _width(module, preprocessing, source), identity)


@torch.inference_mode()
def _width(module: nn.Module, preprocessing: Preprocessing, source: str) -> int:
    """D, found out with a black image."""
    channels, height, width = preprocessing.input_size
    try:
        features: Tensor = module(torch.zeros(1, channels, height, width))
    except Exception as error:  # too small, another size than the one it takes: whatever models raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{source} gives no features of {height} x {width} px ({reason})") from error
    if features.ndim != 2:
        raise ValueError(f"{source} gives features of shape {tuple(features.shape)}, which are not pooled")
    return features.shape[1]
