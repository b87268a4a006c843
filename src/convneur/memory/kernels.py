"""The default memory on a CPU, in inference, by three calls of C (``kernels.c``) where PyTorch takes some forty.

For one image those forty are small, and each comes with its own code: after the local branch, whose maps have filled
the caches, fetching that code takes longer than the arithmetic (``docs/results/speed.md``). Large products stay with
PyTorch. Threads are PyTorch's own: OpenMP is taken from the process it is loaded into.

The library is built when the package is installed, by a C compiler if there is one (``hatch_build.py``), on Linux for
x86-64. Without it, or without AVX2, PyTorch does it all; results are the same but for rounding.

Shape letters: B batch, H heads, N tokens, D memory width, d = D / H, R rates of a token.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from convneur.memory.config import MemoryConfig
from convneur.memory.fast_weights import KEY_EPS
from convneur.memory.folded import Folded, largest_step
from convneur.memory.norm import EPS
from convneur.memory.plain import may_go_by_hand
from convneur.memory.products import linear

FILE = Path(__file__).with_name("_kernels.so")
LANES = 8  # as in kernels.c


def _load() -> ctypes.CDLL | None:
    if not FILE.is_file() or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return None
    try:
        library = ctypes.CDLL(str(FILE), mode=os.RTLD_NOW)  # now, or OpenMP would be missed at the first call
    except OSError:  # of another machine, or beside a PyTorch without OpenMP
        return None
    array, count, flag, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
    for name, arguments in {
        "convneur_threads": [],
        "convneur_unit": [array] * 3 + [count] * 3 + [flag, number],
        "convneur_write": [array] * 6 + [count] * 6 + [flag, number, number],
        "convneur_contexts": [array] * 6 + [count] * 2 + [number],
        "convneur_join": [array] * 6 + [count] * 7,
    }.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, ctypes.c_int if name == "convneur_threads" else None
    return library


LIBRARY = _load()


class Behind(NamedTuple):
    """A memory that was written, and what is behind it.

    Attributes:
        unit: rms(tokens), (B, N, D), without a gain.
        behind: (B, D, D), each head's memory times its part of the map behind the memory.
    """

    unit: Tensor
    behind: Tensor


def serve(tokens: Tensor, *weights: Tensor) -> bool:
    """Whether these are what the kernels take: inference in float32 on a CPU, nobody tracing, and a width that fits."""
    return (
        LIBRARY is not None
        and not torch.is_grad_enabled()
        and may_go_by_hand(tokens, *weights)
        and tokens.is_cpu
        and tokens.dtype is torch.float32
        and tokens.shape[-1] % LANES == 0
        and tokens.numel() > 0
    )


def join_serves(x: Tensor, local: Tensor, gate: Tensor) -> bool:
    """Whether `join` takes these maps, each (B, C, H, W): what `serve` asks for, and channels last."""
    return (
        serve(x.permute(0, 2, 3, 1), local, gate)
        and x.is_contiguous(memory_format=torch.channels_last)
        and local.is_contiguous(memory_format=torch.channels_last)
    )


def write(config: MemoryConfig, folded: Folded, tokens: Tensor, center: bool) -> Behind:
    """Write tokens (B, N, D) into a linear memory with these knobs, their mean taken off before if ``center``."""
    assert LIBRARY is not None
    batch, count, width = tokens.shape
    heads, head = folded.initial.shape[:2]
    wide = -(-head // LANES) * LANES
    share = max(width, 2 * count * wide + head * wide)
    tokens = tokens.contiguous()
    unit, room = torch.empty_like(tokens), tokens.new_empty(LIBRARY.convneur_threads() * share)
    LIBRARY.convneur_unit(tokens.data_ptr(), unit.data_ptr(), room.data_ptr(), batch, count, width, center, EPS)
    # Each by a name, or it would be freed before its address is used.
    stored, bias = linear(unit, folded.stored).contiguous(), folded.bias.contiguous()
    initial, proj = folded.initial.contiguous(), folded.proj.contiguous()
    behind = tokens.new_empty(batch, width, width)
    LIBRARY.convneur_write(
        stored.data_ptr(),
        bias.data_ptr(),
        initial.data_ptr(),
        proj.data_ptr(),
        behind.data_ptr(),
        room.data_ptr(),
        share,
        batch,
        count,
        width,
        heads,
        len(bias),
        config.decay,
        largest_step(config, count, head),
        KEY_EPS,
    )
    return Behind(unit, behind)


def read(folded: Folded, written: Behind) -> Tensor:
    """``proj(memory(tokens))`` of what `write` gives, (B, N, D)."""
    unit, behind = written
    return torch.bmm(unit, torch.bmm(folded.queries.expand(len(unit), -1, -1), behind))


def contexts(read: Tensor, tokens: Tensor, gain: Tensor, carry_gain: Tensor) -> tuple[Tensor, Tensor]:
    """``rms(read) gain``, and that with ``rms(tokens) carry_gain`` added; each (B, N, D)."""
    assert LIBRARY is not None
    read, tokens, gain, carry_gain = (x.contiguous() for x in (read, tokens, gain, carry_gain))
    context, carried = torch.empty_like(read), torch.empty_like(read)
    width = read.shape[-1]
    LIBRARY.convneur_contexts(
        read.data_ptr(),
        tokens.data_ptr(),
        gain.data_ptr(),
        carry_gain.data_ptr(),
        context.data_ptr(),
        carried.data_ptr(),
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
    assert LIBRARY is not None
    (batch, channels, height, width), grid = x.shape, gate.shape[2:]
    gate = gate.contiguous(memory_format=torch.channels_last)
    shift = None if shift is None else shift.contiguous(memory_format=torch.channels_last)
    out, share = torch.empty_like(x), 2 * grid[1] * channels
    room = x.new_empty(LIBRARY.convneur_threads() * share)
    LIBRARY.convneur_join(
        x.data_ptr(),
        local.data_ptr(),
        gate.data_ptr(),
        None if shift is None else shift.data_ptr(),
        out.data_ptr(),
        room.data_ptr(),
        share,
        batch,
        height,
        width,
        channels,
        *grid,
    )
    return out
