"""Mutations of files, the same for the same seed, and a child process of bounded memory that readers are tried in."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

MUTATIONS = 200
GIB = 2**30


def mutated(content: bytes, seed: int) -> bytes:
    """``content`` with one fault: bits flipped, bytes overwritten, removed, doubled or cut off."""
    draw = random.Random(seed)
    data, kind = bytearray(content), seed % 6
    place = draw.randrange(len(data))
    length = min(draw.choice((1, 2, 4, 8, 64)), len(data) - place)
    if kind == 0:  # one bit
        data[place] ^= 1 << draw.randrange(8)
    elif kind == 1:  # a number that is much too large, as sizes and offsets may be
        data[place : place + length] = b"\xff" * length
    elif kind == 2:
        data[place : place + length] = draw.randbytes(length)
    elif kind == 3:
        del data[place : place + length]
    elif kind == 4:
        data[place:place] = data[place : place + length]
    else:
        del data[place:]
    return bytes(data)


def run_bounded(script: str, *arguments: str | Path, memory: int = 4 * GIB, seconds: int = 60) -> str:
    """Run Python source in one child process that may not take more than ``memory`` bytes of address space.

    Returns:
        What it printed. An AssertionError with its output if it did not end with exit code 0.
    """
    bound = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))\n"
    done = subprocess.run(
        [sys.executable, "-c", bound + script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout
