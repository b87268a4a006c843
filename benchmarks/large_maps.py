"""What a trained backbone makes of a photograph at 224 px and at 800 x 1333 px, nothing retuned; and what that costs.

    python benchmarks/large_maps.py --model runs/nuclei --images PHOTOS --out docs/results/detection/large_maps.json

Each photograph is stretched to 224 x 373 and to 800 x 1333 px, so that both hold the same. All maps must be finite; the
gates of the first global branch of each stage are averaged over channels and pixels. Times are of whole backbones on
noise of 800 x 1333 px, each over its baseline, in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from convneur.bench import freed_memory_kept
from convneur.bench.throughput import inference_step, spread, times_in_turn
from convneur.data.decode import SUFFIXES, decode_image
from convneur.explain.gates import gate_maps
from convneur.models import VARIANTS, ConvNeur, load_model
from convneur.reports.page import versions
from convneur.tasks.detection.saved import detector_folder, load_detector

SMALL, LARGE = (224, 373), (800, 1333)
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def backbone_of(model: str) -> ConvNeur:
    """Of a detector or a classifier."""
    if detector_folder(model) is None:
        return load_model(model).model
    detector: Any = load_detector(model).model
    return detector.backbone.body.model


def resized(picture: Image.Image, size: tuple[int, int]) -> torch.Tensor:
    """(1, 3, H, W) as the backbone takes it."""
    pixels = F.to_dtype(F.to_image(F.resize(picture, list(size), antialias=True)), torch.float32, scale=True)
    return F.normalize(pixels, MEAN, STD)[None]


def mean_gates(model: ConvNeur, images: torch.Tensor) -> list[tuple[float, float]]:
    """Per stage: the mean of the gate, and of how far it is from one half; an error where a map is not finite."""
    with torch.inference_mode():
        maps = model.forward_intermediates(images, intermediates_only=True)
    if not all(torch.isfinite(each).all() for each in maps):
        raise ValueError(f"a map of {tuple(images.shape)} is not finite")
    return [(float(gate.mean()), float((gate - 0.5).abs().mean())) for gate in gate_maps(model, images)]


def compare(model: ConvNeur, files: list[Path]) -> list[dict[str, float]]:
    """Per stage: the mean gate at both sizes, and the ratio, of the means and at its furthest of single photographs.

    Besides, how far gates are from one half in the mean, where they say nothing.
    """
    small, large = [], []
    for file in files:
        picture = decode_image(file)
        small.append(mean_gates(model, resized(picture, SMALL)))
        large.append(mean_gates(model, resized(picture, LARGE)))
    rows = []
    stages = zip(zip(*small, strict=True), zip(*large, strict=True), strict=True)
    for stage, (at_small, at_large) in enumerate(stages, start=1):
        (a, far_a), (b, far_b) = zip(*at_small, strict=True), zip(*at_large, strict=True)
        ratios = [high / low for low, high in zip(a, b, strict=True)]
        rows.append(
            {
                "stage": stage,
                "gate_small": statistics.mean(a),
                "gate_large": statistics.mean(b),
                "ratio": statistics.mean(b) / statistics.mean(a),
                "least": min(ratios),
                "largest": max(ratios),
                "swing_small": statistics.mean(far_a),
                "swing_large": statistics.mean(far_b),
            }
        )
    return rows


def times(names: list[str], rounds: int) -> list[dict[str, Any]]:
    """Each model over its baseline at the large size."""
    rows = []
    for name in names:
        images = torch.randn(1, 3, *LARGE)
        pair = {key: timm.create_model(key, num_classes=0).eval() for key in (name, VARIANTS[name].baseline)}
        steps = {key: inference_step(model, images) for key, model in pair.items()}
        taken = times_in_turn(steps, torch.device("cpu"), rounds)
        ours, baseline = taken.values()
        middle, low, high = spread([a / b for a, b in zip(ours, baseline, strict=True)])
        rows.append(
            {
                "model": name,
                "seconds": statistics.median(ours),
                "baseline_seconds": statistics.median(baseline),
                "over_baseline": middle,
                "low": low,
                "high": high,
            }
        )
    return rows


@freed_memory_kept()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="run or folder of a model")
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--times", nargs="*", default=["convneur_m1", "convneur_m2", "convneur_m3", "convneur_m4"])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    files = sorted(path for path in given.images.iterdir() if path.suffix.lower() in SUFFIXES)[: given.count]
    gates = compare(backbone_of(given.model), files)
    for row in gates:
        print(" ".join(f"{key} {value:.4g}" for key, value in row.items()))
    taken = times(given.times, given.rounds)
    for row in taken:
        print(
            " ".join(f"{key} {value if isinstance(value, str) else format(value, '.4g')}" for key, value in row.items())
        )
    if given.out:
        told = {"photographs": len(files), "rounds": given.rounds, "gates": gates, "times": taken}
        given.out.write_text(json.dumps(told | {"versions": versions()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
