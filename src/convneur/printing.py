"""What is shown is text: names and reasons come from files of strangers, and nothing that shows them obeys them.

All of the package prints through here: lines and tables on a terminal, and JSON, CSV and columns for other programs.
What goes into pages and model cards is made text here, too.
"""

from __future__ import annotations

import html
import io
import json
import logging
import mmap
import os
import re
import sys
import unicodedata
import warnings
import zlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rich import box, console, progress
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

__all__ = [
    "BarColumn",
    "Console",
    "MofNCompleteColumn",
    "Progress",
    "Table",
    "TaskProgressColumn",
    "TextColumn",
    "TimeElapsedColumn",
    "TimeRemainingColumn",
    "box",
    "csv_text",
    "flush",
    "guard_process",
    "html_text",
    "json_text",
    "lines",
    "markdown_code",
    "print_csv",
    "print_json",
    "print_row",
    "printable",
    "shortened",
    "status",
    "tell_notes",
]

FILE_WIDTH = 10_000  # of a table that goes to a file or a pipe, so that no name in it is broken
HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode's controls, formats (bidi and tags among them), surrogates, line ends
JOINERS = "\u200c\u200d"  # formats without which Persian, Hindi and many emoji are other words
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # as OWASP lists them


def printable(text: str) -> str:
    r"""One line that shows what is in ``text``: what would move, colour, turn or hide it is spelled out, as ``\x1b``.

    Letters of all scripts and emoji stay as they are.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(letter.encode("unicode_escape").decode() if _hidden(letter) else letter for letter in text)


def shortened(text: str, most: int = 40) -> str:
    """A printable text of so many letters at most, for pictures: a name may have thousands."""
    shown = printable(text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def html_text(text: str, quote: bool = True) -> str:
    """Text as a page shows it between tags, and with ``quote`` in attributes, too."""
    return html.escape(printable(text), quote)


def markdown_code(text: str) -> str:
    """Text as a card in Markdown shows it: a span of code, within which nothing is a link, a tag or a formula."""
    shown = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    space = " " if "`" in shown or not shown.strip() else ""
    return f"{fence}{space}{shown}{space}{fence}"


def _hidden(letter: str) -> bool:
    return unicodedata.category(letter) in HIDDEN and letter not in JOINERS


class Console(console.Console):
    """A console to which a string is text: no markup, no codes of emoji, no control characters; a line stays one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)
        if not self.is_terminal and "COLUMNS" not in os.environ and "width" not in options:
            self.width = FILE_WIDTH

    def render_str(self, text: str, **options: Any) -> Text:
        """Make text of a string: of what is printed, and of the cells and titles of tables."""
        return super().render_str(printable(text), **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; lines are not broken, so that names in them can be copied and searched for."""
        options.setdefault("soft_wrap", all(isinstance(each, str) for each in objects))
        super().print(*objects, **options)

    def status(self, status: console.RenderableType, **options: Any) -> Any:
        """Show what is done as long as it takes; rich would take a string for markup here."""
        return super().status(self.render_str(status) if isinstance(status, str) else status, **options)


def status(text: str, shown: bool = True) -> AbstractContextManager[Any]:
    """Show on standard error what is done as long as it takes."""
    found: AbstractContextManager[Any] = Console(stderr=True).status(text) if shown else nullcontext()
    return found


class TextColumn(progress.ProgressColumn):
    """Text beside a bar, with fields such as ``{task.description}``; that of rich is markup."""

    def __init__(self, text_format: str) -> None:
        super().__init__()
        self.text_format = text_format

    def render(self, task: progress.Task) -> Text:
        """Fill in the fields."""
        return Text(printable(self.text_format.format(task=task)))


class Progress(progress.Progress):
    """A bar whose description is text."""

    @classmethod
    def get_default_columns(cls) -> tuple[progress.ProgressColumn, ...]:
        """Description, bar, share and time."""
        return TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()


def tell_notes(notes: Iterable[str], console: Console) -> None:
    """What was left out of the data, and why."""
    for note in notes:
        console.print(note, style="yellow")


def lines(texts: Iterable[str]) -> Text:
    """Several lines, where a table takes one text: its caption."""
    return Text("\n".join(map(printable, texts)))


def json_text(value: object, indent: int | None = None, ascii_only: bool = False) -> str:
    """JSON that says exactly ``value`` and can be shown: what is not printable is escaped, as JSON does it."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    if text.isascii() and "\x7f" not in text:  # the other controls among ASCII are escaped by json
        return text
    return "".join(_json_escape(letter) if _hidden(letter) and letter != "\n" else letter for letter in text)


def _json_escape(letter: str) -> str:
    units = letter.encode("utf-16-be", "surrogatepass").hex()
    return "".join(rf"\u{units[place : place + 4]}" for place in range(0, len(units), 4))


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Lines of CSV whose text no spreadsheet takes for a formula: such text gets a ``'`` before it, numbers stay.

    Text with a semicolon is quoted, too: in many countries spreadsheets take that for the end of a cell.
    """
    return "".join(",".join(map(_cell, row)) + "\n" for row in rows)


def _cell(value: object) -> str:
    if not isinstance(value, str):
        return "" if value is None else str(value)
    text = f"'{printable(value)}" if value.startswith(FORMULAS) else printable(value)
    return '"{}"'.format(text.replace('"', '""')) if not text or set(text) & set(',;"') else text


def print_json(value: object, indent: int | None = None) -> None:
    """A value on standard output, as JSON in whatever encoding that has."""
    ascii_only = not (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    sys.stdout.write(json_text(value, indent, ascii_only) + "\n")


def print_csv(rows: Iterable[Sequence[object]]) -> None:
    """Rows on standard output, as `csv_text`."""
    sys.stdout.write(csv_text(rows))


def print_row(*cells: str) -> None:
    """A line on standard output, with tabs between its cells."""
    sys.stdout.write("\t".join(map(printable, cells)) + "\n")


def flush() -> None:
    """Hand on what was printed; for who ends the process at once."""
    sys.stdout.flush()
    sys.stderr.flush()


class _Formatter(logging.Formatter):
    """A logged message on one line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  logging's own name
        return printable(super().formatMessage(record))


class Told(UserWarning):
    """What convneur itself warns of: the command says it in a plain line, without the place in the code."""


_format_warning = warnings.formatwarning
_told = mmap.mmap(-1, mmap.PAGESIZE)  # which lines were told, a byte for each; processes that load images share it


def _format_printable(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    text = printable(str(message))
    place = zlib.crc32(text.encode(errors="backslashreplace")) % len(_told)
    before, _told[place] = _told[place], 1
    if before:  # Python forgets what it warned of whenever a library changes the filters
        return ""
    return (
        f"convneur: {text}\n" if issubclass(category, Told) else _format_warning(text, category, filename, lineno, line)
    )


def guard_process() -> None:
    """For the command's own process: no name ends in an encoding error, and what other packages warn of is text."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:  # what prints where nobody has set up logging
        logging.lastResort.setFormatter(_Formatter())
    warnings.formatwarning = _format_printable
