"""Train a segmentation model on people's images and masks: data, model, task and engine meet here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from convneur.data.decode import decode_image
from convneur.data.semantic import IGNORED, PixelSource, open_pixels
from convneur.data.semantic.loading import PixelData, pixel_transform
from convneur.engine.fit import Curve, resume_from
from convneur.files import StrPath
from convneur.models import VARIANTS
from convneur.printing import Console, Progress
from convneur.recipes.fitting import Kept, fit_recipe
from convneur.recipes.found import tell_found
from convneur.recipes.given_weights import start_from
from convneur.recipes.runs import Length, RunConfig, claim, is_first, run_folder
from convneur.tasks.segmentation import DecoderName, Segmenter, create_segmenter
from convneur.tasks.segmentation.inference import Inference
from convneur.tasks.segmentation.losses import SegmentationLoss, balanced_weights
from convneur.tasks.segmentation.saved import inference_of
from convneur.tasks.segmentation.task import Segmentation
from convneur_options.segmentation import SegmentationRecipe

# Arguments that are the width of each decoder
WIDTHS: dict[str, tuple[str, ...]] = {
    "semantic_fpn": ("pyramid_channels", "channels"),
    "upernet": ("decoder_channels",),
    "segformer": ("decoder_segmentation_channels",),
    "deeplabv3plus": ("decoder_channels",),
    "unet": (),
}


@dataclass(frozen=True)
class TrainSegmenterConfig(RunConfig):
    """One training run of a segmentation model: ``data`` as in `convneur.data.semantic.open_pixels`.

    ``model`` is a variant of ours, or any of timm that segmentation-models-pytorch takes. ``weights`` are as for
    detectors.

    Attributes:
        decoder: What stands on the backbone.
        recipe: How to train.
        strict: Whether a mask that cannot be used, or has pixels of no class, is an error.
    """

    decoder: DecoderName = "semantic_fpn"
    recipe: SegmentationRecipe = field(default_factory=SegmentationRecipe)
    strict: bool = False


@dataclass
class TrainedSegmenter:
    """What came out of a run.

    Attributes:
        model: In eval mode, on the CPU: the average of the weights if there is one.
        arguments: Of `create_segmenter`, that create it.
        curve: Metrics after each epoch.
        source: The images.
        inference: How the model is asked.
        unreadable: Files that could not be used, and why.
        unknown_labels: Training masks with pixels of no class, and how many.
        kept: The model and what lies beside it, and of which epochs they are.
    """

    model: Segmenter
    arguments: dict[str, Any]
    curve: Curve
    source: PixelSource
    inference: Inference
    unreadable: dict[str, str]
    unknown_labels: dict[str, int]
    kept: list[Kept]


def train_segmenter(
    config: TrainSegmenterConfig, out: StrPath, resume: bool, console: Console, overwrite: bool = False
) -> TrainedSegmenter | None:
    """Train, or go on where the newest whole checkpoint in ``out`` was written.

    Args:
        config: Of the run.
        out: Folder of the run: settings, checkpoints and logs go there.
        resume: Go on with the run in ``out``.
        console: For progress.
        overwrite: Remove a run that is there, and begin anew.

    Returns:
        The model and its curve; None in all processes but the first.

    Raises:
        Interrupted: On Ctrl-C or SIGTERM, after a last checkpoint.
        AlreadyDone: If the run is there, finished.
        FileExistsError: If ``out`` holds another run and ``overwrite`` is not set, or anything else.
        BlockingIOError: If another process is at work there.
        ValueError: For settings that do not fit the data, each other, or the run to be resumed.
    """
    out = Path(out)
    with run_folder(out, resume, overwrite):
        return _trained(config, out, resume, console, overwrite)


def _trained(
    config: TrainSegmenterConfig, out: Path, resume: bool, console: Console, overwrite: bool
) -> TrainedSegmenter | None:
    first, recipe = is_first(), config.recipe
    _check_numbers(config)
    inference = inference_of(dict(vars(recipe.inference)), "--inference")  # or nobody could load what is trained
    source = open_pixels(config.data, config.val_share, config.seed, config.strict, hold_out=config.hold_out)
    augment = recipe.augment
    transform = pixel_transform(
        augment.crop, augment.scales, augment.hflip, augment.color_jitter, augment.most, recipe.inference.size
    )
    data = PixelData(source, transform, recipe.batch_size, config.strict, **config.loading(recipe.fit))
    torch.manual_seed(config.seed)
    model, arguments = _segmenter(config, len(source.code.classes), console if first else None)
    length = Length.of(recipe, data)
    images = {
        "train": len(source.train),
        "classes": list(source.code.classes),
    }
    facts = {"images": images, "processes": length.world}
    identity = claim(config, facts, source, out, resume, console, overwrite)
    checkpoint = resume_from(out, console, first) if resume else None
    tell_found(source, config, recipe, length.world, out, console)
    weights = balanced_weights(_counts(source, config.max_pixels, console)) if recipe.loss.balance == "root" else None
    task = Segmentation(
        model,
        recipe.optim,
        len(source.code.classes),
        SegmentationLoss(weights, recipe.loss.hard, recipe.loss.dice),
        inference,
        ema=recipe.ema,
        seed=config.seed,
        images_per_step=length.images_per_step,
        steps=length.steps,
    )
    # Some steps may leave parameters without gradient, such as what makes the writes of a causal memory.
    fitted = fit_recipe(task, data, config, recipe, out, checkpoint, console, True, identity)
    if not first:
        return None
    kept = fitted.kept(out, bool(recipe.ema), lambda: create_segmenter(**arguments))
    unreadable = fitted.unreadable
    return TrainedSegmenter(
        kept[0].model, arguments, fitted.curve, source, inference, unreadable.found, unreadable.unknown_labels, kept
    )


def _check_numbers(config: TrainSegmenterConfig) -> None:
    recipe = config.recipe
    config.check(
        recipe,
        {
            "epochs": recipe.epochs,
            "batch-size": recipe.batch_size,
            "augment.crop": min(recipe.augment.crop),
        },
        {
            "decoder-channels": recipe.decoder_channels,
            "frozen-stages": recipe.frozen_stages,
            "loss.dice": recipe.loss.dice,
            "augment.color-jitter": recipe.augment.color_jitter,
        },
    )
    low, high = recipe.augment.scales
    if not 0 < low <= high:
        raise ValueError(f"--augment.scales {low} {high} is no range; give the smaller scale first, above 0")
    if config.decoder == "semantic_fpn" and recipe.decoder_channels % 32:
        raise ValueError(
            f"--decoder-channels {recipe.decoder_channels}: norms of Semantic FPN take channels in groups of 32; give "
            "a multiple of that"
        )
    if config.decoder == "unet" and recipe.decoder_channels:
        raise ValueError("--decoder-channels is not for U-Net, which has widths of its own; give 0")
    if recipe.batch_size == 1 and config.decoder in ("upernet", "deeplabv3plus"):
        raise ValueError(
            f"--batch-size 1 is too few for the norms of {config.decoder}, which see a pixel an image; give at least 2"
        )
    shares = {"augment.hflip": recipe.augment.hflip, "augment.most": recipe.augment.most}
    for flag, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"--{flag} {share} is out of range; give 0 to 1")
    if not 0 < recipe.loss.hard <= 1:
        raise ValueError(f"--loss.hard {recipe.loss.hard} is no share of the pixels; give more than 0, at most 1")
    if recipe.fit.strategy == "fsdp2":
        raise ValueError("--fit.strategy fsdp2 shards classifiers only; leave it out, or give ddp")


def _segmenter(config: TrainSegmenterConfig, classes: int, console: Console | None) -> tuple[Segmenter, dict[str, Any]]:
    """The model, from given weights if there are any, and the arguments that create it again."""
    recipe, ours = config.recipe, config.model in VARIANTS
    if not ours and not timm.is_model(config.model):
        raise ValueError(
            f"--model {config.model} is unknown; give one of {', '.join(VARIANTS)}, or a backbone of timm, such as "
            "resnet18"
        )
    widths = dict.fromkeys(WIDTHS[config.decoder], recipe.decoder_channels) if recipe.decoder_channels else {}
    arguments: dict[str, Any] = {
        "decoder": config.decoder,
        "backbone": config.model,
        "num_classes": classes,
        "frozen_stages": recipe.frozen_stages,
        "backbone_args": recipe.backbone.arguments() if ours else {},
        **widths,
    }

    def create(**backbone: Any) -> Segmenter:
        return create_segmenter(**arguments | ({"backbone_args": backbone} if backbone else {}))

    return start_from(create, lambda made: made.body, config, recipe.backbone.arguments(), console), arguments


def _counts(source: PixelSource, max_pixels: int, console: Console) -> list[int]:
    """Pixels of each class in the training masks; those that cannot be used are met, and told, in training."""
    counts = np.zeros(IGNORED + 1, np.int64)
    images = source.train
    with Progress(console=console, transient=True) as progress:
        for index in progress.track(range(len(images)), description="counting the pixels of each class"):
            try:
                picture = decode_image(images.read(index), max_pixels)
                labels, _ = source.code.decode(images.masks.read(index), (picture.height, picture.width))
            except (ValueError, OSError):
                continue
            counts += np.bincount(labels.ravel(), minlength=IGNORED + 1)
    found: list[int] = counts[: len(source.code.classes)].tolist()
    return found
