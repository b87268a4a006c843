"""Layers whose weight is laid out once, as oneDNN wants it, rather than at each call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Own = TypeVar("Own", bound="Packed")

# Processors with AVX2 or more: the others have no MKL to outrun.
ONEDNN_AVAILABLE = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability().startswith("AVX")
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
)


def require_eval(module: nn.Module) -> None:
    """Refuse to fuse a module that trains.

    Raises:
        ValueError: If it does.
    """
    if module.training:
        raise ValueError("a model is fused for inference only; call eval() first, or fuse a copy")


def refuse_training() -> None:
    """Refuse to train what was fused: what was worked out beforehand would not learn.

    Raises:
        ValueError: Always.
    """
    raise ValueError("a fused model cannot be trained; load its state dict into a new one and train that")


class Packed(nn.Module):
    """A layer with a ``weight`` that `fuse` lays out, for inference alone. The state dict stays as it is."""

    fused = False
    lays_out = True  # False where something else stands for the layer once it is fused
    packed: Tensor | None = None  # the weight as oneDNN lays it out
    weight: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_load_state_dict_post_hook(_fuse_again)

    def fuse(self: Own) -> Own:
        """Lay the weight out once, for inference alone, rather than at each call; timm calls this, too.

        Raises:
            ValueError: In training mode.
        """
        require_eval(self)
        weight = self.weight.detach()
        packable = (
            self.lays_out
            and ONEDNN_AVAILABLE
            and weight.dtype is torch.float32
            and weight.is_cpu
            and bool(torch.backends.mkldnn.enabled)
        )
        self.packed = self._laid_out(weight) if packable else None
        self.fused = True
        return self

    def _laid_out(self, weight: Tensor) -> Tensor:
        """The weight as oneDNN wants it for this kind of layer; each kind says how."""
        raise NotImplementedError

    def train(self: Own, mode: bool = True) -> Own:
        """Set training mode (torch).

        Raises:
            ValueError: If the layer is fused: what was laid out would not learn.
        """
        if mode and self.fused:
            refuse_training()
        return super().train(mode)

    def _apply(self: Own, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Own:
        super()._apply(fn, recurse)  # to another device or precision
        return self.fuse() if self.fused else self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"packed": None}  # it can be neither copied nor saved

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.fused:
            self.fuse()


def _fuse_again(layer: Packed, _keys: Any) -> None:
    """What was laid out follows the weights that were loaded."""
    if layer.fused:
        layer.fuse()
