"""WebDataset shards: sets too large for single files, read in a row from disk or, if that is allowed, over the network.

``wds:FOLDER`` takes ``train-*.tar``, ``val-*.tar`` and, where it is asked for, ``test-*.tar`` in the folder, and
``classes.txt`` if there are names.
``wds:FILE.json`` describes shards that are elsewhere::

    {"train": ["https://host/train-{0000..1023}.tar"], "train_samples": 1281167,
     "val": ["https://host/val-{00..49}.tar"], "val_samples": 50000, "classes": ["tench", ...]}

Addresses, and ``pipe:`` with a command of the shell, are read only where ``--allow-remote`` says so: whoever wrote the
description decides what is run.

There may be ``test`` and ``test_samples``, too. A sample is an image (.jpg, .png, ...) and a label (.cls, a number from
0) of the same name; see `convneur.data.formats.tar` for names with dots. Samples that lack one of them, or have a
negative label, are left out and named.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convneur.data.formats import tar
from convneur.data.labels import FEW, number_names, shown_names
from convneur.data.paths import is_clutter, read_json
from convneur.data.shards import NEEDS, Shards, is_remote
from convneur.data.split import Source, Wanted, listed_classes, need_two
from convneur.data.split_names import Judged, group_files, no_part

MOST_SHARDS = 100_000


def open_shards(spec: str, wanted: Wanted, allow_remote: bool = False) -> Source:
    """Find the shards at ``spec``; see the top of this file.

    Args:
        spec: Folder of shards, or a description of them.
        wanted: What is asked of them. No share is held out: there must be shards to judge by, or nothing to learn.
        allow_remote: Read addresses that the description names, and run the commands of its ``pipe:``.

    Raises:
        FileNotFoundError: If there are none.
        ImportError: If the package webdataset is needed and missing.
        ValueError: If what is there does not fit, or would have to be read from elsewhere.
    """
    path, part, learns = Path(spec).expanduser(), wanted.part, wanted.learns
    if is_remote(spec):
        raise ValueError(
            f"wds:{spec} is no file here; give a folder of shards, or write a .json file that describes them"
        )
    if path.suffix == ".json" and path.exists():
        return _described(path, allow_remote, part, learns)
    files = [file for file in path.glob("*") if file.name.lower().endswith(tar.ENDINGS) and not is_clutter(file.name)]
    groups, rest = group_files(files, f"wds:{spec}")
    learns = learns and part == "val"
    judged = groups.get(part, [])
    if not judged and part == "val" and not learns:
        judged = groups.get("train", [])
    train = groups.get("train", [] if learns else judged)
    if not train or not judged:
        lacking = "train" if learns and not train else part
        hint = "; test-*.tar is for eval --part test" if "test" in groups else ""
        raise FileNotFoundError(
            f"wds:{spec} has no {lacking}-*.tar; give a folder that has {'both' if learns else 'some'}{hint}"
        )
    source = _surveyed(f"wds:{spec}", train, judged, listed_classes(path), part)
    if rest:
        source.notes.append(
            f"{len(rest)} shards of {path} are not used, as their names say no part; the first: {rest[0].name}"
        )
    return source


def _surveyed(
    where: str, train: Sequence[Path], judged: Sequence[Path], classes: list[str] | None, part: Judged
) -> Source:
    """Shards of this machine, looked through."""
    looked = [survey(train, f"{where} train")]
    looked.append(survey(judged, f"{where} {part}") if judged != train else looked[0])
    classes = classes or number_names(looked[0].labels, where)
    for found in looked:
        if (top := max(found.labels)) >= len(classes):
            raise ValueError(
                f"{found.labels[top]} has the label {top}, and there are {len(classes)} classes, numbered from 0; "
                "name more classes, or mend the label"
            )
    if judged != train:
        need_two(classes, where, "at least two classes")
    if len(looked[0].labels) < 2 and judged != train:
        raise ValueError(f"all training samples of {where} are of one class; a classifier needs images of at least two")
    learned, held_out = (
        Shards(tuple(map(str, files)), found.count, len(classes), surveyed=True)
        for files, found in zip((train, judged), looked, strict=True)
    )
    notes = [note for found in looked[: 1 + (judged != train)] for note in found.notes]
    if lacking := [name for number, name in enumerate(classes) if number not in looked[1].labels]:
        notes.append(
            f"{where} {part} has no samples of {len(lacking)} of {len(classes)} classes: {shown_names(lacking)}"
        )
    return Source(learned, held_out, classes, None, notes, f"shards of {part}")


def _described(path: Path, allow_remote: bool, part: Judged, learns: bool) -> Source:
    told = read_json(path)
    if isinstance(told, dict) and part == "test" and "test" not in told:
        raise no_part(path, part, {"train": "train", "val": "val"})
    names = ["train", part]
    if not learns and isinstance(told, dict):
        names = [name for name in names if name in told] or names
    try:
        classes = [str(name) for name in told["classes"]]
        train, held_out = (
            Shards(_expanded(told[name]), int(told[f"{name}_samples"]), len(classes), allow_remote)
            for name in (names[0], names[-1])
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{path} does not describe shards ({error}); it needs train, train_samples, val, val_samples and classes"
        ) from error
    urls = train.urls + held_out.urls
    remote = next((url for url in urls if is_remote(url)), None)
    if remote is not None and not allow_remote:
        does = "runs a command" if remote.lower().startswith("pipe:") else "reads from elsewhere"
        raise ValueError(
            f"{path} names {remote!r}, which {does}; give files of this machine, or add --allow-remote if you trust "
            "who wrote it"
        )
    if missing := next((url for url in urls if not is_remote(url) and not Path(url).exists()), None):
        raise FileNotFoundError(f"{path} names {missing}, which is not there")
    if remote is not None:
        return Source(train, held_out, classes, held_out=f"shards of {part}")
    source = _surveyed(str(path), [*map(Path, train.urls)], [*map(Path, held_out.urls)], classes, part)
    for name, (said, found) in {names[0]: (train, source.train), names[-1]: (held_out, source.val)}.items():
        if said.count != found.count:
            source.notes.append(
                f"{path} says {said.count:,} samples of {name}, and {found.count:,} are there that can be used"
            )
    return source


def _expanded(urls: Iterable[str]) -> tuple[str, ...]:
    """Patterns such as ``{000..127}`` written out."""
    try:
        import braceexpand
    except ImportError as error:
        raise ImportError(NEEDS) from error
    urls = [urls] if isinstance(urls, str) else urls
    for url in urls:
        for first, last in re.findall(r"(-?\d+)\.\.(-?\d+)", url):
            if len(first) > 12 or len(last) > 12 or abs(int(last) - int(first)) >= MOST_SHARDS:
                raise ValueError(f"{url!r} stands for more than {MOST_SHARDS:,} shards")
    every = tuple(itertools.islice((u for url in urls for u in braceexpand.braceexpand(url)), MOST_SHARDS + 1))
    if not 0 < len(every) <= MOST_SHARDS:
        raise ValueError(f"there are no shards, or more than {MOST_SHARDS:,}")
    return every


@dataclass
class Survey:
    """What local shards hold.

    Attributes:
        count: Samples with an image and a label.
        labels: That occur, with the first sample that has each.
        notes: What was left out, and why.
    """

    count: int = 0
    labels: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def survey(paths: Sequence[Path], where: str) -> Survey:
    """Look through shards; a ValueError if one is damaged, or no sample is whole."""
    found, total = Survey(), 0
    lost: defaultdict[str, list[str]] = defaultdict(list)  # names, by what is wrong with them
    for path in paths:
        for sample in tar.read(path, lambda member, tar: True):
            total, name = total + 1, f"{path} {sample.key}"
            with tar.whole(str(path)):
                label = None if sample.label is None else tar.label(sample.label, f"{sample.key}.cls")
            if sample.more:
                lost["have several images, of which the first is used"].append(name)
            if sample.image is None or label is None or label < 0:
                lost[_why_lost(sample, label)].append(name)
                continue
            found.count += 1
            found.labels.setdefault(label, name)
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


def _why_lost(sample: tar.Sample[Any], label: int | None) -> str:
    if sample.image is None:
        return "have a label and no image"
    return "have no label" if label is None else "have a negative label, which means none"
