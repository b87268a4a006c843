"""What evaluating and predicting give back, whatever the task: numbers, tables and pictures, on screen and on disk."""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from convneur.files import StrPath, write_atomic
from convneur.printing import Console, Table, csv_text, html_text, markdown_code, shortened
from convneur.reports import Section, figures, write_report
from convneur.reports.page import made_by, unreadable_files, versions
from convneur.training.kept import epochs_line
from convneur.training.run import RunSummary

NO_RUN = RunSummary([], {}, {}, [])


class EvaluationResult(ABC):
    """How good a model is on labelled images.

    Attributes:
        name: Of the model.
        classes: Names.
        curve_words: Labels of the learning curves, by the name of the metric.
        answers: What the model said, and what it is worth; the tasks have more of that.
    """

    name: str
    classes: Sequence[str]
    curve_words: ClassVar[Mapping[str, str]]
    answers: Any

    @property
    @abstractmethod
    def numbers(self) -> dict[str, Any]:
        """What metrics.json has of the answers, as JSON can hold it: null where there is nothing to measure."""

    @abstractmethod
    def rows(self) -> list[list[str]]:
        """Table of the whole; the first row is its head."""

    @abstractmethod
    def summary(self) -> str:
        """The outcome in one sentence."""

    @abstractmethod
    def sections(self) -> list[Section]:
        """Parts of the report, after the numbers and the learning curves."""

    @abstractmethod
    def predictions(self) -> Iterable[Mapping[str, Any]]:
        """Each image's answer, in the order of the images; the first key is ``file``."""

    @abstractmethod
    def card(self, command: str, epochs: str) -> str:
        """Model card, of a model that this is the evaluation of."""

    @property
    def images(self) -> int:
        """How many could be read."""
        return len(self.answers.indices)

    @property
    def unreadable(self) -> dict[str, str]:
        """Files that could not be read, and why."""
        found: dict[str, str] = self.answers.unreadable
        return found

    def save(self, folder: StrPath, command: str = "", run: RunSummary = NO_RUN) -> None:
        """Write metrics.json, predictions.csv and, last of all, report.html.

        Args:
            folder: Made if it is not there.
            command: That made it, for the report.
            run: What is to be said of the training.

        Raises:
            FileExistsError: If the folder holds a training run, and this is no evaluation of that run at its end.
            OSError: If it cannot be written.
        """
        out = Path(folder).expanduser()
        if run is NO_RUN and (out / "run.json").is_file():
            raise FileExistsError(f"{out} holds a training run, which would be written over; give another folder")
        out.mkdir(parents=True, exist_ok=True)
        epochs = epochs_line(run.kept)
        if run.kept:
            write_atomic(out / "model" / "README.md", self.card(command, f" {epochs}."))
        models = {each.folder: {"epoch": each.epoch, "weights": each.which, "metric": each.metric} for each in run.kept}
        self.add_summary(run)
        numbers = {
            "model": self.name,
            "images": self.images,
            **self.numbers,
            "unreadable": run.unreadable | self.unreadable,
            "curve": list(run.curve),
            **({"models": models} if models else {}),
            "command": command,
            "versions": versions(),
        }
        write_atomic(out / "metrics.json", json.dumps(numbers, indent=2) + "\n")
        rows = list(self.predictions())
        cells = [list(rows[0])] + [list(row.values()) for row in rows] if rows else []
        write_atomic(out / "predictions.csv", csv_text(cells))
        self.save_more(out)
        sections = [Section("Numbers", "", table=self.rows())]
        if run.curve:
            words = {key: label for key, label in self.curve_words.items() if any(key in row for row in run.curve)}
            sections.append(Section("Learning curves", "", figures.curves({self.name: run.curve}, words)))
        sections += self.sections() + unreadable_files(run.unreadable | self.unreadable)
        title = f"{self.name} on {len(self.classes)} classes"
        last = made_by(command)
        write_report(out / "report.html", title, self.summary(), sections, f"{epochs}; {last}" if epochs else last)

    def add_summary(self, run: RunSummary) -> None:  # noqa: B027  most tasks have nothing to add
        """Take over what training found out of the images."""

    def save_more(self, folder: Path) -> None:  # noqa: B027
        """Write what only this task has."""

    def show(self, *last_lines: str) -> None:
        """Print the numbers, what could not be read, and ``last_lines``."""
        console, (head, *rows) = Console(), self.rows()
        table = Table(title=f"{self.name}, {self.images:,} held-out images", show_header=len(head) > 2)
        for place, name in enumerate(head):
            table.add_column(name, justify="right" if place else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        for line in (*self.notes(), *last_lines):
            console.print(line)

    def notes(self) -> list[str]:
        """Lines on what could not be used."""
        return first_of(self.unreadable, "files could not be read")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.summary()!r})"

    def _repr_html_(self) -> str:
        head, *rows = ([html_text(cell) for cell in row] for row in self.rows())
        body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
        top = "".join(f"<th>{cell}</th>" for cell in head)
        return f"<p>{html_text(self.summary())}</p><table><tr>{top}</tr>{body}</table>"


def first_of(found: Mapping[str, object], what: str) -> list[str]:
    """A line that counts files and names the first; none if there are none."""
    if not found:
        return []
    name, reason = next(iter(found.items()))
    return [f"{len(found)} {what}; the first: {name} ({reason})"]


def listed_classes(classes: Sequence[str]) -> str:
    """The first classes, as a model card names them."""
    return ", ".join(map(markdown_code, classes[:20])) + (", ..." if len(classes) > 20 else "")


@dataclass
class Prediction(ABC):
    """What a model says of one image.

    Attributes:
        file: Name of the image.
        picture: Decodes the image: most answers are read, and not looked at.
    """

    file: str
    picture: Callable[[], Image.Image] = field(repr=False)

    @property
    def image(self) -> Image.Image:
        """As people see it, RGB."""
        return self.picture()

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The answer, as JSON can hold it."""

    @abstractmethod
    def plot(self) -> Image.Image:
        """The image with the answer on it."""

    def __getattr__(self, name: str) -> Any:
        """Say what an answer has where it does not have ``name``, as that of a classifier has no ``boxes``."""
        if name.startswith("_"):
            raise AttributeError(name)
        known = ", ".join(each for each in dir(self) if not each.startswith("_"))
        raise AttributeError(f"{type(self).__name__} has no {name}; it has {known}", name=name, obj=self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({shortened(str(self.to_dict()), 200)})"

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.plot().save(buffer, "png")
        return buffer.getvalue()


class Predictions(list[Prediction]):
    """What a model says of images, in their order.

    Attributes:
        unreadable: Names of images that could not be read and were skipped, and why.
    """

    def __init__(self, found: Iterable[Prediction] = (), unreadable: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(found)
        self.unreadable = list(unreadable)
