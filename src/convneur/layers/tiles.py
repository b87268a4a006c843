"""The pointwise half of a block, in tiles that stay in the cache of a processor.

The hidden map of a block is four times as large as the map. A fresh one comes in pages that the system has to clear
first: at 224 px a fifth of convneur_m1's time could go there (``docs/results/speed.md``). Pixels do not know of one
another here, so they may be taken a few thousand at a time, in the same few megabytes.
"""

from __future__ import annotations

import threading
from typing import Any, cast

import torch
from timm.layers import Mlp
from torch import Tensor, nn

TILE_BYTES = 3 * 2**20  # of the hidden map; each thread that runs a model on a CPU keeps as many
_kept = threading.local()


def norm_mlp(x: Tensor, norm: nn.Module, mlp: Mlp) -> Tensor:
    """``mlp(norm(x))`` of a channels-last map (B, H, W, C), with less traffic in inference on a CPU.

    There the hidden map exists a tile at a time, in memory that is kept. Training keeps it all for the backward pass,
    compilers and exporters must see one graph for all sizes, and hooks inside want whole maps.

    Args:
        x: Map, after the depthwise convolution.
        norm: Over the channels.
        mlp: ``fc1``, ``act`` and ``fc2``, with no dropout and no norm between them.
    """
    if not _plain(x, norm, mlp):
        return mlp(norm(x))
    pixels = x.flatten(0, -2)
    out = torch.empty_like(pixels)
    (weight1, bias1), (weight2, bias2) = ((linear.weight.T, cast(Tensor, linear.bias)) for linear in (mlp.fc1, mlp.fc2))
    width = len(bias1)
    count = max(1, TILE_BYTES // (width * x.element_size()))
    for tile, answer in zip(pixels.split(count), out.split(count), strict=True):
        hidden = _workspace(len(tile), width, x.dtype)
        torch.addmm(bias1, norm(tile), weight1, out=hidden)
        torch.ops.aten.gelu_(hidden, approximate=mlp.act.approximate)
        torch.addmm(bias2, hidden, weight2, out=answer)
    return out.view_as(x)


def _plain(x: Any, norm: nn.Module, mlp: Mlp) -> bool:
    """Whether this is inference of the modules as they are, on a tensor as it is, on a CPU."""
    return (
        type(x) is Tensor  # not a proxy of FX, nor a fake one
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled("cpu")
        and torch._C._functorch.peek_interpreter_stack() is None  # vmap and its like know no given memory
        and all(type(linear) is nn.Linear and linear.bias is not None for linear in (mlp.fc1, mlp.fc2))
        and type(mlp.act) is nn.GELU
        and not any(
            module._forward_hooks or module._forward_pre_hooks for module in (norm, mlp, mlp.fc1, mlp.act, mlp.fc2)
        )
    )


def _workspace(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """(rows, columns) of this thread's memory, in no particular state."""
    needed = rows * columns * dtype.itemsize
    memory: Tensor | None = getattr(_kept, "memory", None)
    if memory is None or len(memory) < needed:
        with torch.inference_mode(False):  # or it could not be written to outside of inference mode
            memory = _kept.memory = torch.empty(max(needed, TILE_BYTES), dtype=torch.uint8)
    return memory[:needed].view(dtype).view(rows, columns)
