"""The pointwise half of a block, in tiles that stay in the cache of a processor.

The hidden map of a block is four times as large as the map. Written and read as a whole it leaves the cache, and each
call pays for fresh pages of memory: at batch 8 and 224 px a fifth of the time of convneur_m3 went there
(``docs/results/speed.md``). Pixels do not know of one another here, so they may be taken a few thousand at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import Mlp
from torch import Tensor, nn

TILE_BYTES = 3 * 2**20  # of the hidden map; 1 to 4 MiB are alike
WHOLE_BYTES = 2 * TILE_BYTES  # below this tiles cost more than they save


def norm_mlp(x: Tensor, norm: nn.Module, mlp: Mlp) -> Tensor:
    """``mlp(norm(x))`` of a channels-last map (B, H, W, C), with less traffic in inference on a CPU.

    There the hidden map is activated in place, and a large one exists a tile at a time. Training keeps it for the
    backward pass, compilers and exporters must see one graph for all sizes, and hooks inside want whole maps.

    Args:
        x: Map, after the depthwise convolution.
        norm: Over the channels.
        mlp: ``fc1``, ``act`` and ``fc2``, with no dropout and no norm between them.
    """
    given: Any = x  # to the checker no tensor is a proxy
    if (
        isinstance(given, torch.fx.Proxy)
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or x.device.type != "cpu"
        or torch.is_grad_enabled()
        or any(module._forward_hooks or module._forward_pre_hooks for module in (norm, mlp, mlp.fc1, mlp.act, mlp.fc2))
    ):
        return mlp(norm(x))
    hidden_bytes = 4 * x.shape[-1] * x.element_size()  # per pixel
    if x.shape[:-1].numel() * hidden_bytes < WHOLE_BYTES:
        return _in_place(norm(x), mlp)
    tiles = x.flatten(0, -2).split(max(1, TILE_BYTES // hidden_bytes))
    return torch.cat([_in_place(norm(tile), mlp) for tile in tiles]).view_as(x)


def _in_place(x: Tensor, mlp: Mlp) -> Tensor:
    hidden = mlp.fc1(x)
    if type(mlp.act) is nn.GELU:
        return mlp.fc2(torch.ops.aten.gelu_(hidden, approximate=mlp.act.approximate))
    return mlp.fc2(mlp.act(hidden))
