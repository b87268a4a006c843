"""Semantic FPN (Kirillov et al., "Panoptic Feature Pyramid Networks", CVPR 2019, section 3.2).

segmentation-models-pytorch has one without the pyramid's own 3 x 3 convolutions, half of the published work.

Shape letters: B batch, K classes, H W pixels of the image.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from convneur.tasks.pyramid import FeaturePyramid

GROUPS = 32  # of the norms


class SemanticFPN(nn.Module):
    """A feature pyramid, whose levels are brought to stride 4, added, and read.

    Args:
        backbone: As for `FeaturePyramid`.
        num_classes: K.
        pyramid_channels: Of the levels.
        channels: Of what they are brought to.
        dropout: Share of the channels that are left out in training before they are read.
        **arguments: Of the backbone.
    """

    def __init__(
        self,
        backbone: str | nn.Module,
        num_classes: int,
        pyramid_channels: int = 256,
        channels: int = 128,
        dropout: float = 0.1,
        **arguments: Any,
    ) -> None:
        super().__init__()
        self.pyramid = FeaturePyramid(backbone, out_channels=pyramid_channels, **arguments)
        self.levels = nn.ModuleList(_level(pyramid_channels, channels, doublings) for doublings in range(4))
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(channels, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) with sides that are multiples of 32 -> logits (B, K, H, W)."""
        maps = list(self.pyramid(images).values())
        total = sum(level(each) for level, each in zip(self.levels, maps, strict=True))
        return F.interpolate(self.head(self.dropout(total)), scale_factor=4, mode="bilinear", align_corners=False)


class _GroupNorm(nn.GroupNorm):
    """Gives the bias for a group of one value; PyTorch's own refuses it, as if there were a batch to be enlarged."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


def _level(in_channels: int, channels: int, doublings: int) -> nn.Sequential:
    """Convolutions, norms, and a doubling of the size after each but on the finest level."""
    parts: list[nn.Module] = []
    for number in range(max(1, doublings)):
        parts.append(
            Conv2dNormActivation(
                in_channels if number == 0 else channels, channels, norm_layer=partial(_GroupNorm, GROUPS)
            )
        )
        if doublings:
            parts.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
    return nn.Sequential(*parts)
