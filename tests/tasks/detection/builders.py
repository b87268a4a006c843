"""Small detectors and made-up scenes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from convneur.data.objects.masks import encode_masks
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


def write_scenes(folder: Path) -> Path:
    """Scenes as files and annotations in COCO's form; one image has nothing on it, one file is no image."""
    (folder / "images").mkdir(parents=True)
    for split, seed in (("train", 0), ("val", 1)):
        images, targets = scenes(3, seed)
        content: dict[str, list[object]] = {"images": [], "annotations": []}
        content["categories"] = [{"id": 10 * n, "name": f"kind {n}"} for n in (1, 2, 3)]
        for number, (image, target) in enumerate(zip(images, targets, strict=True)):
            name, (_, height, width) = f"{split}{number}.png", image.shape
            Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()).save(folder / "images" / name)
            content["images"].append({"id": number, "file_name": name, "height": height, "width": width})
            for box, label, mask in zip(
                target["boxes"].tolist(), target["labels"].tolist(), encode_masks(target["masks"].numpy()), strict=True
            ):
                if number == 1:
                    continue
                x0, y0, x1, y1 = box
                content["annotations"].append(
                    {"id": len(content["annotations"]), "image_id": number, "category_id": 10 * label,
                     "bbox": [x0, y0, x1 - x0, y1 - y0], "area": 1152, "iscrowd": 0, "segmentation": mask}
                )  # fmt: skip
        content["images"].append({"id": 99, "file_name": f"{split}_bad.png", "height": 96, "width": 128})
        (folder / "images" / f"{split}_bad.png").write_bytes(b"no image")
        (folder / f"instances_{split}.json").write_text(json.dumps(content))
    return folder
