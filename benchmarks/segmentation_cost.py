"""Parameters and multiply-accumulates of segmentation models as published: crops of 512 x 2048 px, 150 classes.

    python benchmarks/segmentation_cost.py --out docs/results/segmentation/cost.json

Counted as they run, with torch's FlopCounterMode, on tensors without content; what is done element by element, pooling
and resizing count nothing. UPerNet has 512 channels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from convneur.reports.page import versions
from convneur.tasks.segmentation import create_segmenter

SIZES = ((512, 512), (512, 2048))
OURS = ("convneur_m1", "convneur_m2", "convneur_m3", "convneur_m4")
OTHERS = ("convnext_femto", "resnet50", "swin_tiny_patch4_window7_224")
PUBLISHED = {("semantic_fpn", "convneur_m2"): 106, ("upernet", "convneur_m4"): 908}


def billions(model: torch.nn.Module, images: torch.Tensor) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return counter.get_total_flops() / 2e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for decoder in ("semantic_fpn", "upernet"):
        for backbone in (*OURS, *OTHERS):
            for size in SIZES:
                options: dict[str, Any] = {"backbone_args": {"img_size": size}} if "swin" in backbone else {}
                if decoder == "upernet":
                    options["decoder_channels"] = 512
                with torch.device("meta"):
                    model = create_segmenter(decoder, backbone, 150, **options).eval()
                    images = torch.empty(1, 3, *size)
                row = {
                    "decoder": decoder,
                    "backbone": backbone,
                    "size": size,
                    "parameters": sum(p.numel() for p in model.parameters()),
                    "gmacs": billions(model, images),
                    "gmacs_of_backbone": billions(model.body, images),
                    "published": PUBLISHED.get((decoder, backbone)) if size == SIZES[1] else None,
                }
                rows.append(row)
                print(" ".join(f"{k} {format(v, '.4g') if isinstance(v, float) else v}" for k, v in row.items()))
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps({"rows": rows, "versions": versions()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
