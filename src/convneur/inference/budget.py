"""How many rows at a time fit into memory."""

from __future__ import annotations

import sys
from pathlib import Path

from convneur.inference.rows import Rows
from convneur.inference.segments import Segment

# Maps that are alive at once inside a block, in maps of C channels: what comes in, the convolution, its norm, four of
# the hidden layer, what comes out of it, gate, shift, and one for what libraries hold.
MAPS_ALIVE = 13
LEAST_STRIPS = 16  # of a large map, so that little is lost when a job is killed


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


def strip_rows(segment: Segment, size: tuple[int, int], before: tuple[int, int], itemsize: int, free: int) -> int:
    """Rows of a strip.

    Args:
        segment: That strips pass through.
        size: Height and width of the map behind its entry.
        before: Width and channels of what goes into the entry.
        itemsize: Bytes of a number.
        free: Bytes for one strip.

    Raises:
        ValueError: If not even a few rows fit.
    """
    height, width = size
    entering = 2 * before[0] * before[1] * segment.stride  # as it is read, and as it is normalised
    row = (MAPS_ALIVE * width * segment.channels + entering) * itemsize
    least = Rows(0, max(segment.token_stride, 1)).wider(segment.halo, height)
    around = 2 * segment.halo
    fitting = free // row - around
    if fitting < segment.token_stride and free // row < height:
        needed = (least.height + segment.halo) * row
        raise ValueError(
            f"the memory limit leaves {max(free, 0) / 1e6:.0f} MB for a strip and stage {segment.stage + 1} needs at "
            f"least {needed / 1e6:.0f} MB; raise it, or use fewer workers"
        )
    return min(max(fitting, segment.token_stride), max(-(-height // LEAST_STRIPS), 8 * segment.halo), height)
