"""What a model says of itself, in a folder or an exported file: read strictly, for anybody may have written it.

Every message begins with the place of the value, such as ``pretrained_cfg.mean[0]``; `within` adds the file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import timm
from timm.models import PretrainedCfg, build_model_with_cfg

from convneur.json_files import shown
from convneur.memory import MemoryConfig
from convneur.models.backbone import ConvNeur
from convneur.models.variants import VARIANTS
from convneur.models.weights import Header
from convneur_options.renamed import preset_of, with_new_names

MAX_SIDE = 4096  # pixels of an image that a model may ask for by itself; people may ask for more
MAX_CLASSES = 1_000_000
MAX_CHANNELS = 1024
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
# Arguments of timm's factory, which load other weights, take a model apart or change how all models are made.
FACTORY = (
    set(inspect.signature(timm.create_model).parameters)
    | set(inspect.signature(build_model_with_cfg).parameters)
    | {"features_only", "out_indices", "feature_cls", "pruned", "pretrained_model_args", "device", "dtype"}
)


@contextmanager
def within(file: str) -> Iterator[None]:
    """Put the name of a file before what a ValueError says."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


@dataclass(frozen=True)
class ModelMetadata:
    """Of a model; `checked` refuses what nobody could work with.

    Attributes:
        config: timm's ``pretrained_cfg``: number of classes, and what images must look like.
        labels: Names of the classes, if known.
    """

    config: dict[str, Any]
    labels: list[str] | None = None

    @staticmethod
    def checked(config: Mapping[str, Any], labels: Any, place: str = "") -> ModelMetadata:
        """Metadata as JSON has it, checked.

        Args:
            config: What of timm's ``pretrained_cfg`` is kept.
            labels: Names of the classes, or None.
            place: Of the config, for messages; ends with a dot.

        Raises:
            ValueError: For the first value of the wrong type, length or size.
        """
        for name, check in CHECKS.items():
            if name in config:
                check(config[name], place + name)
        channels, *sides = config.get("input_size", (3, 224, 224))
        if "mean" in config and "std" in config and len(config["mean"]) != len(config["std"]):
            raise ValueError(f"{place}std has another length than {place}mean")
        if "mean" in config and len(config["mean"]) not in (channels, 3):
            raise ValueError(f"{place}mean has {len(config['mean'])} numbers for images of {channels} channels")
        if max(sides) / config.get("crop_pct", 1) > 2 * MAX_SIDE:
            raise ValueError(f"{place}crop_pct is {config['crop_pct']}, for which images would be made too large")
        count = config.get("num_classes")
        return ModelMetadata(dict(config), None if labels is None else check_labels(labels, count))


def check_labels(labels: Any, count: int | None, kind: str = "classifier") -> list[str]:
    """Names of classes, one for each.

    Raises:
        ValueError: If they are none, or not so many.
    """
    if not isinstance(labels, list):
        raise ValueError(f"label_names is {shown(labels)}; give a list of names")
    for number, label in enumerate(labels):
        if not isinstance(label, str):
            raise ValueError(f"label_names[{number}] is {shown(label)}; give a name as text")
    if count is not None and len(labels) != count:
        raise ValueError(f"label_names names {len(labels)} classes for a {kind} of {count}")
    return list(labels)


def check_arguments(architecture: Any, given: Any, place: str, weights: Header) -> dict[str, Any]:
    """Arguments of a model of timm, as a file has them: settings of the model itself, and nothing that loads anything.

    Args:
        architecture: Name of the model.
        given: The arguments.
        place: For messages.
        weights: Of the model. No argument may be larger than ``weights.most``, and they tell the memory of a model of
            an earlier version, which does not name it.

    Returns:
        The arguments, by their names of today.

    Raises:
        ValueError: If the architecture is unknown, or for the first argument that is unknown or out of range.
    """
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise ValueError(f"{shown(architecture)} is no model of timm")
    arguments = as_object(given, place)
    if architecture in VARIANTS:
        arguments = with_new_names(arguments)
        for name in (name for name, value in arguments.items() if value is None):
            raise ValueError(f"{place}.{name} is null; leave it out")
        check_types(arguments, ConvNeur, place)
        check_types(as_object(arguments.get("memory", {}), f"{place}.memory"), MemoryConfig, f"{place}.memory")
        arguments.setdefault("preset", preset_of(weights.tensors))
    for name in arguments:
        if name in FACTORY:
            raise ValueError(f"{place}.{name} is none of its settings")
    check_sizes(arguments, place, weights.most)
    return arguments


def as_object(value: Any, place: str) -> dict[str, Any]:
    """``value`` if it is a dict; a ValueError otherwise."""
    if not isinstance(value, dict):
        raise ValueError(f"{place} is {shown(value)}; give names and values in {{}}")
    return value


def check_types(given: Mapping[str, Any], what: Callable[..., Any], place: str) -> None:
    """Refuse arguments that a function of ours does not have, or of another type than it names.

    Raises:
        ValueError: For the first of them.
    """
    known = inspect.signature(what).parameters
    for name, value in given.items():
        if name not in known or known[name].kind is inspect.Parameter.VAR_KEYWORD:
            raise ValueError(f"{place}.{name} is none of its settings")
        _check_type(value, str(known[name].annotation), f"{place}.{name}")


def check_sizes(value: Any, place: str, most: int) -> None:
    """Refuse whole numbers larger than ``most``, at any depth."""
    if isinstance(value, int) and abs(value) > most:
        raise ValueError(f"{place} is {value}; the weights are of a model with numbers up to {most}")
    inside: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in inside:
        check_sizes(each, f"{place}.{name}" if isinstance(value, dict) else f"{place}[{name}]", most)


def whole(value: Any, place: str, low: int, high: int) -> None:
    """Refuse what is no whole number from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{place} is {shown(value)}; give a whole number from {low} to {high}")


def number(value: Any, place: str, low: float, high: float) -> None:
    """Refuse what is no number from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{place} is {shown(value)}; give a number from {low:g} to {high:g}")


def several(value: Any, place: str, lengths: Collection[int], check: Callable[[Any, str], None]) -> None:
    """Refuse what is no list (or tuple) of one of some lengths, or has an element that ``check`` refuses."""
    if not isinstance(value, (list, tuple)) or len(value) not in lengths:
        wanted = f"{min(lengths)}" if len(lengths) == 1 else f"{min(lengths)} to {max(lengths)}"
        raise ValueError(f"{place} is {shown(value)}; give a list of {wanted}")
    for index, each in enumerate(value):
        check(each, f"{place}[{index}]")


def one_of(value: Any, place: str, names: Collection[str]) -> None:
    """Refuse what is none of some names."""
    if not isinstance(value, str) or value not in names:
        raise ValueError(f"{place} is {shown(value)}; use one of {', '.join(names)}")


def flag(value: Any, place: str) -> None:
    """Refuse what is neither true nor false."""
    if not isinstance(value, bool):
        raise ValueError(f"{place} is {shown(value)}; give true or false")


def pixels(value: Any, place: str) -> None:
    """Refuse what is no mean of pixels, or no other number around 0 to 1."""
    number(value, place, -10, 10)


def deviation(value: Any, place: str) -> None:
    """Refuse what is no standard deviation of pixels, which is divided by."""
    number(value, place, 1e-6, 1e3)


def _image(value: Any, place: str) -> None:
    several(value, place, (3,), lambda each, at: whole(each, at, 1, MAX_SIDE))
    whole(value[0], f"{place}[0]", 1, MAX_CHANNELS)


def _check_type(value: Any, wanted: str, place: str) -> None:
    """Compare a value of JSON with an annotation, as text."""
    if value is None:
        if "None" not in wanted:
            raise ValueError(f"{place} is null; leave it out")
    elif (isinstance(value, bool) and "bool" in wanted) or (isinstance(value, str) and "str" in wanted):
        return
    elif "Sequence" in wanted or "tuple" in wanted or "Iterable" in wanted:
        several(value, place, range(1, 33), lambda each, at: whole(each, at, 1, 1 << 62))
    elif "Mapping" in wanted or "dict" in wanted:
        as_object(value, place)
    elif "bool" in wanted:
        flag(value, place)
    elif "int" in wanted or "Literal[" in wanted:
        whole(value, place, 0, 1 << 62)
    elif "float" in wanted:
        number(value, place, -1e6, 1e6)
    elif not isinstance(value, str):
        raise ValueError(f"{place} is {shown(value)}; give a name")


def _optional(check: Callable[[Any, str], None]) -> Callable[[Any, str], None]:
    return lambda value, place: None if value is None else check(value, place)


CHECKS: dict[str, Callable[[Any, str], None]] = {
    "num_classes": lambda value, place: whole(value, place, 0, MAX_CLASSES),
    "input_size": _image,
    "test_input_size": _optional(_image),
    "min_input_size": _optional(_image),
    "fixed_input_size": flag,
    "interpolation": lambda value, place: one_of(value, place, INTERPOLATIONS),
    "crop_pct": lambda value, place: number(value, place, 0.1, 2),
    "crop_mode": lambda value, place: one_of(value, place, ("center", "squash", "border")),
    "mean": lambda value, place: several(value, place, range(1, MAX_CHANNELS + 1), pixels),
    "std": lambda value, place: several(value, place, range(1, MAX_CHANNELS + 1), deviation),
}
PRETRAINED_FIELDS = {field.name for field in fields(PretrainedCfg)}
