"""Train a detector on people's images and boxes: data, model, task and engine meet here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from convneur.data.objects import ObjectSource, open_objects
from convneur.data.objects.loading import Jitter, ObjectData, train_transform
from convneur.engine.fit import Curve, resume_from
from convneur.files import StrPath
from convneur.models import VARIANTS
from convneur.printing import Console
from convneur.recipes.fitting import Kept, fit_recipe
from convneur.recipes.found import tell_found
from convneur.recipes.given_weights import PRETRAINED, body_of, start_from
from convneur.recipes.runs import Length, RunConfig, claim, is_first, run_folder
from convneur.tasks.detection import DetectorKind, create_detector
from convneur.tasks.detection.models import WITH_MASKS, check_arguments
from convneur.tasks.detection.task import Detection
from convneur_options.detection import DetectionRecipe


@dataclass(frozen=True)
class TrainDetectorConfig(RunConfig):
    """One training run of a detector: ``data`` as in `convneur.data.objects.open_objects`.

    ``model`` is a variant of ours, or any of timm that has maps of strides 4 to 32. ``weights`` are a run or folder of
    a detector or classifier of ours; for our variants, what `convneur.from_convnext` takes, too; for others of timm,
    ``pretrained``.

    Attributes:
        detector: Kind.
        recipe: How to train.
    """

    detector: DetectorKind = "faster_rcnn"
    recipe: DetectionRecipe = field(default_factory=DetectionRecipe)


@dataclass
class TrainedDetector:
    """What came out of a run.

    Attributes:
        model: In eval mode, on the CPU: the average of the weights if there is one.
        arguments: Of `create_detector`, that create it.
        curve: Metrics after each epoch.
        source: The images.
        unreadable: Files that could not be read, and why.
        kept: The model and what lies beside it, and of which epochs they are.
    """

    model: nn.Module
    arguments: dict[str, Any]
    curve: Curve
    source: ObjectSource
    unreadable: dict[str, str]
    kept: list[Kept]


def train_detector(
    config: TrainDetectorConfig, out: StrPath, resume: bool, console: Console, overwrite: bool = False
) -> TrainedDetector | None:
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
    config: TrainDetectorConfig, out: Path, resume: bool, console: Console, overwrite: bool
) -> TrainedDetector | None:
    first, recipe = is_first(), config.recipe
    with_masks = config.detector in WITH_MASKS
    _check_numbers(config)
    source = open_objects(
        config.data,
        with_masks=with_masks,
        val_share=config.val_share,
        seed=config.seed,
        hold_out=config.hold_out,
    )
    augment = recipe.augment
    jitter = Jitter(augment.jitter, recipe.min_size, recipe.max_size) if augment.jitter else None
    data = ObjectData(
        source,
        train_transform(augment.hflip, augment.vflip, augment.color_jitter, jitter),
        recipe.batch_size,
        with_masks,
        **config.loading(recipe.fit),
    )
    torch.manual_seed(config.seed)
    model, arguments = _detector(config, len(source.classes), console if first else None)
    length = Length.of(recipe, data)
    images = {
        "train": len(source.train),
        "val": len(source.val),
        "classes": source.classes,
        "category_ids": source.category_ids,
    }
    facts = {"images": images, "processes": length.world}
    identity = claim(config, facts, source, out, resume, console, overwrite)
    checkpoint = resume_from(out, console, first) if resume else None
    tell_found(source, config, recipe, length.world, out, console)
    task = Detection(
        model,
        recipe.optim,
        source.val,
        source.classes,
        source.category_ids,
        with_masks,
        ema=recipe.ema,
        seed=config.seed,
        images_per_step=length.images_per_step,
        steps=length.steps,
    )
    # Some steps may leave parameters without gradient, such as what makes the writes of a causal memory.
    fitted = fit_recipe(task, data, config, recipe, out, checkpoint, console, True, identity)
    if not first:
        return None
    kept = fitted.kept(out, bool(recipe.ema), lambda: create_detector(**arguments))
    return TrainedDetector(kept[0].model, arguments, fitted.curve, source, fitted.unreadable.found, kept)


def _check_numbers(config: TrainDetectorConfig) -> None:
    recipe = config.recipe
    heads = {name.replace("_", "-"): value for name, value in vars(recipe.heads).items()}
    config.check(
        recipe,
        {
            "epochs": recipe.epochs,
            "batch-size": recipe.batch_size,
            "min-size": recipe.min_size,
            "max-size": recipe.max_size,
            **{f"heads.{name}": value for name, value in heads.items() if name != "frozen-stages"},
        },
        {},
    )
    if recipe.max_size < recipe.min_size:
        raise ValueError(
            f"--max-size {recipe.max_size} is below --min-size {recipe.min_size}; make it at least as much"
        )
    jitter = recipe.augment.jitter
    if jitter is not None and not 0 < jitter[0] <= jitter[1]:
        raise ValueError(f"--augment.jitter {jitter[0]} {jitter[1]} is no range; give the smaller scale first, above 0")
    if recipe.fit.strategy == "fsdp2":
        raise ValueError("--fit.strategy fsdp2 shards classifiers only; leave it out, or give ddp")


def _detector(config: TrainDetectorConfig, classes: int, console: Console | None) -> tuple[nn.Module, dict[str, Any]]:
    """The detector, from given weights if there are any, and the arguments that create it again."""
    recipe, ours = config.recipe, config.model in VARIANTS
    if not ours and not timm.is_model(config.model):
        raise ValueError(
            f"--model {config.model} is unknown; give one of {', '.join(VARIANTS)}, or a backbone of timm, such as "
            "resnet18"
        )
    arguments: dict[str, Any] = {
        "kind": config.detector,
        "backbone": config.model,
        "num_classes": classes,
        "min_size": recipe.min_size,
        "max_size": recipe.max_size,
        "backbone_args": recipe.backbone.arguments() if ours else {},
        **recipe.heads.arguments(config.detector),
    }
    if config.weights == PRETRAINED:  # they expect images as they were trained on
        described = timm.get_pretrained_cfg(config.model)
        arguments |= {"image_mean": list(described.mean), "image_std": list(described.std)} if described else {}

    check_arguments(arguments, "settings")  # or nobody could load what is trained

    def create(**backbone: Any) -> nn.Module:
        return create_detector(**arguments | ({"backbone_args": backbone} if backbone else {}))

    return start_from(create, body_of, config, recipe.backbone.arguments(), console), arguments
