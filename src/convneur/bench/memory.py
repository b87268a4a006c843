"""Peak memory of a step, and a heap that stays while steps are timed."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import torch
from torch.autograd.profiler import profile

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h


def peak_bytes(step: Callable[[], object], device: torch.device) -> int | None:
    """The most memory that a step holds at once, above what was held before it began.

    Weights, images and the state of an optimizer are there before, so they do not count, if the step has run once. On
    CUDA torch's own counter is read. On a CPU torch's profiler notes what its allocator gives and takes back, and the
    step runs in a thread of its own, so that memory which a thread keeps from one run to the next counts; what
    libraries allocate by themselves does not. Other devices do not say.

    Args:
        step: Run once.
        device: What it runs on.

    Returns:
        Bytes, or None where they are not known.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type == "cpu":
        with ThreadPoolExecutor(1) as fresh:
            return fresh.submit(_peak_on_cpu, step).result()
    return None


def _peak_on_cpu(step: Callable[[], object]) -> int:
    with _silent(), profile(profile_memory=True) as profiler:
        step()
    assert profiler.kineto_results is not None
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate((event.nbytes() for event in events), initial=0))


@contextmanager
def _silent() -> Iterator[None]:
    """Keep off the terminal what the profiler's library says about itself; exceptions pass."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def freed_memory_kept() -> Iterator[bool]:
    """Let the C library keep what is freed, and give it back to the system at the end.

    By default glibc gives large blocks back to the system and takes new pages at the next run, which must be cleared
    first. Whether it does so for a model depends on what ran before it: the same convnext_atto took 32 and 47 ms at
    batch 8. What is timed is then the heap rather than the model.

    Yields:
        Whether there is a C library that can.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt"):
        yield False
        return
    try:
        yield bool(library.mallopt(_TRIM_THRESHOLD, -1) and library.mallopt(_MMAP_MAX, 0))
    finally:
        library.mallopt(_TRIM_THRESHOLD, 128 * 1024)  # what malloc.h says of a process that starts
        library.mallopt(_MMAP_MAX, 65536)
        library.malloc_trim(0)
