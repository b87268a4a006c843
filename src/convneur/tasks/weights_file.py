"""A file of weights by itself: those of an epoch or a checkpoint of a run, in the model that the run has made."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from convneur.files import regular_file, why_unreadable
from convneur.models.hub import CONFIG, WEIGHTS
from convneur.training.checkpoints import DamagedError, load_checkpoint
from convneur.training.kept import weights_prefix

SUFFIXES = (".safetensors", ".ckpt")


def model_of_weights(source: str) -> Path | None:
    """The folder of the model that a file of weights is for; None if ``source`` is no such file.

    Raises:
        FileNotFoundError: If there is no model in its folder, nor in the run that it is in.
    """
    file = Path(os.path.realpath(Path(source).expanduser()))
    if file.suffix not in SUFFIXES or not file.is_file():
        return None
    for folder in (file.parent, file.parent / "model", file.parent.parent / "model"):
        if (folder / CONFIG).is_file():
            return folder
    raise FileNotFoundError(
        f"{source} are weights, and no {CONFIG} says of which model; leave them in the folder of a finished run"
    )


def with_weights(predictor: Any, source: str) -> Any:
    """The same with the weights of a file; of a checkpoint the average, if there is one.

    Raises:
        ValueError: If they cannot be read, do not fit, or are no finite numbers.
    """
    file = Path(os.path.realpath(Path(source).expanduser()))
    if file.name == WEIGHTS and (file.parent / CONFIG).is_file():
        return predictor  # which was loaded from it
    try:
        weights = _checkpoint(file) if file.suffix == ".ckpt" else load_file(regular_file(file))
    except (OSError, SafetensorError, DamagedError, KeyError, ValueError) as error:
        raise ValueError(f"{source} cannot be read ({why_unreadable(error)}); give another file") from error
    wanted = predictor.model.state_dict()
    misfits = [name for name in wanted if name not in weights or weights[name].shape != wanted[name].shape]
    misfits += [name for name in weights if name not in wanted]
    if misfits:
        raise ValueError(
            f"{source} does not fit the model beside it ({len(misfits)} tensors, the first is {misfits[0]}); give "
            "weights of the same run"
        )
    if not all(bool(value.isfinite().all()) for value in weights.values()):
        raise ValueError(f"{source} has numbers that are not finite; give weights of an earlier epoch")
    predictor.model.load_state_dict(weights)
    return dataclasses.replace(predictor, source=source)


def _checkpoint(file: Path) -> dict[str, Tensor]:
    whole = load_checkpoint(file)["state_dict"]
    average = weights_prefix(True)
    prefix = average if any(name.startswith(average) for name in whole) else weights_prefix(False)
    return {name.removeprefix(prefix): value for name, value in whole.items() if name.startswith(prefix)}
