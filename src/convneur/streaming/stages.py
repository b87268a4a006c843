"""A backbone as a sequence of substages: what must be known of the whole image stands at the beginning of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from convneur.layers import ConvNeurBlock, GlobalBranch
from convneur.memory import Memory
from convneur.models import ConvNeur
from convneur.models.backbone import ConvNeurStage
from convneur.streaming.regions import Region, RegionUpsample

Answering = Callable[[GlobalBranch, Region], tuple[tuple[Tensor, Tensor | None], RegionUpsample]]


@dataclass(frozen=True)
class SubStage:
    """A part of a stage that strips pass through without a look at the others.

    Attributes:
        stage: Number of the stage.
        entry: Stem or downsampling before the first block; None inside a stage.
        stride: Rows that ``entry`` takes for each it gives.
        blocks: The first alone may have a global branch.
        channels: Of the map inside and behind.
        is_last: Whether the stage ends behind it.
    """

    stage: int
    entry: nn.Module | None
    stride: int
    blocks: tuple[ConvNeurBlock, ...]
    channels: int
    is_last: bool

    @property
    def branch(self) -> GlobalBranch | None:
        """Of the first block."""
        return self.blocks[0].global_branch if self.blocks else None

    @property
    def token_stride(self) -> int:
        """Rows of the map per row of tokens; 1 where there are none."""
        return self.branch.token_stride if self.branch is not None else 1

    @property
    def halo(self) -> int:
        """Rows, or columns, on each side that an answer depends on."""
        return sum(_reach(block) for block in self.blocks)

    def enter(self, x: Tensor) -> Tensor:
        """What comes before the first block."""
        return x if self.entry is None else self.entry(x)

    def run(self, x: Tensor, held: Region, wanted: Region, size: tuple[int, int], answers: Answering) -> Tensor:
        """Blocks on a tile.

        Args:
            x: (1, C, rows, columns), the area ``held`` of the map behind ``entry``.
            held: At least what is ``wanted`` and a halo around, where the map has it.
            wanted: What to give.
            size: H, W of the map.
            answers: Of a global branch about an area of the map, on the grid, and what brings them up.

        Returns:
            The area ``wanted``, (1, C, rows, columns).
        """
        left = self.halo
        for block in self.blocks:
            left -= _reach(block)
            kept = wanted.wider(left, size)
            # Zeros are padded at a tile's edges; what saw them is cut off, but at the edges of the map.
            if block.global_branch is None:
                x = kept.cut(block(x), held)
            else:
                x = kept.cut(block.join(x, *answers(block.global_branch, held)), held)
            held = kept
        return x


def substages_of(model: ConvNeur) -> list[SubStage]:
    """Take a backbone apart.

    Raises:
        ValueError: If something in it looks at the whole image in another way than through a neural memory.
    """
    config = model.global_config
    if config.placement != "none" and config.token_mixer != "memory":
        raise ValueError(
            f"token_mixer={config.token_mixer!r} needs the whole image at once; only 'memory' can be streamed"
        )
    found: list[SubStage] = []
    for number, stage in enumerate(model.stages):
        assert isinstance(stage, ConvNeurStage)
        entry, stride = (model.stem, model.feature_info[0]["reduction"]) if number == 0 else (stage.downsample, 2)
        all_blocks = [block for block in stage.blocks if isinstance(block, ConvNeurBlock)]
        starts = [i for i, block in enumerate(all_blocks) if i == 0 or block.global_branch is not None]
        for start, stop in zip(starts, [*starts[1:], len(all_blocks)], strict=True):
            blocks = tuple(all_blocks[start:stop])
            branch = blocks[0].global_branch
            if branch is not None and not isinstance(branch.memory, Memory):
                raise ValueError(
                    f"{type(branch.memory).__name__} in stage {number + 1} cannot be streamed; only a memory can"
                )
            found.append(
                SubStage(
                    stage=number,
                    entry=entry if start == 0 else None,
                    stride=stride if start == 0 else 1,
                    blocks=blocks,
                    channels=model.feature_info[number]["num_chs"],
                    is_last=stop == len(all_blocks),
                )
            )
    return found


def _reach(block: ConvNeurBlock) -> int:
    return block.conv_dw.kernel_size[0] // 2
