"""What local shards hold: looked through once, before anything is learned from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convneur.data import tars
from convneur.data.labels import FEW
from convneur.files import regular_file


@dataclass
class Survey:
    """What local shards hold.

    Attributes:
        count: Samples with an image and a label.
        labels: That occur.
        top: The largest of them.
        top_name: The sample that has it.
        notes: What was left out, and why.
    """

    count: int = 0
    labels: set[int] = field(default_factory=set)
    top: int = -1
    top_name: str = ""
    notes: list[str] = field(default_factory=list)


def survey(paths: Sequence[Path], where: str) -> Survey:
    """Look through shards; a ValueError if one is damaged, or no sample is whole."""
    found, total = Survey(), 0
    lost: defaultdict[str, list[str]] = defaultdict(list)  # names, by what is wrong with them
    for path in paths:
        with regular_file(path).open("rb") as file, tars.whole(str(path)):
            for sample in tars.samples(file, tars.mode_of(file), str(path), lambda member, tar: True):
                total, name = total + 1, f"{path} {sample.key}"
                label = None if sample.label is None else tars.label(sample.label, f"{sample.key}.cls")
                if sample.more:
                    lost["have several images, of which the first is used"].append(name)
                if sample.image is None or label is None or label < 0:
                    lost[_why_lost(sample, label)].append(name)
                    continue
                found.count += 1
                found.labels.add(label)
                if label > found.top:
                    found.top, found.top_name = label, name
    if not found.count:
        raise ValueError(
            f"none of {total:,} samples of {where} has an image and a label from 0 (.cls) of one name, in a row in the "
            "shard; write the label of each image beside it"
        )
    for why, names in sorted(lost.items()):
        used = "" if why.endswith("used") else "; they were left out"
        found.notes.append(f"{len(names):,} of {total:,} samples of {where} {why}{used}; the first: {names[0]}")
    if found.count < FEW * total:
        found.notes.append(f"only {found.count / total:.1%} of the samples of {where} have a label; is that meant?")
    return found


def _why_lost(sample: tars.Sample[Any], label: int | None) -> str:
    if sample.image is None:
        return "have a label and no image"
    return "have no label" if label is None else "have a negative label, which means none"
