"""What several verbs need: names for what they make, checks, and lines to tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convneur.files import file_stem
from convneur.printing import Console, Table, markdown_code

MADE = ".convneur-{}"  # names the files of a folder that an earlier call of a verb made, and the next may replace


class Outputs:
    """Names for what is made from files: none is used twice, and nothing of somebody else is written over.

    Args:
        out: Folder for what is made; it is created.
        verb: What makes it.
    """

    def __init__(self, out: Path, verb: str = "predict") -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.note = out, out / MADE.format(verb)
        made = set(self.note.read_text(encoding="utf-8").splitlines()) if self.note.is_file() else set()
        self.taken = {path.name for path in out.iterdir()} - made
        self.made = made

    def free(self, stem: str, ends: Sequence[str]) -> list[Path]:
        """Paths that begin with ``stem`` or, if one is taken, with a number behind it, and end as given."""
        stem = file_stem(stem)
        names, number = [stem + end for end in ends], 1
        while self.taken & set(names):
            number += 1
            names = [f"{stem}-{number}{end}" for end in ends]
        self.taken |= set(names)
        with self.note.open("a", encoding="utf-8") as note:  # before the files, and without writing all names again
            note.writelines(f"{name}\n" for name in names if name not in self.made)
        return [self.out / name for name in names]


def tell_notes(notes: Sequence[str], console: Any) -> None:
    """What was left out of the data, and why."""
    for note in notes:
        console.print(note, style="yellow")


def require_no_run(out: Path) -> None:
    """Refuse a folder whose numbers and report are those of a training run.

    Raises:
        FileExistsError: If it is one.
    """
    if (out / "run.json").is_file():
        raise FileExistsError(f"--out {out} holds a training run, which would be written over; give another --out")


def tell_whole(source: Any, console: Any) -> None:
    """That nothing of the data is held out, since no run of the model's is known to have learned from it."""
    if source.train is source.val:
        console.print(f"all {len(source.val):,} images are judged by; --val-share judges by a share of them")


def tell_unreadable(rows: Sequence[Any], unreadable: Sequence[tuple[str, str]], console: Any) -> int:
    """Name files that could not be read, and why; the exit code, which is 2 if nothing came of any."""
    for name, reason in unreadable:
        console.print(f"convneur: {name} could not be read ({reason})")
    return 0 if rows else 2


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output, unless it has no rows."""
    table = Table(box=None, header_style="bold")
    for name in head:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    if rows:
        Console().print(table)


def other_classes(known: Sequence[str], found: Sequence[str]) -> str:
    """What to say where a model and data do not have the same classes."""
    few = [", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "") for names in (known, found)]
    return f"the model knows the classes {few[0]} and the data has {few[1]}; give data of the same classes"


def listed_classes(classes: Sequence[str]) -> str:
    """The first classes, as a model card names them."""
    return ", ".join(map(markdown_code, classes[:20])) + (", ..." if len(classes) > 20 else "")


def check_size(image_size: int | None, least: int = 1) -> None:
    """Refuse a size of no pixels, or of fewer."""
    if image_size is not None and image_size < least:
        raise ValueError(f"--image-size {image_size} is out of range; give at least {least}")


def last_words(command: str, versions: Mapping[str, str]) -> str:
    """Last line of a report: the command and versions that made it."""
    return f"{command}   ({', '.join(f'{name} {version}' for name, version in versions.items())})"
