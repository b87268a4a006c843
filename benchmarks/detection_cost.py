"""Parameters and multiply-accumulates of Cascade Mask R-CNN on several backbones, part by part.

    python benchmarks/detection_cost.py --out docs/results/detection/cost.json

Counted as they run, with torch's FlopCounterMode, on an image of 800 x 1280 px, as is usual: all anchors, 1,000 boxes
in each of the three stages, and masks of 100 of them. Pooling, NMS and what is done element by element count nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from convneur.reports.page import versions
from convneur.tasks.detection import create_detector

HEIGHT, WIDTH, BOXES, MASKS = 800, 1280, 1000, 100
BACKBONES = (
    "convneur_m1",
    "convneur_m2",
    "convneur_m3",
    "convnext_atto",
    "convnext_femto",
    "convnext_pico",
    "resnet50",
)


def counted(part: Callable[[], Any]) -> tuple[float, Any]:
    """Billions of multiply-accumulates, and what came out."""
    with FlopCounterMode(display=False) as counter:
        out = part()
    return counter.get_total_flops() / 2e9, out


@torch.no_grad()
def cost(backbone: str) -> dict[str, float]:
    """Millions of parameters and billions of multiply-accumulates."""
    model: Any = create_detector("cascade_mask_rcnn", backbone, num_classes=80).eval()
    image = torch.zeros(1, 3, HEIGHT, WIDTH)
    body, _ = counted(lambda: model.backbone.body(image))
    whole, features = counted(lambda: model.backbone(image))
    rpn, _ = counted(lambda: model.rpn.head(list(features.values())))
    corners = torch.rand(BOXES, 2) * torch.tensor([WIDTH - 300, HEIGHT - 300])
    boxes = torch.cat([corners, corners + 20 + 280 * torch.rand(BOXES, 2)], 1)
    shapes = [(HEIGHT, WIDTH)]

    def box_heads() -> None:
        for head in model.roi_heads.stages:
            head.box_predictor(head.box_head(head.box_roi_pool(features, [boxes], shapes)))

    def mask_heads() -> list[Tensor]:
        return [
            head.mask_predictor(head.mask_head(head.mask_roi_pool(features, [boxes[:MASKS]], shapes)))
            for head in model.roi_heads.stages
        ]

    parts = {
        "backbone": body,
        "pyramid": whole - body,
        "proposals": rpn,
        "box heads": counted(box_heads)[0],
        "mask heads": counted(mask_heads)[0],
    }
    parameters = {
        "parameters": sum(p.numel() for p in model.parameters()) / 1e6,
        "parameters of the backbone": sum(p.numel() for p in model.backbone.body.parameters()) / 1e6,
    }
    return parameters | parts | {"all": sum(parts.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = {name: cost(name) for name in options.backbones}
    columns = list(next(iter(rows.values())))
    print("| backbone | " + " | ".join(columns) + " |")
    print("|" + "---|" * (len(columns) + 1))
    for name, row in rows.items():
        print(f"| `{name}` | " + " | ".join(f"{value:.1f}" for value in row.values()) + " |")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        facts = {"height": HEIGHT, "width": WIDTH, "boxes": BOXES, "masks": MASKS, "versions": versions()}
        options.out.write_text(json.dumps(facts | {"billions of multiply-accumulates": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
