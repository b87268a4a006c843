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
import hashlib
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

SOURCE = Path(__file__).with_name("kernels.c")
FILE = Path(__file__).with_name("_kernels.so")
LANES = 8  # as in kernels.c

_ARRAY, _COUNT, _INT, _NUMBER = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
_ARGUMENTS = {
    "convneur_unit": [_ARRAY] * 3 + [_INT] + [_COUNT] * 3 + [_INT, _NUMBER],
    "convneur_write": [_ARRAY] * 6 + [_COUNT, _INT] + [_COUNT] * 5 + [_INT, _NUMBER, _NUMBER],
    "convneur_contexts": [_ARRAY] * 6 + [_INT] + [_COUNT] * 2 + [_NUMBER],
    "convneur_join": [_ARRAY] * 6 + [_COUNT, _INT] + [_COUNT] * 6,
}


def _load() -> ctypes.CDLL | None:
    capability = torch.backends.cpu.get_cpu_capability()
    if not (FILE.is_file() and SOURCE.is_file() and capability.startswith("AVX")):
        return None
    try:
        library = ctypes.CDLL(str(FILE), mode=os.RTLD_NOW)  # now, or OpenMP would be missed at the first call
        library.convneur_source.restype = ctypes.c_char_p
        made_from = library.convneur_source().decode()
    except (OSError, AttributeError):  # of another machine, or beside a PyTorch without OpenMP
        return None
    if made_from != hashlib.sha256(SOURCE.read_bytes()).hexdigest():
        return None  # the package was updated since, in place
    for name, arguments in _ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
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
    if LIBRARY is None or torch.is_grad_enabled() or not may_go_by_hand(tokens, *weights):
        return False
    for weight in weights:
        if not weight.is_cpu:  # offloaded
            return False
    return tokens.is_cpu and tokens.dtype is torch.float32 and tokens.shape[-1] % LANES == 0 and tokens.numel() > 0


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
    assert LIBRARY is not None
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
    LIBRARY.convneur_write(
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


def unit(tokens: Tensor, center: bool, room: Tensor | None = None) -> Tensor:
    """Tokens (B, N, D), their mean taken off if ``center``, over the root of their mean square.

    Args:
        tokens: (B, N, D).
        center: Whether to take the mean off.
        room: To work in, of D numbers at least for each of PyTorch's threads; made if not given.
    """
    assert LIBRARY is not None
    batch, count, width = tokens.shape
    tokens, threads = tokens.contiguous(), torch.get_num_threads()
    made, room = torch.empty_like(tokens), tokens.new_empty(threads * width) if room is None else room
    LIBRARY.convneur_unit(
        tokens.data_ptr(), made.data_ptr(), room.data_ptr(), threads, batch, count, width, center, EPS
    )
    return made


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
    assert LIBRARY is not None
    (batch, channels, height, width), grid = x.shape, gate.shape[2:]
    gate = gate.contiguous(memory_format=torch.channels_last)
    shift = None if shift is None else shift.contiguous(memory_format=torch.channels_last)
    out, share, threads = torch.empty_like(x), 2 * grid[1] * channels, torch.get_num_threads()
    room = x.new_empty(threads * share)
    LIBRARY.convneur_join(
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
