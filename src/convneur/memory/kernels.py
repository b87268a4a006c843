"""What is around a memory on a CPU, in inference, by one call of C (``kernels.c``) each where PyTorch takes several.

For one image those are small, and each comes with its own code: after the local branch, whose maps have filled the
caches, fetching that code takes longer than the arithmetic (``docs/results/speed.md``). Where there is no library
(`convneur.memory.library`), PyTorch does it all.

Shape letters: B batch, N tokens, D memory width, C channels, H W pixels of the map, h w of the token grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from convneur.memory import library
from convneur.memory.library import serve
from convneur.memory.norm import EPS


def join_serves(x: Tensor, local: Tensor, gate: Tensor, shift: Tensor | None) -> bool:
    """Whether `join` takes these maps, each (B, C, H, W): what `serve` asks for, and channels last."""
    return (
        serve(x.permute(0, 2, 3, 1), local, gate, *(() if shift is None else (shift,)))
        and local.shape == x.shape
        and gate.shape[:2] == x.shape[:2]
        and (shift is None or shift.shape == gate.shape)
        and x.is_contiguous(memory_format=torch.channels_last)
        and local.is_contiguous(memory_format=torch.channels_last)
    )


def contexts(read: Tensor, tokens: Tensor, gain: Tensor, carry_gain: Tensor) -> tuple[Tensor, Tensor]:
    """``rms(read) gain``, and that with ``rms(tokens) carry_gain`` added; each (B, N, D)."""
    assert library.LIBRARY is not None
    read, tokens, gain, carry_gain = (x.contiguous() for x in (read, tokens, gain, carry_gain))
    context, carried = torch.empty_like(read), torch.empty_like(read)
    width = read.shape[-1]
    library.LIBRARY.convneur_contexts(
        read.data_ptr(),
        tokens.data_ptr(),
        gain.data_ptr(),
        carry_gain.data_ptr(),
        context.data_ptr(),
        carried.data_ptr(),
        torch.get_num_threads(),
        read.numel() // width,
        width,
        EPS,
    )
    return context, carried


def join(x: Tensor, local: Tensor, gate: Tensor, shift: Tensor | None) -> Tensor:
    """``x + up(shift) + local up(gate)`` in one pass over the map.

    Args:
        x: (B, C, H, W), channels last.
        local: Likewise.
        gate: (B, C, h, w), brought up bilinearly to H x W.
        shift: Likewise, or None.

    Returns:
        (B, C, H, W), channels last.
    """
    assert library.LIBRARY is not None
    (batch, channels, height, width), grid = x.shape, gate.shape[2:]
    gate = gate.contiguous(memory_format=torch.channels_last)
    shift = None if shift is None else shift.contiguous(memory_format=torch.channels_last)
    out, share, threads = torch.empty_like(x), 2 * grid[1] * channels, torch.get_num_threads()
    room = x.new_empty(threads * share)
    library.LIBRARY.convneur_join(
        x.data_ptr(),
        local.data_ptr(),
        gate.data_ptr(),
        None if shift is None else shift.data_ptr(),
        out.data_ptr(),
        room.data_ptr(),
        share,
        threads,
        batch,
        height,
        width,
        channels,
        *grid,
    )
    return out
