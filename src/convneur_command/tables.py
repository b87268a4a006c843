"""What verbs print of many files: a table for people, JSON lines or CSV for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], marked: Sequence[int] = ()) -> None:
    """A table on standard output, unless it has no rows.

    Args:
        head: Headings.
        rows: Cells.
        marked: Numbers of the columns that are numbers.
    """
    from convneur.printing import Console, Table

    table = Table(box=None, header_style="bold")
    for place, name in enumerate(head):
        table.add_column(name, overflow="fold", justify="right" if place in marked else "left")
    for row in rows:
        table.add_row(*row)
    if rows:
        Console().print(table)


def printed_for_programs(rows: Sequence[Any], format: str, head: Sequence[str], flat: Sequence[Sequence[Any]]) -> bool:
    """Print JSON lines of the rows, or CSV of ``flat``; whether that was asked for."""
    from convneur.printing import print_csv, print_json

    if format == "jsonl":
        for row in rows:
            print_json(row)
    elif format == "csv":
        print_csv([head, *flat])
    return format != "table"


def tell_unreadable(rows: Sequence[Any], unreadable: Sequence[tuple[str, str]], console: Any) -> int:
    """Name files that could not be read, and why; the exit code, which is 2 if nothing came of any."""
    for name, reason in unreadable:
        console.print(f"convneur: {name} could not be read ({reason})")
    return 0 if rows else 2
