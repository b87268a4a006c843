"""A classifier to train: created for the classes of the data, from given weights if there are any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from convneur.files import why_unreadable
from convneur.models import VARIANTS, ConvNeur, create_model, from_convnext, load_model
from convneur.models.convert import names_of_memory, with_new_memory
from convneur.models.image_sizes import either, nearest, reason, why_not_size
from convneur.models.metadata import ModelMetadata
from convneur.printing import Console
from convneur.tasks.backbone_utils import classifier_parts
from convneur.tasks.given_weights import PRETRAINED, tell_new, what_to_give
from convneur_options.classification import ClassificationConfig, ClassificationRecipe

# ImageNet's, which every checkpoint of timm's ConvNeXts expects
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def create_classifier(
    config: ClassificationConfig, recipe: ClassificationRecipe, classes: int, console: Console | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Create the model, and the arguments that create it again.

    Args:
        config: ``model`` and ``weights``: a run or model folder; for our variants what `convneur.from_convnext` takes,
            too; for others of timm ``pretrained``.
        recipe: Backbone, and the size that the model says it is for.
        classes: How many.
        console: To say what is new, that is, not from the given weights.

    Raises:
        ValueError: If the weights do not fit, or cannot be loaded.
        FileNotFoundError: If there are none.
    """
    size = recipe.eval_size or recipe.image_size
    overlay: dict[str, Any] = {"input_size": (3, size, size), "crop_pct": recipe.crop_pct, "pool_size": None}
    ModelMetadata.checked({**overlay, "num_classes": classes}, None, "--image-size: ")  # or nobody could load it
    if config.model not in VARIANTS:
        return _of_timm(config, recipe, classes, overlay)
    overlay |= {"mean": MEAN, "std": STD}
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
    config: ClassificationConfig,
    folder: Path,
    arguments: dict[str, Any],
    overlay: dict[str, Any],
    console: Console | None,
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


def _of_timm(
    config: ClassificationConfig, recipe: ClassificationRecipe, classes: int, overlay: dict[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """Any other model of timm, and what creates it again beside its name and the number of classes."""
    try:
        described: Any = timm.get_pretrained_cfg(config.model)
    except RuntimeError as error:  # a tag that there is not
        raise ValueError(f"--model {config.model} has no such tag ({why_unreadable(error)}); leave it out") from error
    _, size, _ = overlay["input_size"]
    _refuse_sizes(config.model, described, size, recipe)
    arguments = _for_size(described, size)
    pretrained = config.weights == PRETRAINED
    made = {"num_classes": classes, "pretrained_cfg_overlay": overlay, **arguments}
    try:
        model: nn.Module = timm.create_model(config.model, pretrained=pretrained, **made)
    except (OSError, RuntimeError) as error:  # no network, or no weights of that name
        raise ValueError(
            f"--weights pretrained: timm could not load {config.model} ({why_unreadable(error)}); give the folder of a "
            "run, or leave --weights out"
        ) from error
    if config.weights is None or pretrained:
        return model, arguments
    folder = Path(config.weights).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"--weights {config.weights} is no folder; give that of a run or a model, or `{PRETRAINED}` for timm's"
        )
    wanted, given = model.state_dict(), load_model(folder).model.state_dict()
    fits = {name: value for name, value in given.items() if name in wanted and wanted[name].shape == value.shape}
    head = {id(value) for part in classifier_parts(model) for value in part.state_dict(keep_vars=True).values()}
    own = {name for name, value in model.state_dict(keep_vars=True).items() if id(value) not in head}
    if misfits := sorted(own - set(fits)):
        raise ValueError(
            f"--weights {config.weights} do not fit --model {config.model} ({len(misfits)} of its {len(own)} tensors, "
            f"the first is {misfits[0]}); give the model and options they were trained with"
        )
    model.load_state_dict(wanted | fits)
    return model, arguments


def _for_size(described: Any, size: int) -> dict[str, Any]:
    """Arguments that make a model of timm for images of ``size`` x ``size``, where it takes images of one size."""
    return {"img_size": size} if described.fixed_input_size and described.input_size[1:] != (size, size) else {}


def _refuse_sizes(model: str, described: Any, size: int, recipe: ClassificationRecipe) -> None:
    """Refuse images that a model of timm, made for ``size``, does not take, before weights are made or fetched.

    Raises:
        ValueError: If it does not take them, with sizes that it takes.
    """

    def why_not(made_for: int, side: int) -> Exception | None:
        try:
            with torch.random.fork_rng(devices=()), torch.device("meta"):
                made = timm.create_model(model, **_for_size(described, made_for)).eval()
                return why_not_size(made, (3, side, side))
        except Exception as error:  # whatever models raise that cannot be made for a size
            return error

    own = described.input_size[-1]
    error = why_not(size, size)
    if error is not None and why_not(own, own) is None:  # else it cannot be tried without weights
        others = [*(side for side in nearest(lambda side: why_not(side, side) is None, size) if side != own), own]
        flag = "--eval-size" if recipe.eval_size else "--image-size"
        raise ValueError(
            f"--model {model} takes no images of {size} px ({reason(error)}); give {flag} {either(others)}"
        )
    if error is None and (error := why_not(size, recipe.image_size)) is not None:
        raise ValueError(
            f"--model {model} made for --eval-size {size} takes no images of --image-size {recipe.image_size} "
            f"({reason(error)}); leave --eval-size out"
        )
