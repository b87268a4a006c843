"""The C library of the memory (``kernels.c``), if it is here: what loads it, and what it takes.

It is built when the package is installed, by a C compiler if there is one (``hatch_build.py``), on Linux for x86-64.
Without it, or without AVX2, PyTorch does it all; results are the same but for rounding. Threads are PyTorch's own:
OpenMP is taken from the process that the library is loaded into.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor

from convneur.memory.plain import may_go_by_hand

SOURCE = Path(__file__).with_name("kernels.c")
FILE = Path(__file__).with_name("_kernels.so")
LANES = 8  # as in kernels.c

_ARRAY, _COUNT, _INT, _NUMBER = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
_ARGUMENTS = {
    "convneur_unit": [_ARRAY] * 3 + [_INT] + [_COUNT] * 3 + [_INT, _NUMBER],
    "convneur_write": [_ARRAY] * 6 + [_COUNT, _INT] + [_COUNT] * 5 + [_INT, _NUMBER, _NUMBER],
    "convneur_contexts": [_ARRAY] * 6 + [_INT] + [_COUNT] * 2 + [_NUMBER],
    "convneur_join": [_ARRAY] * 6 + [_COUNT, _INT] + [_COUNT] * 6,
    "convneur_gelu": [_ARRAY] * 2 + [_INT] * 2 + [_COUNT],
    "convneur_mlp_error": [_ARRAY] * 7 + [_INT] + [_COUNT] * 3 + [_NUMBER],
    "convneur_mlp_answer": [_ARRAY] * 3 + [_INT] + [_COUNT] * 3 + [_NUMBER],
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


def serve(tokens: Tensor, *weights: Tensor) -> bool:
    """Whether these are what the kernels take: inference in float32 on a CPU, nobody tracing, and a width that fits."""
    if LIBRARY is None or torch.is_grad_enabled() or not may_go_by_hand(tokens, *weights):
        return False
    for weight in weights:
        if not weight.is_cpu:  # offloaded
            return False
    return tokens.is_cpu and tokens.dtype is torch.float32 and tokens.shape[-1] % LANES == 0 and tokens.numel() > 0
