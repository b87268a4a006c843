"""The global branch on a CPU, in inference, by one call of C (``branch.c``) where PyTorch takes some twenty.

For one image those twenty are small: pooling, maps, norms, the write and the read come to a few million
multiply-accumulates, and starting each takes as long as doing it. A tile of tokens goes through all of it while it is
in the cache; threads wait for each other three times, for the mean of the tokens, for what was written, and for the
memory made from it (``docs/results/speed.md``). Weights are taken as they are, so nothing is laid out beforehand.

Shape letters: B batch, C channels, H W pixels of the map, h w of the token grid, N = hw tokens, D memory width.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from convneur.layers.local_kernel import LANES, PROCESSOR
from convneur.memory import library
from convneur.memory.config import MemoryConfig
from convneur.memory.fast_weights import KEY_EPS
from convneur.memory.folded import Maps, largest_step
from convneur.memory.mlp_kernels import NORM_EPS
from convneur.memory.norm import EPS
from convneur.memory.plain import may_go_by_hand

TOKENS_OF_A_TILE = 128  # at most, as in branch.c
# Of an image, for as many threads, unless it has more tokens than that: of smaller tiles the sums are most of the work.
TILES = 4
# Multiply-accumulates of one D x D map beyond which PyTorch's products make up for all calls, with AVX2 alone.
ENOUGH = {"avx2": 2**23, "avx512": 2**62}
MOST_HELD = 2**25  # numbers, of the memories of all tiles: those of an mlp are large

_WEIGHTS = (
    *("down", "down_bias", "store_gain", "keys", "values", "rates", "rates_bias", "initial"),
    *("second", "state_gain", "retrieve_gain"),
    *("queries", "proj", "gain", "carry_gain", "up", "up_bias", "shift", "shift_bias"),
)
_COUNTS = (
    *("batch", "height", "width", "channels", "stride", "grid_height", "grid_width", "tokens", "heads"),
    *("rows_of_rates", "center", "decay", "tiles", "threads"),
)


class _Call(ctypes.Structure):
    """All that the kernel is told, as in branch.c."""

    _fields_ = (
        *((name, library.ARRAY) for name in ("map", *_WEIGHTS, "gates", "shifts", "room")),
        *((name, library.COUNT) for name in _COUNTS),
        *((name, library.NUMBER) for name in ("step", "eps", "key_eps", "norm_eps")),
    )


LIBRARY = library.load_library(
    Path(__file__).with_name("branch.c"), {f"convneur_branch_{name}": [ctypes.POINTER(_Call)] for name in LANES}
)

Map = tuple[Tensor, Tensor | None]


class BranchWeights(NamedTuple):
    """The weights of a branch, as its modules have them.

    Attributes:
        memory: Of the memory and of the map behind it; of an mlp, whose ``initial`` is its first map, (H, d, 4d).
        state: The second map, (H, 4d, d), and the gain, (H, 1, d), of an mlp; nothing of a linear memory.
        down: Weight (D, C) and bias (D,) of the map to tokens.
        gains: (D,), of the norm of the context, and of that of the tokens if they are carried.
        ups: Weight (C, D) and bias (C,) of the map to the first answer, and of that to the second if there is one.
    """

    memory: Maps
    state: Sequence[Tensor]
    down: Map
    gains: Sequence[Tensor]
    ups: Sequence[Map]


def serves(config: MemoryConfig, weights: BranchWeights, x: Tensor, stride: int) -> bool:
    """Whether the kernel takes this map, (B, C, H, W): inference, in float32, channels last, nobody tracing."""
    if LIBRARY is None or library.LIBRARY is None or torch.is_grad_enabled() or x.ndim != 4 or not x.is_cpu:
        return False
    (batch, channels, height, across), maps = x.shape, weights.memory
    if any(
        each is None
        for each in (*maps, *weights.state, weights.down[0], *weights.gains, *(up for up, _ in weights.ups))
    ):
        return False  # torch says what is missing
    (heads, head), rates = maps.initial.shape[:2], maps.rates.shape[0]
    width, tokens = heads * head, -(-height // stride) * -(-across // stride)
    shapes = [
        *((each, (width, width)) for each in (maps.keys, maps.values, maps.queries, maps.proj)),
        *((each, (width,)) for each in (maps.store_gain, maps.retrieve_gain)),
        (maps.initial, (heads, head, 4 * head if weights.state else head)),
        *zip(weights.state, ((heads, 4 * head, head), (heads, 1, head)), strict=False),
        (maps.rates, (rates, width)),
        (maps.bias, (rates,)),
        (weights.down[0], (width, channels)),
        *((gain, (width,)) for gain in weights.gains),
        *((up, (channels, width)) for up, _ in weights.ups),
    ]
    biases = [(weights.down[1], (width,)), *((bias, (channels,)) for _, bias in weights.ups)]
    shapes += [(bias, shape) for bias, shape in biases if bias is not None]
    given = [weight for weight, _ in shapes]
    return (
        may_go_by_hand(x, *given)
        and x.dtype is torch.float32
        and 0 < batch * tokens * width**2 <= ENOUGH[PROCESSOR]
        and batch * _tiles(tokens) * _held(weights) <= MOST_HELD
        and rates >= heads * (1 + config.decay)
        and not (weights.state and head % LANES[PROCESSOR])
        and all(weight.shape == shape for weight, shape in shapes)
        and all(map(_is_there, (x, *given)))
        and x.is_contiguous(memory_format=torch.channels_last)
        and all(each.is_contiguous() for each in given)
    )


def _is_there(x: Tensor) -> bool:
    """Whether the numbers of a tensor are where it says, as they are."""
    return x.layout is torch.strided and x.is_cpu and not x.is_neg() and x.data_ptr() != 0


def _tiles(tokens: int) -> int:
    """Of an image; not by the batch, so that it gives the same to the last bit with others and without."""
    vectors = -(-tokens // LANES[PROCESSOR])
    least = -(-vectors * LANES[PROCESSOR] // TOKENS_OF_A_TILE)
    return max(least, min(vectors, torch.get_num_threads(), TILES))


def _held(weights: BranchWeights) -> int:
    """Numbers of a memory."""
    heads, head = weights.memory.initial.shape[:2]
    return heads * head * (8 * head + 1 if weights.state else head)


def answers(config: MemoryConfig, weights: BranchWeights, x: Tensor, stride: int, center: bool) -> list[Tensor]:
    """What the branch says about a map that `serves`: each (B, C, h, w), channels last.

    Args:
        config: Of the memory.
        weights: Of the branch.
        x: (B, C, H, W), channels last.
        stride: Pixels per token along each side.
        center: Whether the mean of the tokens is taken off before they are written.
    """
    maps, state, down, gains, ups = weights
    batch, channels, height, across = x.shape
    grid = -(-height // stride), -(-across // stride)
    heads, head = maps.initial.shape[:2]
    width, lanes, threads = heads * head, LANES[PROCESSOR], torch.get_num_threads()
    tiles = _tiles(grid[0] * grid[1])
    row, tasks = TOKENS_OF_A_TILE + lanes, batch * tiles
    own, held = 2 * (max(channels, 2 * width) + heads), _held(weights)
    own += 15 * head if state else 0
    threads = min(threads, tasks)
    room = tasks * (2 * width * row + width + held + heads) + batch * held + threads * own * row
    room += 4 * width * head if state else 0
    made = [x.new_empty(batch, *grid, channels) for _ in ups]
    numbers = x.new_empty(room)
    carries, shifts = len(gains) > 1, len(ups) > 1
    arrays = (
        x,
        *(*down, maps.store_gain, maps.keys, maps.values, maps.rates, maps.bias, maps.initial),
        *(state or (None, None)),
        maps.retrieve_gain,
        *(maps.queries, maps.proj, gains[0], gains[1] if carries else None),
        *(*ups[0], *(ups[1] if shifts else (None, None))),
        *(made[0], made[1] if shifts else None, numbers),
    )
    call = _Call(
        *(None if array is None else array.data_ptr() for array in arrays),
        *(batch, height, across, channels, stride, *grid, width, heads),
        *(len(maps.rates), center, config.decay, tiles, threads),
        *(largest_step(config, grid[0] * grid[1], head), EPS, KEY_EPS, NORM_EPS),
    )
    getattr(LIBRARY, f"convneur_branch_{PROCESSOR}")(ctypes.byref(call))
    return [each.permute(0, 3, 1, 2) for each in made]
