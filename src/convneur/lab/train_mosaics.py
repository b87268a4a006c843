"""Train a model on mosaics of photographs: what can it know of the far side of the picture?"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader

from convneur.data.sources import Source
from convneur.lab.photo_mosaics import PhotoMosaics, Tiles, distances, tiles_of
from convneur.lab.tile_classification import TileClassification
from convneur.models import create_model
from convneur.printing import Console
from convneur.tasks.classification.model import MEAN, STD
from convneur.training.fit import Curve, fit
from convneur_options.classification import ClassificationRecipe
from convneur_options.mosaic import MosaicConfig

STEPS_PER_EPOCH = 100  # pictures are made endlessly
JUDGED = 512  # pictures of held-out tiles, the same for all models and at each evaluation
HELD_OUT_SEED = 1_000_003


def cut(source: Source, mosaic: MosaicConfig, console: Console) -> tuple[Tiles, Tiles]:
    """Tiles to train on, and others to judge by."""
    with console.status("Cutting tiles"):
        train, held_out = (tiles_of(images, mosaic.tile, mosaic.classes) for images in (source.train, source.val))
    return train, held_out


def train_on_mosaics(
    recipe: ClassificationRecipe,
    mosaic: MosaicConfig,
    tiles: tuple[Tiles, Tiles],
    seed: int,
    title: str,
    console: Console,
) -> Curve:
    """Train one model from its first step to its last.

    Args:
        recipe: Backbone, optimizer, epochs and batch size; tiles are mirrored and not varied otherwise.
        mosaic: What the pictures are.
        tiles: To train on, and to judge by; see `cut`.
        seed: Of weights and pictures.
        title: Name on the progress bar.
        console: For progress.

    Returns:
        What was logged after each epoch: ``loss``, ``accuracy``, and ``accuracy_1``, ... by distance.

    Raises:
        Interrupted: On Ctrl-C or SIGTERM.
        ValueError: If a place of the model's map is larger than a tile.
    """
    torch.manual_seed(seed)
    model = create_model("convneur_m1", num_classes=mosaic.answers, global_pool="", **recipe.backbone.arguments())
    if mosaic.tile % model.total_stride:
        raise ValueError(
            f"--mosaic.tile {mosaic.tile} is no multiple of the model's stride of {model.total_stride} px; give larger "
            "tiles, fewer stages, or a smaller --backbone.patch-size"
        )
    train, judge = (
        PhotoMosaics(part, mosaic, size, count, seed=drawn, flip=flip, mean=MEAN, std=STD)
        for part, size, count, drawn, flip in (
            (tiles[0], recipe.batch_size, STEPS_PER_EPOCH, seed, recipe.augment.hflip > 0),
            (tiles[1], 32, JUDGED // 32, HELD_OUT_SEED, False),
        )
    )
    held_out: Any = list(judge)  # drawn once; a list is a data set too, though not by its type
    groups = distances(mosaic.side)
    groups = groups.where(groups >= mosaic.nearest, 0) if mosaic.task != "pair" else torch.zeros_like(groups)
    task = TileClassification(
        model,
        recipe.optim,
        groups,
        ema=recipe.ema,
        seed=seed,
        images_per_step=recipe.batch_size,
        steps=recipe.epochs * STEPS_PER_EPOCH,
    )
    return fit(
        task,
        (DataLoader(train, batch_size=None), DataLoader(held_out, batch_size=None)),
        recipe.epochs,
        recipe.batch_size,
        title,
        console,
        recipe.fit,
        clip_grad=recipe.optim.clip_grad,
    )
