"""Semantic FPN over maps on disk: each group norm needs its whole map once, everything else is local.

Span of a map are asked for from the end: what gives them asks for those that it needs. Maps are kept where the
statistics of a norm must be known first, and nowhere else.

Shape letters: K classes, C channels, H W pixels of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from convneur.devices import require_finite
from convneur.streaming.regions import Region, RegionUpsample, Span, spans
from convneur.streaming.runner import Runner, Step
from convneur.streaming.scratch import Map
from convneur.tasks.segmentation.semantic_fpn import SemanticFPN


class Lazy(NamedTuple):
    """A map of H x W pixels, of which rows can be had."""

    height: int
    width: int
    rows: Callable[[Span], Tensor]


def stored(runner: Runner, held: Map) -> Lazy:
    """A map on disk."""
    height, width = held.shape[:2]
    return Lazy(height, width, lambda rows: runner.read(held, Region(rows, Span(0, width))))


def mapped(inside: Lazy, function: Callable[[Tensor], Tensor]) -> Lazy:
    """What is done pixel by pixel."""
    return Lazy(inside.height, inside.width, lambda rows: function(inside.rows(rows)))


def convolved(inside: Lazy, conv: nn.Conv2d) -> Lazy:
    """A convolution that keeps the size. Zeros that it pads where a strip was cut are cut off."""

    def rows(wanted: Span) -> Tensor:
        held = wanted.wider(int(conv.kernel_size[0]) // 2, inside.height)
        return conv(inside.rows(held))[:, :, wanted.inside(held)]

    return Lazy(inside.height, inside.width, rows)


def doubled(inside: Lazy, times: int = 2) -> Lazy:
    """Bilinear upsampling."""
    height, width = inside.height * times, inside.width * times

    def rows(wanted: Span) -> Tensor:
        bring = RegionUpsample(Region(wanted, Span(0, width)), (height, width), (inside.height, inside.width), times)
        return bring(inside.rows(bring.needed.rows))

    return Lazy(height, width, rows)


def topped(lateral: Lazy, above: Lazy) -> Lazy:
    """A level of a pyramid: what comes from its own map, and the level above it, upsample to the nearest pixels."""

    def rows(wanted: Span) -> Tensor:
        lower = Span(wanted.start // 2, (wanted.stop + 1) // 2)
        large = above.rows(lower).repeat_interleave(2, 2).repeat_interleave(2, 3)
        return lateral.rows(wanted) + large[:, :, wanted.inside(lower.scaled(2))]

    return Lazy(lateral.height, lateral.width, rows)


def summed(parts: list[Lazy]) -> Lazy:
    """The sum of maps."""
    return Lazy(
        parts[0].height, parts[0].width, lambda rows: sum((p.rows(rows) for p in parts[1:]), parts[0].rows(rows))
    )


class SemanticFpnOnDisk:
    """The decoder over the maps of one image, whose sides are multiples of 32.

    Args:
        net: In eval mode.
        runner: Where maps are, and how steps are taken.
        size: Height and width of the image before it was padded.
    """

    def __init__(self, net: SemanticFPN, runner: Runner, size: tuple[int, int]) -> None:
        self.net, self.runner, self.size = net, runner, size
        classes = net.head.out_channels
        wide = max(net.pyramid.out_channels, net.head.in_channels)
        # Bytes for a row of the finest map: a few maps of the decoder, and the scores of the image's pixels.
        pixel = 10 * wide + 3 * 16 * classes
        fitting = runner.free // (pixel * -(-size[1] // 4) * runner.like.element_size())
        if fitting < 8 and runner.tile is None:
            raise ValueError(
                "the memory limit leaves no room for a strip of the decoder; raise it, or use fewer workers"
            )
        found = runner.tile[0] if runner.tile is not None else max(1, min(fitting - 6, -(-size[0] // 64)))
        self.rows: int = runner.scratch.remember("decoder", {"rows": found})["rows"]

    @property
    def work(self) -> float:
        """Of all steps, in the unit of the backbone's."""
        finest = (-(-self.size[0] // 4)) * (-(-self.size[1] // 4))
        return finest * 9 * self.net.head.in_channels * self.net.pyramid.out_channels / 8 * 1.6

    def run(self, maps: dict[int, Map], advance: Callable[[float], None]) -> Map:
        """Everything; returns the classes of the pixels, (H, W) bytes.

        Args:
            maps: Of the four stages.
            advance: Called with the work that was done since.
        """
        fpn: Any = self.net.pyramid.fpn
        inner: list[Lazy] = []
        for level in range(3, -1, -1):
            lateral = mapped(stored(self.runner, maps[level]), fpn.inner_blocks[level])
            inner.insert(0, topped(lateral, inner[0]) if inner else lateral)
        share = self.work / (sum(4.0**-level for level in range(4)) + 1)
        levels = []
        for level, blocks in enumerate(self.net.levels.children()):
            x = convolved(inner[level], fpn.layer_blocks[level][0])
            levels.append(self._level(level, x, list(blocks.children()), share * 4.0**-level, advance))
        total = mapped(summed(levels), self.net.head)
        logits = doubled(total, 4)
        classes = self.runner.scratch.create("classes", self.size, "uint8")

        def act(rows: Span) -> None:
            found = logits.rows(rows)[0, :, :, : self.size[1]]
            require_finite(found)
            classes.write(found.argmax(0).byte().cpu().numpy(), rows)

        lines = list(spans(self.size[0], 4 * self.rows))
        steps = (Step(f"classes {rows.start}", share / len(lines), partial(act, rows)) for rows in lines)
        self.runner.take(steps, advance)
        return classes

    def _level(
        self, level: int, x: Lazy, blocks: list[nn.Module], work: float, advance: Callable[[float], None]
    ) -> Lazy:
        """Convolutions and norms of a level, brought to the size of the finest."""
        for number, block in enumerate(blocks):
            if isinstance(block, nn.Upsample):
                x = doubled(x)
                continue
            assert isinstance(block, nn.Sequential)
            conv, norm, act = block
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.GroupNorm)
            name = f"level_{level}_{number}"
            made = convolved(x, conv)
            out = self.runner.array(name, made.height, made.width, conv.out_channels)
            count = -(-made.height // self.rows)
            sums = self.runner.scratch.create(f"{name}_sums", (count, 2, norm.num_groups), "float64")
            steps = self._convolve(name, made, out, sums, norm.num_groups, work)
            self.runner.take(steps, advance)
            self.runner.scratch.drop(f"level_{level}_{number - 2}")
            known = _normed(norm, sums, made.height * made.width)
            x = mapped(mapped(stored(self.runner, out), known), act)
        return x

    def _convolve(self, name: str, made: Lazy, out: Map, sums: Map, groups: int, work: float) -> Iterator[Step]:
        def act(index: int, rows: Span) -> None:
            y = made.rows(rows)
            self.runner.write(out, Region(rows, Span(0, made.width)), y)
            parts = y.double().reshape(groups, -1)  # whatever its memory format
            found = torch.stack([parts.sum(1), parts.square().sum(1)])
            sums.write(found[None].cpu().numpy(), Span(index, index + 1))

        for index, rows in enumerate(spans(made.height, self.rows)):
            yield Step(f"{name} {index}", work * rows.length / made.height, partial(act, index, rows))


def _normed(norm: nn.GroupNorm, sums: Map, pixels: int) -> Callable[[Tensor], Tensor]:
    """A group norm with the statistics of a whole map, from the sums of values and squares of each strip."""
    share = norm.num_channels // norm.num_groups
    values, squares = torch.from_numpy(sums.whole().sum(0)) / (pixels * share)
    spread = (squares - values.square()).clamp(min=0).add(norm.eps).rsqrt()
    mean, scale = (each.repeat_interleave(share).to(norm.weight) for each in (values, spread))
    gain = norm.weight * scale
    shift = norm.bias - mean * gain
    return lambda x: torch.addcmul(shift[:, None, None], x, gain[:, None, None])
