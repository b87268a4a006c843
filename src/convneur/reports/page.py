"""A self-contained HTML page: headings, text, tables and pictures in one file, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from convneur.files import StrPath, write_atomic
from convneur.printing import printable

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Section:
    """One part of a report.

    Attributes:
        title: Heading.
        text: What the reader sees below, in a sentence or two.
        figure: Picture, if any.
        table: Rows of cells, the first one being the head, if any.
        markup: HTML, taken as it is.
    """

    title: str
    text: str
    figure: Figure | None = None
    table: Sequence[Sequence[str]] | None = None
    markup: str = ""


def write_report(path: StrPath, title: str, summary: str, sections: Sequence[Section], note: str) -> None:
    """Write the page atomically.

    Args:
        path: Of the file; its folder must exist.
        title: Of the page.
        summary: First paragraph: the outcome in one sentence.
        sections: Parts in order.
        note: Last line: the command and versions that made it.
    """
    page = _template().render(title=title, summary=summary, sections=sections, note=note)
    write_atomic(Path(path).expanduser(), page)


@lru_cache(maxsize=1)
def _template() -> Template:
    """The page; whatever a template shows is text (`printable`), and escaped."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("convneur.reports"), autoescape=True, finalize=_shown, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["data_url"] = lambda figure: data_url(png(figure))
    return environment.get_template("page.html")


def _shown(value: object) -> object:
    return printable(value) if type(value) is str else value  # Markup is made by us, and stays


def unreadable_files(found: Mapping[str, str]) -> list[Section]:
    """The part on files that could not be read, and why; none if all could."""
    if not found:
        return []
    rows = [["file", "why"], *([name, why] for name, why in sorted(found.items())[:100])]
    return [Section("Unreadable files", f"{len(found)} files could not be read and were left out.", table=rows)]


def versions() -> dict[str, str]:
    """What a report says of the software and the machine that made it."""
    import platform

    import timm
    import torch

    from convneur_options import __version__

    cpu = f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu
    return {
        "convneur": __version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
        "machine": f"{device}, {torch.get_num_threads()} threads",
    }


def made_by(command: str) -> str:
    """Last line of a report: the command and the versions that made it."""
    return f"{command}   ({', '.join(f'{name} {version}' for name, version in versions().items())})"


def png(figure: Figure) -> bytes:
    """The picture as a file; all its words are text, and ``$`` begins no formula."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # names in scripts that the font lacks are boxes, and no fault of the user's
        warnings.filterwarnings("ignore", "Glyph .* missing from|Matplotlib currently does not support")
        figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return buffer.getvalue()


def data_url(image: bytes, kind: str = "png") -> str:
    """An image file as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"
