"""What several verbs need: names for what they make, checks, and lines to tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from convneur.notes import model_identity as model_identity
from convneur.printing import Console, Table, markdown_code

if TYPE_CHECKING:
    from convneur.recipes.fitting import Kept


def tell_notes(notes: Sequence[str], console: Any) -> None:
    """What was left out of the data, and why."""
    for note in notes:
        console.print(note, style="yellow")


def tell_whole(source: Any, console: Any) -> None:
    """That nothing of the data is held out, since no run of the model's is known to have learned from it.

    Of data without images to train on there is nothing to hold out.
    """
    if source.held_out.startswith("all of "):
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


def tell_missing(known: Sequence[str], found: Sequence[str], console: Any) -> None:
    """Classes of a model that the data does not have."""
    missing = [name for name in known if name not in set(found)]
    if missing:
        console.print(f"classes that the data does not have, and are not judged: {', '.join(missing)}", style="yellow")


def listed_classes(classes: Sequence[str]) -> str:
    """The first classes, as a model card names them."""
    return ", ".join(map(markdown_code, classes[:20])) + (", ..." if len(classes) > 20 else "")


def epochs_line(kept: Sequence[Kept]) -> str:
    """Of which epochs the models of a run are."""
    return "; ".join(each.words() for each in kept)


def epochs_sentence(kept: Sequence[Kept]) -> str:
    """The same at the end of a paragraph of a model card."""
    return f" {epochs_line(kept)}." if kept else ""


def epochs_json(kept: Sequence[Kept]) -> dict[str, Any]:
    """The same for metrics.json, by folder."""
    return {each.folder: {"epoch": each.epoch, "weights": each.which, "metric": each.metric} for each in kept}


def card_beside(name: str, kept: Kept) -> str:
    """Card of a model that lies beside the one that was judged."""
    return f"# {markdown_code(name)}\n\n{kept.words()}. The numbers in metrics.json and report.html are of model/.\n"


def check_size(image_size: int | None, least: int = 1) -> None:
    """Refuse a size of no pixels, or of fewer."""
    if image_size is not None and image_size < least:
        raise ValueError(f"--image-size {image_size} is out of range; give at least {least}")


def last_words(command: str, versions: Mapping[str, str], kept: Sequence[Kept] = ()) -> str:
    """Last line of a report: the epochs of a run's models, the command and the versions that made it."""
    made_by = f"{command}   ({', '.join(f'{name} {version}' for name, version in versions.items())})"
    return f"{epochs_line(kept)}; {made_by}" if kept else made_by
