"""A classifier to train: created for the classes of the data, from given weights if there are any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from torch import nn

from convneur.files import why_unreadable
from convneur.models import VARIANTS, ConvNeur, create_model, from_convnext, load_model
from convneur.models.convert import names_of_memory, with_new_memory
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
        return _of_timm(config, classes, overlay)
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


def _of_timm(config: ClassificationConfig, classes: int, overlay: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """Any other model of timm, and what creates it again beside its name and the number of classes."""
    try:
        described: Any = timm.get_pretrained_cfg(config.model)
    except RuntimeError as error:  # a tag that there is not
        raise ValueError(f"--model {config.model} has no such tag ({why_unreadable(error)}); leave it out") from error
    size = overlay["input_size"][-1]
    arguments = {"img_size": size} if described.fixed_input_size and described.input_size[-1] != size else {}
    pretrained = config.weights == PRETRAINED
    made = {"num_classes": classes, "pretrained_cfg_overlay": overlay, **arguments}
    try:
        model: nn.Module = timm.create_model(config.model, pretrained=pretrained, **made)
    except TypeError as error:  # it takes no other size
        raise ValueError(
            f"--model {config.model} takes images of {described.input_size[-1]} px only; give --image-size "
            f"{described.input_size[-1]}"
        ) from error
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
