"""Images in WebDataset shards, each read from where it begins: any can be picked, which a stream does not allow."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convneur.data import tars
from convneur.data.bulk.images import fingerprint_of
from convneur.data.paths import LARGEST_FILE
from convneur.data.sources import FileImages
from convneur.files import regular_file


class ShardImages:
    """Images in uncompressed tar files, found by where they begin.

    Args:
        root: Folder of the shards.
        shards: Their names.
        names: ``SHARD:KEY`` of each image.
        places: (N, 3) shard, first byte and length of each image.
        own: Label of each image, None for those without; None if none has one.
        fingerprint: See `BulkImages`.
        notes: See `BulkImages`.
    """

    def __init__(
        self,
        root: Path,
        shards: Sequence[str],
        names: Sequence[str],
        places: Sequence[tuple[int, int, int]],
        own: Sequence[int | str | None] | None,
        fingerprint: str,
        notes: Sequence[str] = (),
    ) -> None:
        self.root, self.shards, self.own, self.notes = root, list(shards), own, list(notes)
        texts = own is not None and any(isinstance(label, str) for label in own)
        self.own_labels = None if own is None else "string" if texts else "int64"
        self.named = FileImages(names, [0] * len(names))
        self.labels = self.named.labels
        self.places = np.array(places, dtype=np.int64)
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        """Return the bytes of the image; an OSError if the shard is cut off."""
        shard, first, length = self.places[index].tolist()
        if length > LARGEST_FILE:
            raise OSError(f"it has {length:,} bytes; an image may have {LARGEST_FILE:,}")
        with (self.root / self.shards[shard]).open("rb") as file:
            file.seek(first)
            content = file.read(length)
        if len(content) < length:
            raise OSError("the shard is cut off")
        return content

    def name(self, index: int) -> str:
        """Shard and key."""
        return self.named.name(index)

    def known_labels(self, first: int, stop: int) -> list[Any]:
        """Those in ``.cls`` files."""
        return [None] * (stop - first) if self.own is None else list(self.own[first:stop])


def open_shard_images(root: Path, shards: Sequence[str], spec: str) -> ShardImages:
    """Look through shards for what is in them; their headers are read, not the images.

    Raises:
        ValueError: If a shard is damaged or compressed, or there are no images.
    """
    names: list[str] = []
    places: list[tuple[int, int, int]] = []
    own: list[int | str | None] = []
    several: list[str] = []
    for number, shard in enumerate(shards):
        labels: dict[str, int | str | None] = {}
        began = len(names)
        with regular_file(root / shard).open("rb") as file, tars.whole(str(root / shard)):
            if tars.mode_of(file) != "r:":
                raise ValueError("it is compressed, and cannot be read from the middle")
            for sample in tars.samples(file, "r:", str(root / shard), _place):
                key = f"{shard}:{sample.key}"
                if sample.label is not None:
                    labels[key] = _own(sample.label)
                if sample.image is not None:
                    names.append(key)
                    places.append((number, *sample.image))
                if sample.more:
                    several.append(key)
        own += [labels.get(name) for name in names[began:]]
    if not names:
        raise ValueError(f"{spec} holds no images; give shards (.tar) of images, or a folder of them")
    notes = []
    if several:
        notes.append(
            f"{len(several):,} samples have several images, of which the first is used; the first: {several[0]}"
        )
    if any(isinstance(label, str) for label in own):
        own = [None if label is None else str(label) for label in own]
    sizes = ((shard, (root / shard).stat().st_size) for shard in shards)
    some = any(label is not None for label in own)
    return ShardImages(root, shards, names, places, own if some else None, fingerprint_of("shards", sizes), notes)


def _place(member: tarfile.TarInfo, tar: tarfile.TarFile) -> tuple[int, int]:
    return member.offset_data, member.size


def _own(content: bytes) -> int | str | None:
    """A label as it is handed on: numbers, or else text; nothing is learned from it here."""
    try:
        number = tars.label(content, "")
    except ValueError:
        return content.decode("utf-8", "backslashreplace").strip()
    return number if number is None or abs(number) < 2**63 else str(number)
