"""Pooled features of a trained model, whatever it was trained for.

Shape letters: B batch, C channels, H W pixels, D width of the features.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import timm
import torch
from torch import Tensor, nn

from convneur.data.semantic.loading import MEAN, STD
from convneur.data.transforms import Preprocessing
from convneur.models import load_model
from convneur.models.hub import model_folder
from convneur.models.weights import weights_hash
from convneur.tasks.detection.saved import detector_folder, load_detector
from convneur.tasks.saved import find_model, read_config
from convneur.tasks.segmentation.saved import load_segmenter, segmenter_folder


class ClassifierFeatures(nn.Module):
    """What the last layer of a classifier sees: images (B, C, H, W) -> (B, D)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Pooled, normed where the model does so."""
        model = cast(Any, self.model)
        return model.forward_head(model.forward_features(images), pre_logits=True)


class BodyFeatures(nn.Module):
    """The mean over the last map of a detector's or a segmentation model's backbone: images (B, C, H, W) -> (B, D)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.channels_last = getattr(body, "output_fmt", "NCHW") == "NHWC"  # Swin's maps, for one

    def forward(self, images: Tensor) -> Tensor:
        """Pooled over height and width."""
        last: Tensor = self.body(images)[-1]
        return last.mean((1, 2) if self.channels_last else (2, 3))


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
    if detector_folder(source) is not None:
        detector: Any = load_detector(source).model
        stats = {"mean": detector.transform.image_mean, "std": detector.transform.image_std}
        module, config = _of_body(detector.backbone.body, source, "detector", stats)
    elif segmenter_folder(source) is not None:
        body = load_segmenter(source).model.body
        module, config = _of_body(body, source, "segmenter", {"mean": MEAN, "std": STD})
    else:
        loaded = load_model(source)
        folder = model_folder(source)
        arguments = read_config(folder).get("model_args") if folder is not None else None
        module, config = ClassifierFeatures(loaded.model), loaded.config | {"model_args": arguments}
    preprocessing = Preprocessing.of(config, image_size)
    identity = {
        "architecture": config.get("architecture"),
        "arguments": config["model_args"] or {},  # weights fit several memories
        "weights": weights_hash(module),
    }
    return FeatureModel(module.eval(), preprocessing, _width(module, preprocessing, source), identity)


def _of_body(body: nn.Module, source: str, key: str, stats: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """The backbone of a larger model, and timm's description of it with that model's mean and std of pixels."""
    folder = find_model(source, key)
    assert folder is not None
    arguments = read_config(folder)[key]
    name = arguments["backbone"]
    told = {"architecture": name, "model_args": arguments.get("backbone_args")}
    described: Any = timm.get_pretrained_cfg(name)
    return BodyFeatures(body), described.to_dict() | told | stats


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
