"""The default memory on a CPU, in inference, by three calls of C (``kernels.c``) where PyTorch takes some forty.

For one image those forty are small, and each comes with its own code: after the local branch, whose maps have filled
the caches, fetching that code takes longer than the arithmetic (``docs/results/speed.md``). Large products stay with
PyTorch. Where there is no library (`convneur.memory.library`), it does it all.

Shape letters: B batch, H heads, N tokens, D memory width, d = D / H, R rates of a token.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from convneur.memory import library
from convneur.memory.config import MemoryConfig
from convneur.memory.fast_weights import KEY_EPS
from convneur.memory.folded import Folded, largest_step
from convneur.memory.library import LANES, serve
from convneur.memory.norm import EPS, unit
from convneur.memory.products import linear


class Behind(NamedTuple):
    """A memory that was written, and what is behind it.

    Attributes:
        unit: rms(tokens), (B, N, D), without a gain.
        behind: (B, D, D), each head's memory times its part of the map behind the memory.
    """

    unit: Tensor
    behind: Tensor


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


def write(config: MemoryConfig, folded: Folded, tokens: Tensor, center: bool) -> Behind:
    """Write tokens (B, N, D) into a linear memory with these knobs, their mean taken off before if ``center``."""
    assert library.LIBRARY is not None
    batch, count, width = tokens.shape
    heads, head = folded.initial.shape[:2]
    wide = -(-head // LANES) * LANES
    share = max(width, 2 * count * wide + head * wide)
    # PyTorch's number, which it may have to look up first in a new thread: C takes no more than there is room for.
    threads = torch.get_num_threads()
    room = tokens.new_empty(threads * share)
    normed = unit(tokens, center, room)
    # Each by a name, or it would be freed before its address is used.
    stored, bias = linear(normed, folded.stored).contiguous(), folded.bias.contiguous()
    initial, proj = folded.initial.contiguous(), folded.proj.contiguous()
    behind = tokens.new_empty(batch, width, width)
    library.LIBRARY.convneur_write(
        stored.data_ptr(),
        bias.data_ptr(),
        initial.data_ptr(),
        proj.data_ptr(),
        behind.data_ptr(),
        room.data_ptr(),
        share,
        threads,
        batch,
        count,
        width,
        heads,
        len(bias),
        config.decay,
        largest_step(config, count, head),
        KEY_EPS,
    )
    return Behind(normed, behind)


def read(folded: Folded, written: Behind) -> Tensor:
    """``proj(memory(tokens))`` of what `write` gives, (B, N, D)."""
    unit, behind = written
    return torch.bmm(unit, torch.bmm(folded.queries.expand(len(unit), -1, -1), behind))


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
