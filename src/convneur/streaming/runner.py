"""Runs over maps on disk: reading rows as tensors, and steps that are done once.

Shape letters: C channels, H W pixels of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from convneur.streaming.regions import Region
from convneur.streaming.scratch import Map, Scratch


class Step(NamedTuple):
    """What is done for one strip, and noted by its name; ``work`` is for the progress bar."""

    name: str
    work: float
    act: Callable[[], None]


@dataclass(frozen=True)
class Runner:
    """Where maps are, and how steps are taken.

    Attributes:
        scratch: Maps, and which steps are done.
        like: A parameter of the model: its device, and the kind of number maps are kept in.
        workers: Steps at once.
        free: Bytes of memory for one of them.
        tile: Rows of a strip, and columns of what is computed at once of it, if they are given.
    """

    scratch: Scratch
    like: Tensor
    workers: int
    free: int
    tile: tuple[int, int] | None

    @property
    def kind(self) -> str:
        """The kind of number, as NumPy names it."""
        return str(self.like.dtype).rpartition(".")[2]

    def array(self, name: str, *shape: int) -> Map:
        """A map that can be written; what is there stays."""
        return self.scratch.create(name, shape, self.kind)

    def read(self, held: Map, area: Region) -> Tensor:
        """Part of a map on disk (H, W, C) as (1, C, rows, columns)."""
        return self._part(held, area).permute(2, 0, 1)[None]

    def tokens(self, held: Map, area: Region) -> Tensor:
        """Part of a map on disk (h, w, D) as (1, N, D)."""
        return self._part(held, area).flatten(0, 1)[None]

    def write(self, held: Map, area: Region, x: Tensor) -> None:
        """Write (1, C, rows, columns) into a map on disk (H, W, C)."""
        held.write(x[0].permute(1, 2, 0).cpu().numpy(), *area)

    def _part(self, held: Map, area: Region) -> Tensor:
        return torch.from_numpy(held.read(*area)).to(self.like.device)

    def take(self, steps: Iterable[Step], advance: Callable[[float], None]) -> None:
        """Take the steps that are not done; ``advance`` is told the work of each."""

        def act(step: Step) -> float:
            if step.name not in self.scratch.done:
                with torch.inference_mode():
                    step.act()
                self.scratch.finish(step.name)
            return step.work

        if self.workers == 1:
            for step in steps:
                advance(act(step))
            return
        # Threads that torch uses are counted for each thread that calls it.
        share = max(1, torch.get_num_threads() // self.workers)
        pool = ThreadPoolExecutor(self.workers, initializer=torch.set_num_threads, initargs=(share,))
        try:
            for work in pool.map(act, steps):
                advance(work)
        finally:
            pool.shutdown(cancel_futures=True)
