"""Weights of a finished model: all of them from one safetensors file, whose header is compared before anything is made.

A model's sizes come from config.json, which anybody may have changed. So it is made on the device ``meta`` first, where
tensors have shapes and take no memory.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from convneur.files import why_unreadable

M = TypeVar("M", bound=nn.Module)

MAX_HEADER = 16 << 20  # bytes
LEAST = 1 << 16  # numbers in a model's arguments may be this large whatever the file holds
PER_TENSOR = 32  # operations that making one tensor of a model takes at most
NAMED = 3  # tensors that a message names
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class TensorInfo(NamedTuple):
    """Shape and type of a tensor in a file; no type if it is one that no model has."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None


class Header(NamedTuple):
    """What a safetensors file says of itself, by name of the tensor."""

    path: Path
    tensors: Mapping[str, TensorInfo]

    @property
    def most(self) -> int:
        """The largest number that the arguments of a model with these weights may have."""
        return max(LEAST, sum(math.prod(each.shape) for each in self.tensors.values()))


def read_header(path: Path) -> Header:
    """Names, shapes and types of the tensors in a safetensors file, without reading them.

    Raises:
        ValueError: If it is damaged or no such file.
    """
    if not path.is_file():
        what = "is no file" if path.exists() else "is missing"
        raise ValueError(f"{path.name} {what}, and trained models are loaded from safetensors only")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER:
        raise ValueError(f"{path.name} is damaged or no safetensors file: its header would take {length} bytes")
    try:
        with safe_open(path, "pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  it has no iterator
            found = {
                name: TensorInfo(tuple(part.get_shape()), DTYPES.get(part.get_dtype())) for name, part in parts.items()
            }
    except SafetensorError as error:
        raise ValueError(f"{path.name} is damaged or no safetensors file: {why_unreadable(error)}") from error
    return Header(path, found)


def load_whole(create: Callable[[], M], header: Header) -> M:
    """Create a model and load its weights, every tensor from the file.

    Args:
        create: Makes the model with weights of any kind. It is called twice, first on the device ``meta``.
        header: Of the file; the numbers among the model's arguments are at most ``header.most``.

    Returns:
        The model, in eval mode.

    Raises:
        ValueError: If the file lacks a tensor, holds others, or one of another shape or type, or one that is not
            finite; or if the model cannot be made. One line that names the first of them.
    """
    described = _on_meta(create, header)
    _compare(described.state_dict(), header)
    model = create()
    weights = load_file(header.path)
    require_finite_weights(weights, header.path.name)
    model.load_state_dict(weights)
    require_finite_weights(model.state_dict(), header.path.name)  # as the model has them, with fewer bits perhaps
    return model.eval()


def require_finite_weights(weights: Mapping[str, Tensor], named: str) -> None:
    """Refuse weights that no answer can come from: of a training run that diverged, or damaged.

    Raises:
        ValueError: If one is not finite.
    """
    bad = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise ValueError(
            f"{named} has values that are no finite numbers, in {listed(bad)}: its training diverged; "
            "train with a lower --optim.lr"
        )


def misfit(wanted: Tensor, shape: Iterable[int], dtype: torch.dtype | None) -> str | None:
    """Why a tensor of a file cannot become one of a model; None if it can."""
    if tuple(shape) != tuple(wanted.shape):
        return f"of shape {tuple(shape)} where {tuple(wanted.shape)} is needed"
    if wanted.is_floating_point() and not (dtype and dtype.is_floating_point):
        return "of whole numbers where floating-point numbers are needed"
    if not wanted.is_floating_point() and dtype != wanted.dtype:
        return f"of another type than {str(wanted.dtype).removeprefix('torch.')}"
    return None


def listed(names: Iterable[str]) -> str:
    """The first of some names, and how many more there are."""
    each = sorted(names)
    more = f" and {len(each) - NAMED} more" if len(each) > NAMED else ""
    return ", ".join(each[:NAMED]) + more


def _on_meta(create: Callable[[], M], header: Header) -> M:
    try:
        with torch.device("meta"), _at_most(PER_TENSOR * (len(header.tensors) + PER_TENSOR)):
            model = create()
    except ImportError:
        raise
    except Exception as error:  # whatever a model raises for arguments that are none of its own
        raise ValueError(f"config.json: no model can be made with its arguments: {why_unreadable(error)}") from error
    # Buffers that are not in the file take memory, too; those of Swin's windows are as large as some models.
    buffers = sum(each.numel() for each in model.buffers())
    if buffers > 4 * header.most + (1 << 24):
        raise ValueError(f"its arguments make a model with {buffers} numbers beside its weights, which are fewer")
    return model


def _compare(wanted: Mapping[str, Tensor], header: Header) -> None:
    given = header.tensors
    missing, left_over = set(wanted) - set(given), set(given) - set(wanted)
    misfits = {
        name: why
        for name in set(wanted) & set(given)
        if (why := misfit(wanted[name], given[name].shape, given[name].dtype)) is not None
    }
    faults = []
    if missing:
        faults.append(f"it lacks {listed(missing)}")
    if left_over:
        faults.append(f"it has {listed(left_over)}, which the model has not")
    if misfits:
        first = min(misfits)
        more = f" and {len(misfits) - 1} more do not fit" if len(misfits) > 1 else ""
        faults.append(f"{first} is {misfits[first]}{more}")
    if faults:
        raise ValueError(f"{header.path.name} does not hold the model that config.json describes: {'; '.join(faults)}")


def _at_most(most: int) -> AbstractContextManager[object]:
    """Ends the making of a model that has more layers than the file has weights for."""
    # Documented by PyTorch, though its module is not public.
    from torch.utils._python_dispatch import TorchDispatchMode

    class AtMost(TorchDispatchMode):
        left = most

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.left -= 1
            if self.left < 0:
                raise ValueError("its arguments make a model of more layers than the file has weights for")
            return func(*args, **(kwargs or {}))

    return AtMost()


def weights_hash(module: nn.Module) -> str:
    """SHA-256 of names, types, shapes and values of a state dict."""
    whole = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        whole.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        whole.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()
