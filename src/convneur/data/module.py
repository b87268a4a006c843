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
    TrainImages,
    TrainLoader,
    check_batch,
    collate,
    default_workers,
)
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
        eval_size: Image size of evaluation, if not that of training.
        max_pixels: Larger images are refused.
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
    ) -> None:
        super().__init__()
        self.source = source
        self.preprocessing, self.eval_preprocessing = preprocessing, eval_preprocessing or preprocessing
        self.augment, self.batch_size, self.seed, self.max_pixels = augment, batch_size, seed, max_pixels
        self.workers = default_workers() if workers is None else workers

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def steps_per_epoch(self, world: int) -> int:
        """Training batches of one process in an epoch; a ValueError if a batch is larger than the set."""
        check_batch(len(self.source.train), self.batch_size * world)
        return len(self.source.train) // (self.batch_size * world)

    def train_dataloader(self) -> TrainLoader:
        """Shuffled, augmented batches; the loader can go on in the middle of an epoch."""
        rank, world = self._place()
        transform = train_transform(self.preprocessing, self.augment)
        options: dict[str, Any] = {"num_workers": self.workers, "pin_memory": _has_cuda()}
        if hasattr(self.source.train, "stream"):  # shards, which can only be read in a row
            order = self.source.train.stream(transform, self.batch_size, self.seed, rank, world, self.max_pixels)
            return TrainLoader(order, dataset=order, batch_size=None, **options)
        order = EpochBatches(len(self.source.train), self.batch_size, self.seed, rank, world)
        images = TrainImages(self.source.train, transform, self.seed, self.max_pixels)
        options["persistent_workers"] = self.workers > 0
        return TrainLoader(order, dataset=images, batch_sampler=order, collate_fn=collate, **options)

    def val_dataloader(self) -> DataLoader[Any]:
        """Held-out images in order."""
        rank, world = self._place()
        return eval_loader(
            self.source.val, self.eval_preprocessing, 2 * self.batch_size, self.workers, rank, world, self.max_pixels
        )


def eval_loader(
    images: Any,
    preprocessing: Preprocessing,
    batch_size: int,
    workers: int | None = None,
    rank: int = 0,
    world: int = 1,
    max_pixels: int = MAX_PIXELS,
) -> DataLoader[Any]:
    """Batches of images in order, none left out; each process gets its part."""
    transform = eval_transform(preprocessing)
    workers = default_workers() if workers is None else workers
    if hasattr(images, "stream"):
        stream = images.in_order(transform, batch_size, rank, world, max_pixels)
        return DataLoader(stream, batch_size=None, num_workers=min(workers, 1))
    return DataLoader(
        EvalImages(images, transform, max_pixels),
        batch_size,
        sampler=Every(len(images), rank, world),
        collate_fn=collate,
        num_workers=workers,
        pin_memory=_has_cuda(),
        persistent_workers=workers > 0,
    )


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()
