"""Computes parts: a model, and processes that decode images for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from convneur.data.loading import EvalImages, ImageCache, collate, ignore_interrupts
from convneur.data.transforms import eval_transform
from convneur.data.unlabelled import UnlabelledImages
from convneur.embedding.features import FeatureModel
from convneur.embedding.shard_writer import Shard, ShardWriter
from convneur.models.prepare_for_inference import prepare_for_inference
from convneur_options.embedding import EmbedConfig


class ShardBatches(Sampler[list[int]]):
    """Batches of indices of the parts that are ``wanted``, one after the other; none reaches into the next part.

    So a part's batches, and with them the last bits of its features, do not follow from which parts were there.
    """

    def __init__(self, shards: ShardWriter, batch_size: int) -> None:
        self.shards, self.batch_size = shards, batch_size
        self.wanted: Sequence[int] = ()

    def count(self, number: int) -> int:
        """Batches of a part."""
        return -(-len(self.shards.images(number)) // self.batch_size)

    def __len__(self) -> int:
        return sum(map(self.count, self.wanted))

    def __iter__(self) -> Iterator[list[int]]:
        for number in self.wanted:
            images = self.shards.images(number)
            for first in range(0, len(images), self.batch_size):
                yield list(images[first : first + self.batch_size])


class Job(NamedTuple):
    """Which images, by which model, into which parts, and how."""

    images: UnlabelledImages
    features: FeatureModel
    shards: ShardWriter
    config: EmbedConfig


class Embedder:
    """A model on its device, and a loader whose processes live on from part to part.

    Args:
        job: What to compute.
        workers: Processes that decode; 0 for none.
        device: To compute on; the model is moved there.
    """

    def __init__(self, job: Job, workers: int, device: torch.device) -> None:
        self.device, self.model = device, prepare_for_inference(job.features.module, device)
        self.order = ShardBatches(job.shards, job.config.batch_size)
        self.loader: DataLoader[Any] = DataLoader(
            EvalImages(ImageCache(job.images, job.config.max_pixels), eval_transform(job.features.preprocessing)),
            batch_sampler=self.order,
            collate_fn=collate,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
            worker_init_fn=ignore_interrupts,
        )

    def compute(self, wanted: Sequence[int], advance: Callable[[int], object] = lambda images: None) -> Iterator[Shard]:
        """Features of parts, one after the other.

        Args:
            wanted: Numbers of the parts.
            advance: Told of the images of each batch.
        """
        self.order.wanted = wanted
        batches = iter(self.loader)
        for number in wanted:
            indices: list[int] = []
            features = []
            unreadable: list[tuple[str, str]] = []
            for batch in islice(batches, self.order.count(number)):
                known = batch.labels >= 0
                with torch.inference_mode():
                    vectors = self.model(batch.images.to(self.device, non_blocking=True)).float().cpu()
                features.append(vectors[known].numpy())
                indices += batch.indices[known].tolist()
                unreadable += batch.unreadable
                advance(len(batch.labels))
            yield Shard(number, indices, np.concatenate(features), unreadable)
