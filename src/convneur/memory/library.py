"""The C library of the memory (``kernels.c``), if it is here, and what loads such libraries.

They are built when the package is installed, by a C compiler if there is one (``hatch_build.py``), on Linux for x86-64.
Without them, or without AVX2, PyTorch does it all; results are the same but for rounding. Threads are PyTorch's own:
OpenMP is taken from the process that a library is loaded into.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convneur.memory.plain import may_go_by_hand

LANES = 8  # as in kernels.c

ARRAY, COUNT, INT, NUMBER = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
_ARGUMENTS: dict[str, list[Any]] = {
    "convneur_unit": [ARRAY] * 3 + [INT] + [COUNT] * 3 + [INT, NUMBER],
    "convneur_contexts": [ARRAY] * 6 + [INT] + [COUNT] * 2 + [NUMBER],
    "convneur_answer": [ARRAY] * 6 + [COUNT, INT] + [COUNT] * 5 + [INT, NUMBER, NUMBER],
    "convneur_answer_gradient": [ARRAY] * 8 + [COUNT, INT] + [COUNT] * 5 + [INT, NUMBER, NUMBER],
    "convneur_join": [ARRAY] * 6 + [COUNT, INT] + [COUNT] * 6,
    "convneur_gelu": [ARRAY] * 2 + [INT] * 2 + [COUNT],
    "convneur_mlp_error": [ARRAY] * 7 + [INT] + [COUNT] * 3 + [NUMBER],
    "convneur_mlp_answer": [ARRAY] * 3 + [INT] + [COUNT] * 3 + [NUMBER],
}


def load_library(source: Path, functions: Mapping[str, Sequence[Any]]) -> ctypes.CDLL | None:
    """The library that was built from a file of C, if it is here, of this source, and of use on this processor.

    Args:
        source: The file of C; the library lies beside it.
        functions: Name and types of the arguments of each function, none of which returns anything.
    """
    file, capability = source.with_name(f"_{source.stem}.so"), torch.backends.cpu.get_cpu_capability()
    if not (file.is_file() and source.is_file() and capability.startswith("AVX")):
        return None
    header = Path(__file__).with_name("lanes.h")
    try:
        source_now = hashlib.sha256(source.read_bytes() + header.read_bytes()).hexdigest()
        library = ctypes.CDLL(str(file), mode=os.RTLD_NOW)  # now, or OpenMP would be missed at the first call
        library.convneur_source.restype = ctypes.c_char_p
        made_from = library.convneur_source().decode()
    except (OSError, AttributeError):  # of another machine, or beside a PyTorch without OpenMP
        return None
    if made_from != source_now:
        return None  # the package was updated since, in place
    for name, arguments in functions.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    return library


LIBRARY = load_library(Path(__file__).with_name("kernels.c"), _ARGUMENTS)


def serve(tokens: Tensor, *weights: Tensor) -> bool:
    """Whether these are what the kernels take: inference in float32 on a CPU, nobody tracing, and a width that fits."""
    return not torch.is_grad_enabled() and takes(tokens, *weights)


def takes(tokens: Tensor, *weights: Tensor) -> bool:
    """The same with gradients, too, for kernels that have some."""
    if LIBRARY is None or not may_go_by_hand(tokens, *weights):
        return False
    for weight in weights:
        if not weight.is_cpu:  # offloaded
            return False
    return tokens.is_cpu and tokens.dtype is torch.float32 and tokens.shape[-1] % LANES == 0 and tokens.numel() > 0
