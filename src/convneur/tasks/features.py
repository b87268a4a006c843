"""Vectors that a trained model has for an image, before its head.

Shape letters: B batch, C channels, H W pixels, D width of the features.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from convneur.tasks.backbone_utils import body_maps


class ClassifierFeatures(nn.Module):
    """What the last layer of a classifier sees: images (B, C, H, W) -> (B, D)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Pooled, normed where the model does so."""
        model = cast(Any, self.model)
        return model.forward_head(model.forward_features(images), pre_logits=True)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Of the stages, each (B, C, H, W)."""
        found: list[Tensor] = cast(Any, self.model).forward_intermediates(images, intermediates_only=True)
        return found


class BodyFeatures(nn.Module):
    """The mean over the last map of a detector's or a segmentation model's backbone: images (B, C, H, W) -> (B, D)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        """Pooled over height and width."""
        return self.maps(images)[-1].mean((2, 3))

    def maps(self, images: Tensor) -> list[Tensor]:
        """Of the stages, each (B, C, H, W)."""
        return body_maps(self.body, images)


Features = ClassifierFeatures | BodyFeatures
