"""Weights to start from, for what stands on a backbone: detectors and segmentation models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from convneur.files import why_unreadable
from convneur.models import VARIANTS, from_convnext, load_model
from convneur.models.convert import names_of_memory, with_new_memory
from convneur.printing import Console
from convneur.tasks.backbone_utils import body_of
from convneur.tasks.detection.saved import detector_folder, load_detector
from convneur.tasks.segmentation.saved import load_segmenter, segmenter_folder
from convneur_options.renamed import preset_of
from convneur_options.run import RunConfig

PRETRAINED = "pretrained"
M = TypeVar("M", bound=nn.Module)


def start_from(
    create: Callable[..., M],
    find: Callable[[M], nn.Module],
    config: RunConfig,
    backbone: Mapping[str, Any],
    console: Console | None = None,
) -> M:
    """Create a model with the weights that ``config`` names: those of its backbone at least, and whatever else fits.

    Args:
        create: Makes the model; takes arguments of a backbone in the place of its own.
        find: The backbone in the model.
        config: ``model`` and ``weights``: a run or folder of a classifier, detector or segmentation model of ours; for
            our variants, what `convneur.from_convnext` takes; for others of timm, ``pretrained``; None for none.
        backbone: Arguments of a ConvNeur.
        console: To say what is new, that is, not from the given weights.

    Raises:
        ValueError: If they do not fit the backbone, or cannot be loaded.
        FileNotFoundError: If there are none.
    """
    ours = config.model in VARIANTS
    if config.weights == PRETRAINED and not ours:
        load_model(config.model)  # whole; below, where timm leaves out the head, it would not miss anything else
        try:
            return create(pretrained=True)
        except (OSError, RuntimeError) as error:  # no network, or no weights of that name
            raise ValueError(
                f"--weights pretrained: timm could not load {config.model} ({why_unreadable(error)}); give the folder "
                "of a run, or leave --weights out"
            ) from error
    model = create()
    if config.weights is None:
        return model
    wanted, body = model.state_dict(), _prefix(model, find(model))
    # Batch norms that are frozen in one of the two have no count of batches, which nothing follows from.
    own = {name for name in wanted if name.startswith(body) and not name.endswith("num_batches_tracked")}
    given = _given(config, body, backbone)
    new: set[str] = set()
    if not names_of_memory(given) and names_of_memory(wanted) and own - names_of_memory(wanted) <= set(given):
        new, given = names_of_memory(wanted), with_new_memory(given, model)
    fits = {name: value for name, value in given.items() if name in wanted and wanted[name].shape == value.shape}
    misfits = sorted(own - set(fits))
    if misfits:
        raise ValueError(
            f"--weights {config.weights} do not fit the backbone of --model {config.model} ({len(misfits)} of its "
            f"{len(own)} tensors, the first is {misfits[0]}); {what_to_give(wanted, given)}"
        )
    model.load_state_dict(wanted | fits)
    tell_new(config.weights, ({name for name in wanted if not name.startswith(body)} - set(fits)) | new, console)
    return model


def what_to_give(wanted: Iterable[str], given: Iterable[str]) -> str:
    """What would make weights fit."""
    presets = [preset_of(names) for names in (wanted, given) if names_of_memory(names)]
    if len(set(presets)) == 2:
        return f"they have another memory: add --backbone.preset {presets[1]}"
    return "give the model and options they were trained with"


def tell_new(weights: str, names: Iterable[str], console: Console | None) -> None:
    """Say which parts of a model do not come from the weights it was to start from."""
    parts = Counter(
        "the memory" if ".global_branch." in name or ".merge." in name else ".".join(name.split(".")[:2])
        for name in names
    )
    if parts and console is not None:
        told = ", ".join(f"{part} ({count} tensors)" for part, count in sorted(parts.items()))
        console.print(f"--weights {weights}: all of it is used, and new are {told}")


def _prefix(model: nn.Module, part: nn.Module) -> str:
    """Of the names of a part's tensors."""
    return next(f"{name}." for name, module in model.named_modules() if module is part)


def _given(config: RunConfig, body: str, backbone: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Weights, named as in the model."""
    assert config.weights is not None
    whole: nn.Module | None = None
    theirs = ""
    if detector_folder(config.weights) is not None:
        whole = load_detector(config.weights).model
        theirs = _prefix(whole, body_of(whole))
    elif segmenter_folder(config.weights) is not None:
        segmenter = load_segmenter(config.weights).model
        whole, theirs = segmenter, _prefix(segmenter, segmenter.body)
    if whole is not None:
        return {
            body + name.removeprefix(theirs) if name.startswith(theirs) else name: value
            for name, value in whole.state_dict().items()
        }
    folder = Path(config.weights).expanduser()
    if folder.is_dir():
        given: nn.Module = load_model(folder).model
    elif config.model in VARIANTS:
        given = from_convnext(config.weights, **backbone)
    else:
        raise FileNotFoundError(
            f"--weights {config.weights} is no folder; give that of a run or a model, or `{PRETRAINED}` for timm's"
        )
    inside = "model." if config.model in VARIANTS else ""  # timm wraps ours; others it takes apart
    return {f"{body}{inside}{name}": value for name, value in given.state_dict().items()}
