"""A part of a source: fewer images to train on, or held-out images that are taken from the training images."""

from __future__ import annotations

from dataclasses import replace

from convneur.data.formats.images import Subset
from convneur.data.shards import Shards
from convneur.data.sources import Source
from convneur.data.split import Split, share_of, stratified_split


def hold_out(source: Source, share: float, seed: int) -> Source:
    """Judge by a part of the training images, and leave alone the held-out images the data has.

    What is chosen by held-out images is not judged fairly by them; this keeps them for the end. A source that had no
    held-out images of its own is returned as it is: there they were taken from the training images already.

    Args:
        source: As it was opened.
        share: Of each class, to hold out.
        seed: Of the choice.

    Raises:
        ValueError: If the source is a stream of shards, or a class has a single image.
    """
    if source.split is not None:
        return source
    _check_indexed(source, "--hold-out")
    split = stratified_split(source.train.labels, share, seed, source.classes)
    return replace(
        source,
        train=Subset(source.train, split.train),
        val=Subset(source.train, split.val),
        split=split,
        held_out=share_of(share, "the training images", seed),
    )


def fewer(source: Source, count: int, seed: int) -> Source:
    """Train on ``count`` images at most, as many of each class as its share allows (at least one).

    Args:
        source: As it was opened.
        count: Training images to keep.
        seed: Of the choice.

    Raises:
        ValueError: If the source is a stream of shards, or a class has a single image.
    """
    _check_indexed(source, "--train-images")
    if count >= len(source.train):
        return source
    chosen = stratified_split(source.train.labels, count / len(source.train), seed, source.classes).val
    kept: Split | None = source.split
    if kept is not None:
        kept = replace(kept, train=[kept.train[i] for i in chosen])
    return replace(source, train=Subset(source.train, chosen), split=kept)


def _check_indexed(source: Source, flag: str) -> None:
    if isinstance(source.train, Shards):
        raise ValueError(f"{flag} needs images that can be picked, and shards are read in a row; leave it out")
