"""Labels as people write them, as numbers from 0; what is no label is refused by its row, or left out and named."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

MOST_CLASSES = 1_000_000
FEW = 0.1  # share of labelled images; below it the labels may lie elsewhere, and that is said


class Numbered(NamedTuple):
    """Classes of the rows of a table that have one, which rows those are, names in the order of the numbers, and what
    was left out and why."""

    numbers: list[int]
    rows: list[int]
    classes: list[str]
    notes: list[str]


def numbered(
    labels: Sequence[Any], classes: list[str] | None, origin: str, place: Callable[[int], str] | None = None
) -> Numbered:
    """Numbers of classes, from numbers (whole ones may be floats) or names; rows of negative numbers have no label.

    Args:
        labels: Of the rows.
        classes: Names in the order of the numbers; None to take those that occur.
        origin: What the labels are of, for messages.
        place: Where a row is, for messages; ``ORIGIN row NUMBER`` if not given.

    Raises:
        ValueError: If a label is none, or there are none.
    """
    where = place or (lambda row: f"{origin} row {row}")
    if not labels:
        raise ValueError(f"{origin} has no rows; give data with images")
    values = [_value(label, where, row) for row, label in enumerate(labels)]
    texts = [row for row, value in enumerate(values) if isinstance(value, str)]
    if texts and len(texts) < len(values):
        other = next(row for row, value in enumerate(values) if not isinstance(value, str))
        raise ValueError(
            f"{where(texts[0])} has the label {labels[texts[0]]!r} and {where(other)} {labels[other]!r}; give all "
            "labels as names, or all as numbers from 0"
        )
    if texts:
        return _of_names([str(value) for value in values], classes, where)
    return _of_numbers([int(value) for value in values], classes, origin, where)


def _value(label: Any, where: Callable[[int], str], row: int) -> int | str:
    """A label as a whole number or a name."""
    if isinstance(label, bytes):
        try:
            label = label.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{where(row)} has a label of bytes that are no text; give a number or a name") from None
    if isinstance(label, int) or (isinstance(label, str) and label.strip()):
        return label
    if label is None or isinstance(label, str) or (isinstance(label, (float, Decimal)) and math.isnan(label)):
        raise ValueError(f"{where(row)} has no label; remove rows without one, or write -1 to leave them out")
    if isinstance(label, (float, Decimal)) and math.isfinite(label) and label == int(label):
        return int(label)
    shown = repr(label) if len(repr(label)) <= 40 else f"{repr(label)[:39]}…"
    raise ValueError(f"{where(row)} has the label {shown}; give a whole number from 0 or a name")


def _of_names(names: list[str], classes: list[str] | None, where: Callable[[int], str]) -> Numbered:
    notes = []
    if classes is None:
        classes = sorted(set(names))
        if all(name.isdigit() for name in classes) and classes != sorted(classes, key=int):
            notes.append(
                f"the labels are texts of digits and sorted as texts: {', '.join(classes[:4])}, ...; numbers keep "
                "their order"
            )
    number = {name: i for i, name in enumerate(classes)}
    for row, name in enumerate(names):
        if name not in number:
            raise ValueError(
                f"{where(row)} has the label {name!r}, which is no class; the classes are {shown_names(classes)}"
            )
    check_names(classes, where(0))
    return Numbered([number[name] for name in names], list(range(len(names))), classes, notes)


def _of_numbers(numbers: list[int], classes: list[str] | None, origin: str, where: Callable[[int], str]) -> Numbered:
    rows = [row for row, number in enumerate(numbers) if number >= 0]
    if not rows:
        raise ValueError(
            f"none of {len(numbers):,} images of {origin} has a label, all are negative; give data with labels"
        )
    notes = []
    if len(rows) < len(numbers):
        first = next(row for row, number in enumerate(numbers) if number < 0)
        notes += left_out_notes(
            len(numbers) - len(rows), len(numbers), f"of {origin} have a negative label, which means none", where(first)
        )
    kept = [numbers[row] for row in rows]
    classes = classes or number_names([max(kept)], origin)
    if max(kept) >= len(classes):
        row = next(row for row in rows if numbers[row] >= len(classes))
        raise ValueError(
            f"{where(row)} has the label {numbers[row]}, and there are {len(classes)} classes, numbered from 0; name "
            "more classes, or mend the label"
        )
    return Numbered(kept, rows, classes, notes)


def left_out_notes(count: int, total: int, why: str, first: str) -> list[str]:
    """What to tell of images that have no label: how many, why and which is the first; and that few are left."""
    notes = [f"{count:,} of {total:,} images {why}; they were left out; the first: {first}"]
    if total - count < FEW * total:
        notes.append(f"only {(total - count) / total:.1%} of the images have a label; is that meant?")
    return notes


def number_names(labels: Iterable[int], origin: str) -> list[str]:
    """Names of classes that only numbers are known of; a ValueError if there would be too many."""
    if (top := max(labels)) >= MOST_CLASSES:
        raise ValueError(f"{origin} has a label {top}, and {MOST_CLASSES:,} classes are the most; number them from 0")
    return [str(number) for number in range(top + 1)]


def check_names(classes: Sequence[str], origin: str) -> None:
    """Refuse names that differ in nothing but the case of their letters; single letters are classes of their own."""
    seen: dict[str, str] = {}
    for name in classes:
        before = seen.setdefault(name.casefold(), name)
        if before != name and len(name) > 1:
            raise ValueError(
                f"{origin} has the classes {before!r} and {name!r}, which differ in capitals only; rename one of them"
            )


def shown_names(names: Sequence[str], most: int = 5) -> str:
    """The first of some names, and how many there are."""
    return ", ".join(names[:most]) + (f", ... ({len(names)})" if len(names) > most else "")
