"""The passes of a backbone over an image in strips of tiles, with what is between them on disk.

Shape letters: C channels, H W pixels of a map, h w of its token grid, D memory width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convneur.data.rasters import LargeImage
from convneur.layers import GlobalBranch
from convneur.memory import Memory, contexts_in_parts
from convneur.models import ConvNeur
from convneur.streaming.budget import tile_size
from convneur.streaming.regions import Region, RegionUpsample, Span, spans
from convneur.streaming.runner import Runner, Step
from convneur.streaming.scratch import Map
from convneur.streaming.stages import SubStage, substages_of

TOKENS_AT_ONCE = 2**16  # that a memory writes or reads


class BackboneOnDisk:
    """One image through one backbone.

    Args:
        model: In eval mode.
        image: To read rows of.
        look: Mean and standard deviation of each channel.
        runner: Where maps are, and how steps are taken.
        out_indices: Stages whose maps are kept.
        multiple: Sides are padded with zeros to a multiple of this, below and on the right.
    """

    def __init__(
        self,
        model: ConvNeur,
        image: LargeImage,
        look: tuple[tuple[float, ...], tuple[float, ...]],
        runner: Runner,
        out_indices: set[int],
        multiple: int = 1,
    ) -> None:
        self.model, self.image, self.runner, self.out_indices = model, image, runner, out_indices
        self.mean, self.std = (torch.tensor(each, dtype=runner.like.dtype)[:, None, None] for each in look)
        self.substages = substages_of(model)
        self.sizes: list[tuple[int, int]] = []
        self.padding = (-image.height % multiple, -image.width % multiple)
        height, width, channels = image.height + self.padding[0], image.width + self.padding[1], image.channels
        found = []
        for substage in self.substages:
            entering = channels
            height, width, channels = height // substage.stride, width // substage.stride, substage.channels
            self.sizes.append((height, width))
            line = 0 if self.sizes[1:] else image.width * image.channels * image.dtype.itemsize
            one = runner.like.element_size()
            found.append(runner.tile or tile_size(substage, (height, width), entering, one, runner.free, line))
        self.tiles: list[tuple[int, int]] = runner.scratch.remember("backbone", {"tiles": found})["tiles"]

    @property
    def work(self) -> float:
        """Of all steps, in some unit."""
        return sum(
            self._work(number, len(substage.blocks) + 0.5 * (substage.branch is not None))
            for number, substage in enumerate(self.substages)
        )

    def _work(self, number: int, blocks: float) -> float:
        height, width = self.sizes[number]
        return height * width * self.substages[number].channels ** 2 * blocks

    def run(self, advance: Callable[[float], None]) -> None:
        """Everything.

        Args:
            advance: Called with the work that was done since, in the unit of ``work``.
        """
        for number, substage in enumerate(self.substages):
            branch, name = substage.branch, f"segment {number}"
            if name in self.runner.scratch.done:  # and what it was made from may be gone
                advance(self._work(number, len(substage.blocks) + 0.5 * (branch is not None)))
                continue
            if branch is not None:
                self.runner.take(self._tokens(number, branch), advance)
                self.runner.take([Step(f"{number} memory", 0.0, partial(self._memory, number, branch))], advance)
            self.runner.take(self._blocks(number, substage), advance)
            self.runner.scratch.finish(name)
            for kind in ("tokens", "contexts", "sums"):
                self.runner.scratch.drop(f"{kind}_{number}")
            if number and not self._is_wanted(number - 1):
                self.runner.scratch.drop(f"map_{number - 1}")

    def maps(self) -> dict[int, Map]:
        """The maps that are wanted, by stage."""
        return {s.stage: self._map(n) for n, s in enumerate(self.substages) if self._is_wanted(n)}

    def _is_wanted(self, number: int) -> bool:
        substage = self.substages[number]
        return substage.is_last and substage.stage in self.out_indices

    def _map(self, number: int) -> Map:
        """What comes out of a substage, (H, W, C)."""
        return self.runner.array(f"map_{number}", *self.sizes[number], self.substages[number].channels)

    def _token_map(self, number: int, kind: str) -> Map:
        """``tokens``, not centred, or ``contexts`` that were read about them, (h, w, D)."""
        branch = self.substages[number].branch
        assert branch is not None
        return self.runner.array(f"{kind}_{number}", *self._grid(number), branch.norm.weight.shape[0])

    def _sums(self, number: int) -> Map:
        """Sum of the tokens of each strip, (strips, D)."""
        lines = max(1, self.tiles[number][0] // self.substages[number].token_stride)
        count = -(-self._grid(number)[0] // lines)
        return self.runner.scratch.create(
            f"sums_{number}", (count, self._token_map(number, "tokens").shape[2]), "float64"
        )

    def _grid(self, number: int) -> tuple[int, int]:
        stride = self.substages[number].token_stride
        height, width = self.sizes[number]
        return -(-height // stride), -(-width // stride)

    def _entered(self, number: int, rows: Span) -> Callable[[Region], Tensor]:
        """What gives parts of some rows of the map that the blocks of a substage get, (1, C, rows, columns)."""
        substage = self.substages[number]
        held = rows.scaled(substage.stride)
        before = partial(self.runner.read, self._map(number - 1)) if number else self._pixels(held)
        return lambda area: substage.enter(before(area.scaled(substage.stride)))

    def _pixels(self, rows: Span) -> Callable[[Region], Tensor]:
        """What gives parts of some rows of the padded image, which are read once, as the model takes them."""
        size = (self.image.height, self.image.width)
        read = rows.within(size[0])
        raw = self.image.raw(read)

        def part(area: Region) -> Tensor:
            there = area.within(size)
            stored = raw[there.rows.inside(read), slice(*there.columns)]
            pixels = torch.from_numpy(self.image.light(stored, self.model.in_chans, self.runner.kind)).permute(2, 0, 1)
            x = pixels.sub_(self.mean).div_(self.std)[None].to(self.runner.like.device)
            below, right = (side - known for side, known in zip(area.size, there.size, strict=True))
            return F.pad(x, (0, right, 0, below)) if below or right else x

        return part

    def _tokens(self, number: int, branch: GlobalBranch) -> Iterator[Step]:
        """Tokens of each strip, and their sum."""
        size, stride = self.sizes[number], branch.token_stride
        lines, across = (max(1, side // stride) for side in self.tiles[number])
        height, width = self._grid(number)
        tokens, sums = self._token_map(number, "tokens"), self._sums(number)

        def act(index: int, rows: Span) -> None:
            entered = self._entered(number, rows.scaled(stride).within(size[0]))
            total = torch.zeros(tokens.shape[2], dtype=torch.float64)
            for columns in spans(width, across):
                area = Region(rows, columns)
                found, _ = branch.tokens(entered(area.scaled(stride).within(size)))
                total += found.double().sum((0, 1)).cpu()
                self.runner.write(tokens, area, found.view(1, *area.size, -1).permute(0, 3, 1, 2))
            sums.write(total[None].numpy(), Span(index, index + 1))

        for index, rows in enumerate(spans(height, lines)):
            work = self._work(number, 0.5) * rows.length / height
            yield Step(f"{number} tokens {index}", work, partial(act, index, rows))

    def _memory(self, number: int, branch: GlobalBranch) -> None:
        """Write all tokens, and read about each."""
        (height, width), memory = self._grid(number), branch.memory
        assert isinstance(memory, Memory)  # of all substages
        tokens, contexts = self._token_map(number, "tokens"), self._token_map(number, "contexts")
        parts = list(spans(height, max(1, TOKENS_AT_ONCE // width)))
        mean = None
        if branch.center_tokens:
            sums = torch.from_numpy(self._sums(number).whole().sum(0))
            mean = (sums / (height * width)).to(self.runner.like)[None, None]

        def given() -> Iterator[Tensor]:
            return (self.runner.tokens(tokens, Region(rows, Span(0, width))) for rows in parts)

        read = contexts_in_parts(memory, given, height * width, mean)
        for rows, context in zip(parts, read, strict=True):
            contexts.write(context.view(rows.length, width, -1).cpu().numpy(), rows)

    def _blocks(self, number: int, substage: SubStage) -> Iterator[Step]:
        """Blocks of each strip."""
        size = height, width = self.sizes[number]
        lines, across = self.tiles[number]
        out = self._map(number)

        def answers(branch: GlobalBranch, area: Region) -> tuple[tuple[Tensor, Tensor | None], RegionUpsample]:
            upsample = RegionUpsample(area, size, self._grid(number), branch.token_stride)
            tokens, contexts = (
                self.runner.tokens(self._token_map(number, kind), upsample.needed) for kind in ("tokens", "contexts")
            )
            return branch.outputs(tokens, branch.proj(contexts), upsample.needed.size), upsample

        def act(rows: Span) -> None:
            entered = self._entered(number, rows.wider(substage.halo, height))
            for columns in spans(width, across):
                wanted = Region(rows, columns)
                held = wanted.wider(substage.halo, size)
                self.runner.write(out, wanted, substage.run(entered(held), held, wanted, size, answers))

        for index, rows in enumerate(spans(height, lines)):
            work = self._work(number, len(substage.blocks)) * rows.length / height
            yield Step(f"{number} blocks {index}", work, partial(act, rows))

    def pooled(self) -> Tensor:
        """Mean of the last map, (1, C4, 1, 1)."""
        last = len(self.substages) - 1
        held, (height, width) = self._map(last), self.sizes[last]
        total = np.zeros(self.substages[last].channels)
        for rows in spans(height, self.tiles[last][0]):
            total += held.read(rows).sum((0, 1), dtype=np.float64)
        return (
            torch.from_numpy(total / (height * width))
            .to(self.mean.dtype)
            .to(self.runner.like.device)[None, :, None, None]
        )
