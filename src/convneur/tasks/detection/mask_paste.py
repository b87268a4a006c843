"""What goes into a detector and comes out: thin images, and masks onto images, as torchvision does it, in less time
where there are many, or left as they are.

torchvision fills an image of zeros for each mask and stacks them; here all are written into one tensor.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from convneur.models.prepare_for_inference import shallow_copy

Size = tuple[int, int]


class PastingTransform(GeneralizedRCNNTransform):
    """torchvision's transform, but for images of less than a pixel a side, and how masks get onto the images.

    Args:
        transform: That of a detector, whose settings are taken over.
    """

    def __init__(self, transform: GeneralizedRCNNTransform) -> None:
        super().__init__(
            transform.min_size,
            transform.max_size,
            transform.image_mean,
            transform.image_std,
            transform.size_divisible,
            transform.fixed_size,
        )
        self.fixed_size: tuple[int, int] | None = transform.fixed_size
        # Without, masks stay (n, 1, side, side) over their boxes: hundreds on a large image would take gigabytes.
        self.pasting = True

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """As torchvision does it, but to at least a pixel a side: of 600 x 1 px nothing would be left."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return super().resize(image, target)
        height, width = image.shape[-2:]
        scale = self.max_size / max(height, width)
        if min(height, width) * scale >= 1:
            return super().resize(image, target)
        other = shallow_copy(self)
        other.fixed_size = max(1, round(width * scale)), max(1, round(height * scale))
        return super(PastingTransform, other).resize(image, target)

    def postprocess(
        self, result: list[dict[str, Tensor]], image_shapes: list[Size], original_image_sizes: list[Size]
    ) -> list[dict[str, Tensor]]:
        """Boxes to the size of the original images, and masks (n, 1, side, side) to (n, 1, H, W)."""
        if self.training or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return super().postprocess(result, image_shapes, original_image_sizes)
        masks = [each.pop("masks", None) for each in result]
        result = super().postprocess(result, image_shapes, original_image_sizes)
        for each, small, size in zip(result, masks, original_image_sizes, strict=True):
            if small is not None:
                each["masks"] = paste_masks(small, each["boxes"], size) if self.pasting else small
        return result


def with_transform(detector: nn.Module, **settings: Any) -> nn.Module:
    """A detector of the same layers, with other settings of its transform; the given one stays as it is."""
    other = shallow_copy(detector)
    other.transform = shallow_copy(other.transform)
    for name, value in settings.items():
        setattr(other.transform, name, value)
    return other


def paste_masks(masks: Tensor, boxes: Tensor, size: Size) -> Tensor:
    """Probabilities of the pixels of boxes -> of an image; zero outside the boxes.

    Args:
        masks: (n, 1, side, side).
        boxes: (n, 4) corners in pixels of the image.
        size: H and W.

    Returns:
        (n, 1, H, W).
    """
    height, width = size
    masks, scale = expand_masks(masks, padding=1)
    corners = expand_boxes(boxes, scale).to(torch.int64).tolist()
    pasted = masks.new_zeros((len(masks), 1, height, width))
    for number, (mask, (x0, y0, x1, y1)) in enumerate(zip(masks, corners, strict=True)):
        fitted = F.interpolate(
            mask[None], (max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1)), mode="bilinear", align_corners=False
        )[0]
        left, right, top, bottom = max(x0, 0), min(x1 + 1, width), max(y0, 0), min(y1 + 1, height)
        pasted[number, :, top:bottom, left:right] = fitted[:, top - y0 : bottom - y0, left - x0 : right - x0]
    return pasted
