"""Train a classifier on people's images: data, model, task and engine meet here."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from convneur.data.module import ImageData
from convneur.data.shards import Shards
from convneur.data.sources import Source, open_source
from convneur.data.subsets import fewer, hold_out
from convneur.data.transforms import Preprocessing
from convneur.engine.fit import Curve, resume_from
from convneur.files import StrPath, write_atomic
from convneur.models import VARIANTS, ConvNeur, create_model, from_convnext, load_model
from convneur.models.convert import names_of_memory, with_new_memory
from convneur.models.metadata import ModelMetadata
from convneur.models.registry_utils import choose
from convneur.printing import Console
from convneur.recipes.fitting import Kept, fit_recipe
from convneur.recipes.found import tell_found
from convneur.recipes.given_weights import tell_new, what_to_give
from convneur.recipes.runs import Length, RunConfig, claim, is_first, run_folder
from convneur.tasks.classification import Classification
from convneur_options.classification import ClassificationRecipe

# ImageNet's, which every checkpoint of timm's ConvNeXts expects
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """One training run of a classifier: ``data`` as in `convneur.data.sources`, ``model`` a variant of ours.

    ``weights`` are a run or model folder of ours, or what `convneur.from_convnext` takes.

    Attributes:
        recipe: How to train.
        train_images: To train on at most, in proportion to the classes; 0 for all.
        allow_remote: Read addresses and run commands that a description of data names, see
            `convneur.data.sources.open_source`.
    """

    recipe: ClassificationRecipe = field(default_factory=ClassificationRecipe)
    train_images: int = 0
    allow_remote: bool = False


@dataclass
class Trained:
    """What came out of a run.

    Attributes:
        model: In eval mode, on the CPU: the average of the weights if there is one.
        model_args: What it was created with.
        curve: Metrics after each epoch.
        source: The images.
        preprocessing: Of evaluation.
        unreadable: Files that could not be read, and why.
        kept: The model and what lies beside it, and of which epochs they are.
    """

    model: ConvNeur
    model_args: dict[str, Any]
    curve: Curve
    source: Source
    preprocessing: Preprocessing
    unreadable: dict[str, str]
    kept: list[Kept]


def train_classifier(
    config: TrainConfig, out: StrPath, resume: bool, console: Console, overwrite: bool = False
) -> Trained | None:
    """Train, or go on where the newest whole checkpoint in ``out`` was written.

    Args:
        config: Of the run.
        out: Folder of the run: settings, split, checkpoints and logs go there.
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


def _trained(config: TrainConfig, out: Path, resume: bool, console: Console, overwrite: bool) -> Trained | None:
    first, recipe = is_first(), config.recipe
    _check_numbers(config)
    source = open_source(config.data, config.val_share, config.seed, config.allow_remote)
    if config.hold_out:
        source = hold_out(source, config.val_share, config.seed)
    whole = source
    if config.train_images:
        source = fewer(source, config.train_images, config.seed)
    torch.manual_seed(config.seed)
    model, model_args = _model(config, len(source.classes), console if first else None)
    channels_last = recipe.channels_last and recipe.fit.strategy != "fsdp2"  # which shards plain tensors only
    if channels_last:
        model.to(memory_format=torch.channels_last)
    train_input = Preprocessing.of(model.pretrained_cfg, recipe.image_size)
    eval_input = Preprocessing.of(model.pretrained_cfg, recipe.eval_size or recipe.image_size)
    data = ImageData(
        source,
        train_input,
        recipe.augment,
        recipe.batch_size,
        eval_preprocessing=eval_input,
        **config.loading(recipe.fit),
    )
    length = Length.of(recipe, data)
    identity = _claim(config, data, whole, length.world, out, resume, console, overwrite)
    checkpoint = resume_from(out, console, first) if resume else None
    tell_found(source, config, recipe, length.world, out, console)
    task = Classification(
        model,
        recipe.optim,
        label_smoothing=recipe.augment.label_smoothing,
        mixup=recipe.augment.mixup,
        cutmix=recipe.augment.cutmix,
        channels_last=channels_last,
        ema=recipe.ema,
        seed=config.seed,
        images_per_step=length.images_per_step,
        steps=length.steps,
    )
    if recipe.compile:
        model.compile()
    # A causal read of a single chunk writes nothing, so what makes the writes gets no gradient.
    causal = model.global_config.memory.read == "causal"
    fitted = fit_recipe(task, data, config, recipe, out, checkpoint, console, causal, identity)
    if not first:
        return None
    kept = fitted.kept(out, bool(recipe.ema), lambda: _model(replace(config, weights=None), len(source.classes))[0])
    return Trained(kept[0].model, model_args, fitted.curve, source, eval_input, fitted.unreadable.found, kept)


def _check_numbers(config: TrainConfig) -> None:
    """Refuse what no run can be made of."""
    recipe = config.recipe
    config.check(
        recipe,
        {"epochs": recipe.epochs, "batch-size": recipe.batch_size, "image-size": recipe.image_size},
        {"train-images": config.train_images},
    )
    if recipe.batch_size % 2 and (recipe.augment.mixup or recipe.augment.cutmix):
        raise ValueError(f"--batch-size {recipe.batch_size} is odd, and Mixup takes images in pairs; make it even")
    on_gpu = recipe.fit.accelerator in ("auto", "gpu") and torch.cuda.is_available()
    if recipe.compile and not on_gpu and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise ValueError("--compile needs a C++ compiler on a CPU; install g++, name another in CXX, or leave it out")
    if recipe.fit.strategy == "fsdp2" and recipe.fit.precision == "fp16":
        raise ValueError("--fit.strategy fsdp2 does not scale losses; give --fit.precision bf16")


def _claim(
    config: TrainConfig,
    data: ImageData,
    whole: Source,
    world: int,
    out: Path,
    resume: bool,
    console: Console,
    overwrite: bool,
) -> str:
    """Keep the settings and the split in ``out``; to resume, they must be those it was begun with."""
    source = data.source
    facts: dict[str, Any] = {"train": len(source.train), "val": len(source.val), "classes": source.classes}
    if isinstance(source.val, Shards):
        facts["workers"] = data.train_workers(world)  # they decide the order of what is read in a row
    identity = claim(config, {"images": facts, "processes": world}, whole, out, resume, console, overwrite)
    if source.split is not None and is_first():
        write_atomic(out / "split.json", json.dumps(asdict(source.split)) + "\n")
    return identity


def _model(config: TrainConfig, classes: int, console: Console | None = None) -> tuple[ConvNeur, dict[str, Any]]:
    """Create the model, from given weights if there are any, and the arguments that create it again."""
    recipe = config.recipe
    choose(config.model, VARIANTS, "--model")
    size = recipe.eval_size or recipe.image_size
    overlay = {"input_size": (3, size, size), "crop_pct": recipe.crop_pct, "mean": MEAN, "std": STD, "pool_size": None}
    ModelMetadata.checked({**overlay, "num_classes": classes}, None, "--image-size: ")  # or nobody could load it
    arguments = recipe.backbone.arguments() | {"num_classes": classes}
    if config.weights is None:
        return create_model(config.model, **arguments, pretrained_cfg_overlay=overlay), arguments
    folder = Path(config.weights).expanduser()
    if folder.is_dir():
        return _from_ours(config, folder, arguments, overlay, console), arguments
    options = {name: value for name, value in arguments.items() if name != "num_classes"}
    model = from_convnext(config.weights, num_classes=classes, **options, pretrained_cfg_overlay=overlay)
    if model.default_cfg["architecture"] != config.model:
        raise ValueError(
            f"--weights {config.weights} are of {model.default_cfg['architecture']}; add --model with that name"
        )
    new = {name for name in model.state_dict() if ".merge." in name or name.startswith("head.fc.")}
    tell_new(config.weights, new | model.no_weight_decay(), console)
    return model, arguments


def _from_ours(
    config: TrainConfig, folder: Path, arguments: dict[str, Any], overlay: dict[str, Any], console: Console | None
) -> ConvNeur:
    model = create_model(config.model, **arguments, pretrained_cfg_overlay=overlay)
    wanted, weights = model.state_dict(), load_model(folder).model.state_dict()
    new = names_of_memory(wanted) - names_of_memory(weights)
    if not names_of_memory(weights) and set(weights) <= set(wanted):
        weights = with_new_memory(weights, model)
    usable = {name: value for name, value in weights.items() if not name.startswith("head.fc.")}
    misfits = [
        name
        for name in sorted({n for n in wanted if not n.startswith("head.fc.")} | set(usable))
        if name not in wanted or name not in usable or wanted[name].shape != usable[name].shape
    ]
    if misfits:
        raise ValueError(
            f"--weights {config.weights} are of another variant or memory than --model {config.model} ({len(misfits)} "
            f"do not fit, the first is {misfits[0]}); {what_to_give(wanted, weights)}"
        )
    if all(
        f"head.fc.{n}" in weights and weights[f"head.fc.{n}"].shape == wanted[f"head.fc.{n}"].shape
        for n in ("weight", "bias")
    ):
        usable = weights  # the same number of classes: the classifier is of use too
    model.load_state_dict(wanted | usable)
    tell_new(str(config.weights), (set(wanted) - set(usable)) | new, console)
    return model
