"""The passes of a backbone over an image in strips, with what is between them on disk.

Shape letters: C channels, H W pixels of a map, h w of its token grid, D memory width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convneur.inference.budget import strip_rows
from convneur.inference.passes import Passes, Step
from convneur.inference.rows import GridRows, Rows, strips
from convneur.inference.scratch import Map
from convneur.inference.segments import Segment, segments_of
from convneur.inference.sources import LargeImage
from convneur.layers import GlobalBranch
from convneur.memory import NeuralMemory, contexts_in_parts
from convneur.models import ConvNeur

TOKENS_AT_ONCE = 2**16  # that a memory writes or reads


class BackboneOnDisk:
    """One image through one backbone.

    Args:
        model: In eval mode.
        image: To read rows of.
        look: Mean and standard deviation of each channel.
        passes: Where maps are, and how steps are taken.
        out_indices: Stages whose maps are kept.
        multiple: Sides are padded with zeros to a multiple of this, below and on the right.
    """

    def __init__(
        self,
        model: ConvNeur,
        image: LargeImage,
        look: tuple[tuple[float, ...], tuple[float, ...]],
        passes: Passes,
        out_indices: set[int],
        multiple: int = 1,
    ) -> None:
        self.model, self.image, self.passes, self.out_indices = model, image, passes, out_indices
        self.mean, self.std = (torch.tensor(each, dtype=passes.like.dtype)[:, None, None] for each in look)
        self.segments = segments_of(model)
        self.sizes: list[tuple[int, int]] = []
        self.padding = (-image.height % multiple, -image.width % multiple)
        height, width, channels = image.height + self.padding[0], image.width + self.padding[1], image.channels
        found = []
        for segment in self.segments:
            before = (width, channels)
            height, width, channels = height // segment.stride, width // segment.stride, segment.channels
            self.sizes.append((height, width))
            found.append(
                passes.rows or strip_rows(segment, (height, width), before, passes.like.element_size(), passes.free)
            )
        self.rows: list[int] = passes.scratch.remember("backbone", {"rows": found})["rows"]

    @property
    def work(self) -> float:
        """Of all steps, in some unit."""
        return sum(
            self._work(number, len(segment.blocks) + 0.5 * (segment.branch is not None))
            for number, segment in enumerate(self.segments)
        )

    def _work(self, number: int, blocks: float) -> float:
        height, width = self.sizes[number]
        return height * width * self.segments[number].channels ** 2 * blocks

    def run(self, advance: Callable[[float], None]) -> None:
        """Everything.

        Args:
            advance: Called with the work that was done since, in the unit of ``work``.
        """
        for number, segment in enumerate(self.segments):
            branch, name = segment.branch, f"segment {number}"
            if name in self.passes.scratch.done:  # and what it was made from may be gone
                advance(self._work(number, len(segment.blocks) + 0.5 * (branch is not None)))
                continue
            if branch is not None:
                self.passes.take(self._tokens(number, branch), advance)
                self.passes.take([Step(f"{number} memory", 0.0, partial(self._memory, number, branch))], advance)
            self.passes.take(self._blocks(number, segment), advance)
            self.passes.scratch.finish(name)
            for kind in ("tokens", "contexts", "sums"):
                self.passes.scratch.drop(f"{kind}_{number}")
            if number and not self._is_wanted(number - 1):
                self.passes.scratch.drop(f"map_{number - 1}")

    def maps(self) -> dict[int, Map]:
        """The maps that are wanted, by stage."""
        return {s.stage: self._map(n) for n, s in enumerate(self.segments) if self._is_wanted(n)}

    def _is_wanted(self, number: int) -> bool:
        segment = self.segments[number]
        return segment.is_last and segment.stage in self.out_indices

    def _map(self, number: int) -> Map:
        """What comes out of a segment, (H, W, C)."""
        return self.passes.array(f"map_{number}", *self.sizes[number], self.segments[number].channels)

    def _token_map(self, number: int, kind: str) -> Map:
        """``tokens``, not centred, or ``contexts`` that were read about them, (h, w, D)."""
        branch = self.segments[number].branch
        assert branch is not None
        return self.passes.array(f"{kind}_{number}", *self._grid(number), branch.norm.weight.shape[0])

    def _sums(self, number: int) -> Map:
        """Sum of the tokens of each strip, (strips, D)."""
        lines = max(1, self.rows[number] // self.segments[number].token_stride)
        count = -(-self._grid(number)[0] // lines)
        return self.passes.scratch.create(
            f"sums_{number}", (count, self._token_map(number, "tokens").shape[2]), "float64"
        )

    def _grid(self, number: int) -> tuple[int, int]:
        stride = self.segments[number].token_stride
        height, width = self.sizes[number]
        return -(-height // stride), -(-width // stride)

    def _entered(self, number: int, rows: Rows) -> Tensor:
        """Rows of the map that the blocks of a segment get, (1, C, rows, W)."""
        segment = self.segments[number]
        before = rows.scaled(segment.stride)
        return segment.enter(self.passes.read(self._map(number - 1), before) if number else self._pixels(before))

    def _pixels(self, rows: Rows) -> Tensor:
        """Rows of the padded image as the model takes them, (1, C, rows, W)."""
        there = rows.within(self.image.height)
        pixels = torch.from_numpy(self.image.read(there, self.model.in_chans, self.passes.kind)).permute(2, 0, 1)
        x = pixels.sub_(self.mean).div_(self.std)[None].to(self.passes.like.device)
        return F.pad(x, (0, self.padding[1], 0, rows.height - there.height)) if any(self.padding) else x

    def _tokens(self, number: int, branch: GlobalBranch) -> Iterator[Step]:
        """Tokens of each strip, and their sum."""
        (height, _), stride = self.sizes[number], branch.token_stride
        lines = max(1, self.rows[number] // stride)
        parts = list(strips(self._grid(number)[0], lines))
        tokens, sums = self._token_map(number, "tokens"), self._sums(number)

        def act(index: int, grid: Rows) -> None:
            found, _ = branch.tokens(self._entered(number, grid.scaled(stride).within(height)))
            tokens.rows(grid, writable=True)[:] = found.view(grid.height, -1, found.shape[-1]).cpu().numpy()
            sums.rows(Rows(index, index + 1), writable=True)[:] = found.double().sum((0, 1)).cpu().numpy()

        for index, grid in enumerate(parts):
            work = self._work(number, 0.5) * grid.height / self._grid(number)[0]
            yield Step(f"{number} tokens {index}", work, partial(act, index, grid))

    def _memory(self, number: int, branch: GlobalBranch) -> None:
        """Write all tokens, and read about each."""
        (height, width), memory = self._grid(number), branch.memory
        assert isinstance(memory, NeuralMemory)  # of all segments
        tokens, contexts = self._token_map(number, "tokens"), self._token_map(number, "contexts")
        parts = list(strips(height, max(1, TOKENS_AT_ONCE // width)))
        mean = None
        if branch.center_tokens:
            sums = torch.from_numpy(self._sums(number).rows(Rows(0, self._sums(number).shape[0])).sum(0))
            mean = (sums / (height * width)).to(self.passes.like)[None, None]

        def given() -> Iterator[Tensor]:
            return (self.passes.tokens(tokens, rows) for rows in parts)

        read = contexts_in_parts(memory, given, height * width, mean)
        for rows, context in zip(parts, read, strict=True):
            contexts.rows(rows, writable=True)[:] = context.view(rows.height, width, -1).cpu().numpy()

    def _blocks(self, number: int, segment: Segment) -> Iterator[Step]:
        """Blocks of each strip."""
        height, width = self.sizes[number]
        out = self._map(number)

        def answers(branch: GlobalBranch, rows: Rows) -> tuple[tuple[Tensor, Tensor | None], GridRows]:
            across = GridRows(rows, height, self._grid(number)[0], width, branch.token_stride)
            tokens = self.passes.tokens(self._token_map(number, "tokens"), across.needed)
            contexts = self.passes.tokens(self._token_map(number, "contexts"), across.needed)
            grid = (across.needed.height, self._grid(number)[1])
            return branch.answers(tokens, branch.proj(contexts), grid), across

        def act(wanted: Rows) -> None:
            held = wanted.wider(segment.halo, height)
            x = segment.run(self._entered(number, held), held, wanted, height, answers)
            self.passes.write(out, wanted, x)

        for index, wanted in enumerate(strips(height, self.rows[number])):
            work = self._work(number, len(segment.blocks)) * wanted.height / height
            yield Step(f"{number} blocks {index}", work, partial(act, wanted))

    def pooled(self) -> Tensor:
        """Mean of the last map, (1, C4, 1, 1)."""
        last = len(self.segments) - 1
        held, (height, width) = self._map(last), self.sizes[last]
        total = np.zeros(self.segments[last].channels)
        for rows in strips(height, self.rows[last]):
            total += held.rows(rows).sum((0, 1), dtype=np.float64)
        return (
            torch.from_numpy(total / (height * width))
            .to(self.mean.dtype)
            .to(self.passes.like.device)[None, :, None, None]
        )
