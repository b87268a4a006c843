"""A source of images as Lightning wants it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from torch.utils.data import DataLoader, Dataset

from convneur.data.decode import MAX_PIXELS
from convneur.data.formats.parquet import read_in_any_order
from convneur.data.loading import (
    DistributedEvalSampler,
    EpochBatches,
    EvalImages,
    ImageCache,
    TrainImages,
    TrainLoader,
    check_batch,
    collate,
    default_workers,
    ignore_interrupts,
)
from convneur.data.shards import OrderedShards, Shards, ShardStream, shard_workers
from convneur.data.sources import Source
from convneur.data.transforms import Preprocessing, eval_transform, train_transform
from convneur_options.augment import AugmentConfig


class PictureData(pl.LightningDataModule, ABC):
    """Batches to train on and to evaluate on, split over the processes of a run.

    Args:
        source: Has ``train`` and ``val``, images that can be read by number.
        batch_size: Images per batch of one process.
        seed: Of order and augmentation.
        workers: Processes that load; None for as many as suit the machine, 0 for none.
        max_pixels: Larger images are refused.
        pin_memory: For quicker transfers to a GPU.
        keep_bytes: Memory for decoded images, over all processes that load for this one.
    """

    collate: Callable[[Any], Any]  # of what the sets give, to a batch
    collate_evaluation: Callable[[Any], Any] | None = None  # the same for evaluation, if it is another

    def __init__(
        self,
        source: Any,
        batch_size: int,
        seed: int = 0,
        workers: int | None = None,
        max_pixels: int = MAX_PIXELS,
        pin_memory: bool = False,
        keep_bytes: int = 0,
    ) -> None:
        super().__init__()
        self.source, self.batch_size, self.seed, self.max_pixels = source, batch_size, seed, max_pixels
        self.workers, self.pin_memory, self.keep_bytes = workers, pin_memory, keep_bytes

    @abstractmethod
    def training_set(self, pictures: ImageCache) -> Dataset[Any]:
        """Varied examples by (epoch, index)."""

    @abstractmethod
    def evaluation_set(self, pictures: ImageCache) -> Dataset[Any]:
        """Examples in order; `PADDING` counts nowhere."""

    def place(self) -> tuple[int, int]:
        """Number of this process, and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def steps_per_epoch(self, world: int) -> int:
        """Training batches of one process in an epoch; a ValueError if a batch is larger than the set."""
        check_batch(len(self.source.train), self.batch_size, world)
        return len(self.source.train) // (self.batch_size * world)

    def train_workers(self, world: int) -> int:
        """Processes that load training images for one that trains."""
        return default_workers() if self.workers is None else self.workers

    def facts(self, world: int) -> dict[str, Any]:
        """What of the loading decides the order of images, as JSON can hold it."""
        return {}

    def train_dataloader(self) -> TrainLoader:
        """Shuffled, augmented batches; the loader can go on in the middle of an epoch."""
        rank, world = self.place()
        workers = self.train_workers(world)
        order = EpochBatches(len(self.source.train), self.batch_size, self.seed, rank, world)
        read_in_any_order(self.source.train)
        pictures = ImageCache(self.source.train, self.max_pixels, self._keep_bytes(self.source.train))
        return self.loader(
            order,
            dataset=self.training_set(pictures),
            batch_sampler=order,
            collate_fn=self.collate,
            persistent_workers=workers > 0,
        )

    def loader(self, order: Any, **options: Any) -> TrainLoader:
        """A loader of training batches in an order that has ``epoch`` and ``start``."""
        if self.trainer is not None:
            # Workers begin before Lightning says which epoch it is. A state of the middle of one is loaded over this.
            progress: Any = self.trainer.fit_loop.epoch_progress
            order.epoch = progress.current.processed
        _, world = self.place()
        return TrainLoader(
            order,
            num_workers=self.train_workers(world),
            pin_memory=self.pin_memory,
            worker_init_fn=ignore_interrupts,
            **options,
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Held-out images in order."""
        rank, world = self.place()
        workers = default_workers() if self.workers is None else self.workers
        pictures = ImageCache(self.source.val, self.max_pixels, self._keep_bytes(self.source.val))
        images = self.evaluation_set(pictures)
        collate = self.collate_evaluation or self.collate
        return in_order(images, collate, 2 * self.batch_size, workers, rank, world, self.pin_memory)

    def _keep_bytes(self, images: Any) -> int:
        """What one set of images gets of the memory: its share of all images."""
        return self.keep_bytes * len(images) // (len(self.source.train) + len(self.source.val))


class ImageData(PictureData):
    """Images with labels, of any `Source`.

    Args:
        source: The images.
        preprocessing: What the model expects.
        augment: How training images are varied.
        batch_size: Images per batch of one process.
        eval_preprocessing: Of evaluation, if not that of training.
        **options: Other arguments of `PictureData`.
    """

    collate = staticmethod(collate)

    def __init__(
        self,
        source: Source,
        preprocessing: Preprocessing,
        augment: AugmentConfig,
        batch_size: int,
        eval_preprocessing: Preprocessing | None = None,
        **options: Any,
    ) -> None:
        super().__init__(source, batch_size, **options)
        self.preprocessing, self.eval_preprocessing = preprocessing, eval_preprocessing or preprocessing
        self.augment = augment

    def training_set(self, pictures: ImageCache) -> TrainImages:
        """Augmented images by (epoch, index)."""
        return TrainImages(pictures, train_transform(self.preprocessing, self.augment), self.seed)

    def evaluation_set(self, pictures: ImageCache) -> EvalImages:
        """Images in order."""
        return EvalImages(pictures, eval_transform(self.eval_preprocessing))

    def train_workers(self, world: int) -> int:
        """Processes that load training images for one that trains."""
        if isinstance(self.source.train, Shards):
            return shard_workers(self.source.train, self.workers, world)
        return super().train_workers(world)

    def facts(self, world: int) -> dict[str, Any]:
        """The workers decide the order of shards that are read in a row."""
        return {"workers": self.train_workers(world)} if isinstance(self.source.val, Shards) else {}

    def train_dataloader(self) -> TrainLoader:
        """Shuffled, augmented batches; the loader can go on in the middle of an epoch."""
        if not isinstance(self.source.train, Shards):
            return super().train_dataloader()
        rank, world = self.place()
        transform = train_transform(self.preprocessing, self.augment)
        order = ShardStream(self.source.train, transform, self.batch_size, self.seed, rank, world, self.max_pixels)
        return self.loader(order, dataset=order, batch_size=None)

    def val_dataloader(self) -> DataLoader[Any]:
        """Held-out images in order."""
        if not isinstance(self.source.val, Shards):
            return super().val_dataloader()
        rank, world = self.place()
        images, size = self.source.val, 2 * self.batch_size
        return eval_loader(
            images, self.eval_preprocessing, size, self.workers, rank, world, self.max_pixels, self.pin_memory
        )

    def _keep_bytes(self, images: Any) -> int:
        return 0 if isinstance(images, Shards) else super()._keep_bytes(images)


def eval_loader(
    images: Any,
    preprocessing: Preprocessing,
    batch_size: int,
    workers: int | None = None,
    rank: int = 0,
    world: int = 1,
    max_pixels: int = MAX_PIXELS,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """Batches of images in order, none left out; each process gets its part."""
    transform = eval_transform(preprocessing)
    workers = default_workers() if workers is None else workers
    if isinstance(images, Shards):
        stream = OrderedShards(images, transform, batch_size, rank, world, max_pixels)
        return DataLoader(stream, batch_size=None, num_workers=min(workers, 1), worker_init_fn=ignore_interrupts)
    return in_order(
        EvalImages(ImageCache(images, max_pixels), transform), collate, batch_size, workers, rank, world, pin_memory
    )


def in_order(
    images: Any,
    collate: Callable[[Any], Any],
    batch_size: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """Batches of a set that has a length and takes `PADDING`, in order; each process gets its part."""
    return DataLoader(
        images,
        batch_size,
        sampler=DistributedEvalSampler(len(images), rank, world),
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=ignore_interrupts,
    )
