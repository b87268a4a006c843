"""A source of images as Lightning wants it."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch.utils.data import DataLoader

from convneur.data.decode import MAX_PIXELS
from convneur.data.loading import (
    EpochBatches,
    EvalImages,
    Every,
    Pictures,
    TrainImages,
    TrainLoader,
    check_batch,
    collate,
    default_workers,
    ignore_interrupts,
)
from convneur.data.shards import Shards, ShardStream, shard_workers
from convneur.data.sources import Source
from convneur.data.transforms import AugmentConfig, Preprocessing, eval_transform, train_transform


class ImageData(pl.LightningDataModule):
    """Batches to train on and to evaluate on, split over the processes of a run.

    Args:
        source: The images.
        preprocessing: What the model expects.
        augment: How training images are varied.
        batch_size: Images per batch of one process.
        seed: Of order and augmentation.
        workers: Processes that load; None for as many as suit the machine, 0 for none.
        eval_preprocessing: Of evaluation, if not that of training.
        max_pixels: Larger images are refused.
        pin_memory: For quicker transfers to a GPU.
        keep_bytes: Memory for decoded images, over all processes that load for this one.
    """

    def __init__(
        self,
        source: Source,
        preprocessing: Preprocessing,
        augment: AugmentConfig,
        batch_size: int,
        seed: int = 0,
        workers: int | None = None,
        eval_preprocessing: Preprocessing | None = None,
        max_pixels: int = MAX_PIXELS,
        pin_memory: bool = False,
        keep_bytes: int = 0,
    ) -> None:
        super().__init__()
        self.source = source
        self.preprocessing, self.eval_preprocessing = preprocessing, eval_preprocessing or preprocessing
        self.augment, self.batch_size, self.seed, self.max_pixels = augment, batch_size, seed, max_pixels
        self.workers, self.pin_memory, self.keep_bytes = workers, pin_memory, keep_bytes

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def steps_per_epoch(self, world: int) -> int:
        """Training batches of one process in an epoch; a ValueError if a batch is larger than the set."""
        check_batch(len(self.source.train), self.batch_size * world)
        return len(self.source.train) // (self.batch_size * world)

    def train_workers(self, world: int) -> int:
        """Processes that load training images for one that trains."""
        if isinstance(self.source.train, Shards):
            return shard_workers(self.source.train, self.workers, world)
        return default_workers() if self.workers is None else self.workers

    def train_dataloader(self) -> TrainLoader:
        """Shuffled, augmented batches; the loader can go on in the middle of an epoch."""
        rank, world = self._place()
        transform = train_transform(self.preprocessing, self.augment)
        workers = self.train_workers(world)
        options: dict[str, Any] = {
            "num_workers": workers,
            "pin_memory": self.pin_memory,
            "worker_init_fn": ignore_interrupts,
        }
        order: ShardStream | EpochBatches
        if isinstance(self.source.train, Shards):
            order = self.source.train.stream(transform, self.batch_size, self.seed, rank, world, self.max_pixels)
            options |= {"dataset": order, "batch_size": None}
        else:
            order = EpochBatches(len(self.source.train), self.batch_size, self.seed, rank, world)
            pictures = Pictures(
                self.source.train, self.max_pixels, self._keep_bytes(self.source.train) // max(1, workers)
            )
            images = TrainImages(pictures, transform, self.seed)
            options |= {
                "dataset": images,
                "batch_sampler": order,
                "collate_fn": collate,
                "persistent_workers": workers > 0,
            }
        if self.trainer is not None:
            # Workers begin before Lightning says which epoch it is. A state of the middle of one is loaded over this.
            progress: Any = self.trainer.fit_loop.epoch_progress
            order.epoch = progress.current.processed
        return TrainLoader(order, **options)

    def val_dataloader(self) -> DataLoader[Any]:
        """Held-out images in order."""
        rank, world = self._place()
        return eval_loader(
            self.source.val,
            self.eval_preprocessing,
            2 * self.batch_size,
            self.workers,
            rank,
            world,
            self.max_pixels,
            self.pin_memory,
            self._keep_bytes(self.source.val),
        )

    def _keep_bytes(self, images: Any) -> int:
        """What one set of images gets of the memory: its share of all images."""
        if not self.keep_bytes or isinstance(images, Shards):
            return 0
        return self.keep_bytes * len(images) // (len(self.source.train) + len(self.source.val))


def eval_loader(
    images: Any,
    preprocessing: Preprocessing,
    batch_size: int,
    workers: int | None = None,
    rank: int = 0,
    world: int = 1,
    max_pixels: int = MAX_PIXELS,
    pin_memory: bool = False,
    keep_bytes: int = 0,
) -> DataLoader[Any]:
    """Batches of images in order, none left out; each process gets its part."""
    transform = eval_transform(preprocessing)
    workers = default_workers() if workers is None else workers
    if isinstance(images, Shards):
        stream = images.in_order(transform, batch_size, rank, world, max_pixels)
        return DataLoader(stream, batch_size=None, num_workers=min(workers, 1), worker_init_fn=ignore_interrupts)
    return DataLoader(
        EvalImages(Pictures(images, max_pixels, keep_bytes // max(1, workers)), transform),
        batch_size,
        sampler=Every(len(images), rank, world),
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=ignore_interrupts,
    )
