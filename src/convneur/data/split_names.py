"""Which names mean which part of a data set: one rule for folders, files, lists and splits of every format.

What is called ``val`` is judged by during training. What is called ``test`` is kept until it is asked for.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

Part = Literal["train", "val", "test"]
Judged = Literal["val", "test"]  # parts that a model can be judged by

WORDS: dict[str, Part] = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "valset", "dev", "devset", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
}
FILLERS = {"set", "split", "part", "data", "dataset", "image", "images", "img", "imgs", "dir", "folder", "files"}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # also of TrainSet


def part_of(name: str) -> Part | None:
    """The part that a name means as a whole: ``Training``, ``train2017``, ``test_set``; None for any other name."""
    words = [word for word in map(str.lower, _WORD.findall(name)) if word not in FILLERS]
    return WORDS.get(words[0]) if len(words) == 1 and name.isascii() else None


def find_parts(names: Iterable[str], where: Path | str) -> dict[Part, str]:
    """Which of some names is which part.

    Raises:
        ValueError: If two names mean the same part.
    """
    found: dict[Part, str] = {}
    for name in sorted(names):
        part = part_of(name)
        if part is not None and found.setdefault(part, name) != name:
            raise ValueError(
                f"{where} has {found[part]} and {name}, which both mean the part {part}; keep one of them, or put all "
                "of it into one"
            )
    return found


def group_files(files: Iterable[Path], where: Path | str) -> tuple[dict[Part, list[Path]], list[Path]]:
    """Files by the part that a word in their names says, such as ``train-00000-of-00002`` and ``set_test``.

    Returns:
        Files of each part, and those of no part, or of several.

    Raises:
        ValueError: If a part is spelled in two ways: it may be there twice.
    """
    found: defaultdict[Part, list[Path]] = defaultdict(list)
    spelled: dict[Part, tuple[str, Path]] = {}
    rest: list[Path] = []
    for file in sorted(files):
        words = [word for word in _WORD.findall(file.name.split(".")[0]) if word.lower() in WORDS]
        parts = {WORDS[word.lower()] for word in words}
        if len(parts) != 1:
            rest.append(file)
            continue
        (part,) = parts
        word, first = spelled.setdefault(part, (words[0], file))
        if word != words[0]:
            raise ValueError(
                f"{where} has {first.name} and {file.name}, which both mean the part {part}; keep one of them, or give "
                "all of the part the same name"
            )
        found[part].append(file)
    return dict(found), rest


def look_alike(names: Iterable[str]) -> tuple[str, str] | None:
    """Two names that differ in nothing but the part they speak of, such as ``seg_train`` and ``seg_test``."""
    seen: dict[tuple[str, ...], tuple[Part, str]] = {}
    for name in sorted(names):
        words = tuple(map(str.lower, _WORD.findall(name)))
        for place, word in enumerate(words):
            if part := WORDS.get(word):
                key = (*words[:place], "", *words[place + 1 :])
                before = seen.setdefault(key, (part, name))
                if before[0] != part:
                    return before[1], name
    return None


def no_part(where: Path | str, part: Part, there: Mapping[Part, str]) -> ValueError:
    """What to raise where a part is wanted that the data does not have; ``there`` is what it has, in words."""
    has = ", ".join(there.values()) or "no parts"
    fix = "leave --part out, or add it" if part == "test" else "add it"
    if part == "val" and "test" in there:
        fix = "add it, or have eval judge by --part test"
    return ValueError(f"{where} has no part {part} (it has {has}); {fix}")
