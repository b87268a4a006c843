"""Models to export."""

from __future__ import annotations

from pathlib import Path

import torch

from convneur.data.photos import SAMPLES, sample_image
from convneur.data.transforms import Preprocessing
from convneur.export import Facts
from convneur.export.check import photo_batches
from convneur.models import ConvNeur, save_model
from tests.models.builders import create

LABELS = ['a "quoted" one', "<&> 'two'", "čtyři", "", "five\nlines\\"]
ARGS = {"dims": (8, 16), "depths": (1, 1), "memory_width": 16, "num_classes": len(LABELS)}
EXPECTS = {"input_size": (3, 32, 32), "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), "crop_pct": 0.9}
ONE_STAGE = {"dims": (8,), "depths": (1,)}
SIZES = [(32, 32), (47, 63), (100, 52)]  # maps whose sides the pooling windows fit, stand over, and both


def small(seed: int = 0, **changes) -> ConvNeur:
    """A model of two stages, none of whose weights is what a new one has."""
    torch.manual_seed(seed)
    model = create("convneur_m1", **ARGS | changes, pretrained_cfg_overlay=EXPECTS).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def facts_of(model: ConvNeur) -> Facts:
    return Facts(dict(model.pretrained_cfg), LABELS)


def photos(model: ConvNeur, sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
    """Batches of 1 and of 4 photographs at each size."""
    pictures = [sample_image(name) for name in SAMPLES]
    return list(photo_batches(pictures, Preprocessing.of(dict(model.pretrained_cfg)), sizes))


def saved(folder: Path, labels: list[str]) -> Path:
    """A folder as ``convneur train`` leaves it."""
    save_model(small(), folder, ARGS, labels)
    return folder
