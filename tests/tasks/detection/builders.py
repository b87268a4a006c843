"""Small detectors and made-up scenes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from convneur.tasks.detection import create_detector

TINY = {"dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "memory_width": 16}


def detector(kind: Any, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    settings = {"num_classes": 3, "min_size": 96, "max_size": 128, "smallest_anchor": 16, "out_channels": 32}
    return create_detector(kind, "convneur_m1", backbone_args=dict(TINY), **(settings | arguments))


def scenes(count: int = 2, seed: int = 0) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Noise with bright rectangles on it."""
    draw = torch.Generator().manual_seed(seed)
    images, targets = [], []
    for number in range(count):
        height, width = 96 + 16 * number, 128
        image = torch.rand(3, height, width, generator=draw) * 0.2
        boxes, masks, labels = [], [], []
        for label in (1, 2, 3):
            x, y = (int(torch.randint(0, side - 40, (), generator=draw)) for side in (width, height))
            image[label - 1, y : y + 32, x : x + 36] = 1
            mask = torch.zeros(height, width, dtype=torch.uint8)
            mask[y : y + 32, x : x + 36] = 1
            boxes.append([x, y, x + 36, y + 32])
            masks.append(mask)
            labels.append(label)
        images.append(image)
        targets.append(
            {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels), "masks": torch.stack(masks)}
        )
    return images, targets
