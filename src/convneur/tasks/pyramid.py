"""The maps of a timm backbone as a feature pyramid, for torchvision's detectors and for Semantic FPN.

torchvision's own `BackboneWithFPN` runs the children of a model one after the other, which is not what timm's models
do in their forward pass. Here the model runs itself.

Shape letters: B batch, C channels, H W pixels of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from convneur.tasks.backbone_utils import with_maps

STRIDES = (4, 8, 16, 32)


class FeaturePyramid(nn.Module):
    """A backbone and a feature pyramid network (Lin et al., CVPR 2017) behind it.

    Args:
        backbone: Name of a timm model, a `ConvNeur`, or what timm makes with ``features_only=True``.
        strides: Of the maps that the pyramid is built from, pixels of the image per pixel of the map.
        out_channels: C of each level.
        extra_blocks: More levels above; torchvision's ``LastLevelMaxPool`` or ``LastLevelP6P7``.
        norm_layer: Norm after each convolution of the pyramid, from its channels; None for none.
        **arguments: Of the timm model, if it is given by name.

    Attributes:
        body: The backbone, images -> maps.
        out_channels: C, which torchvision asks for.

    Raises:
        ValueError: If the backbone has no map of a stride.
    """

    def __init__(
        self,
        backbone: str | nn.Module = "convneur_m1",
        strides: Sequence[int] = STRIDES,
        out_channels: int = 256,
        extra_blocks: ExtraFPNBlock | None = None,
        norm_layer: Callable[[int], nn.Module] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        self.body = with_maps(backbone, arguments)
        info: Any = self.body.feature_info
        found = info.reduction()
        missing = [stride for stride in strides if stride not in found]
        if missing:
            raise ValueError(
                f"the backbone has maps of stride {', '.join(map(str, found))}, and the pyramid needs "
                f"{', '.join(map(str, missing))}; choose another backbone"
            )
        self.channels_last = getattr(self.body, "output_fmt", "NCHW") == "NHWC"  # Swin's maps, for one
        self.take = [found.index(stride) for stride in strides]
        channels = info.channels()
        self.fpn = FeaturePyramidNetwork([channels[i] for i in self.take], out_channels, extra_blocks, norm_layer)
        self.out_channels = out_channels
        self.mixed: torch.dtype | None = None  # see `convneur.tasks.detection.learning`

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) -> levels by name: "0" is the finest, what extra blocks add has names of theirs."""
        if self.mixed is None:
            return self._levels(images)
        with torch.autocast(images.device.type, self.mixed):
            levels = self._levels(images)
        return {name: level.float() for name, level in levels.items()}

    def _levels(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.body(images)
        if self.channels_last:
            maps = [each.permute(0, 3, 1, 2) for each in maps]
        levels: dict[str, Tensor] = self.fpn({str(level): maps[i] for level, i in enumerate(self.take)})
        return levels
