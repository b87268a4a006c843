"""How much of a map is computed at a time."""

from __future__ import annotations

import math
import sys
from pathlib import Path

from convneur.streaming.stages import SubStage

# Maps that are alive at once inside a block, in maps of C channels: what comes in, the convolution, its norm, four of
# the hidden layer, what comes out of it, gate, shift, and one for what libraries hold.
MAPS_ALIVE = 13
LEAST_STRIPS = 16  # of a large map, so that little is lost when a job is killed
# Of one map of a tile. Beyond some 32 MB a C library takes new pages from the system for each tensor, which must be
# cleared: strips of whole rows, whose maps were larger the wider the image, spent 4 of 10 seconds of processor time on
# that.
TILE_BYTES = 2**23
MEMORY_LIMIT = 4 * 10**9
LEAST_FREE = 10**9  # of no limit given


def resident_bytes() -> int:
    """Memory this process has now, as the system counts it; the most it had where the system does not say."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        import resource

        return int(statm.read_text().split()[1]) * resource.getpagesize()
    if sys.platform == "win32":
        return 0  # nobody says without further packages
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def free_bytes(memory_limit: float | None) -> int:
    """What is left of a limit, beside what this process has.

    Args:
        memory_limit: Bytes; None is 4 GB, or 1 GB beyond what the process has where that is more.

    Raises:
        ValueError: If nothing is left.
    """
    held = resident_bytes()
    if memory_limit is None:
        return max(MEMORY_LIMIT - held, LEAST_FREE)
    if held >= memory_limit:
        raise ValueError(
            f"this process has {held / 1e9:.2f} GB already, and the memory limit is {memory_limit / 1e9:g} GB; raise it"
        )
    return int(memory_limit) - held


def tile_size(
    substage: SubStage, size: tuple[int, int], entering: int, itemsize: int, free: int, line_bytes: int = 0
) -> tuple[int, int]:
    """Rows of a strip, and columns of what is computed at once of it.

    Args:
        substage: That tiles pass through.
        size: Height and width of the map behind its entry.
        entering: Channels of what goes into the entry.
        itemsize: Bytes of a number.
        free: Bytes for one tile.
        line_bytes: Of a row of the image, where that enters: its rows are read once for all tiles of a strip.

    Raises:
        ValueError: If not even a few rows and columns fit.
    """
    height, width = size
    around, stride = 2 * substage.halo, substage.token_stride
    # What enters is there as it is read, and as it is normalised.
    pixel = (MAPS_ALIVE * substage.channels + 2 * entering * substage.stride**2) * itemsize
    wide_enough = (5 * around) ** 2  # or most of a tile is halo
    line = line_bytes * substage.stride
    for_lines = free // 4 if line else 0
    pixels = min((free - for_lines) // pixel, max(TILE_BYTES // (substage.channels * itemsize), wide_enough))
    side = math.isqrt(max(pixels, 0))
    least_rows = min(stride + around, height)
    least = min(stride + around, width) * least_rows
    if pixels < least or for_lines < least_rows * line:
        needed = max(least * pixel + (least * pixel // 3 if line else 0), 4 * least_rows * line)
        raise ValueError(
            f"the memory limit leaves {max(free, 0) / 1e6:.0f} MB for a tile and stage {substage.stage + 1} needs at "
            f"least {needed / 1e6:.0f} MB; raise it, or use fewer workers"
        )
    columns = width if width <= side else max(stride, (side - around) // stride * stride)
    across = min(width, columns + around)
    rows = height if pixels // across >= height else max(stride, pixels // across - around)
    if line:
        rows = min(rows, max(stride, for_lines // line - around))
    return min(rows, max(-(-height // LEAST_STRIPS), 8 * substage.halo)), columns
