"""A self-contained HTML page: headings, text, tables and pictures in one file, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convneur.files import StrPath, write_atomic
from convneur.printing import html_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin-bottom: .3rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
table { border-collapse: collapse; margin: 1rem 0; } caption { text-align: left; opacity: .75; }
th, td { padding: .35rem .9rem; border-bottom: 1px solid #8884; text-align: right; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; background: #fff; border-radius: 6px; } code { font-size: .92em; }
p.note { opacity: .75; }
"""


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


def write_report(path: StrPath, title: str, lead: str, sections: Sequence[Section], note: str) -> None:
    """Write the page atomically.

    Args:
        path: Of the file; its folder must exist.
        title: Of the page.
        lead: First paragraph: the outcome in one sentence.
        sections: Parts in order.
        note: Last line: the command and versions that made it.
    """
    parts = [f"<h1>{html_text(title)}</h1><p>{html_text(lead)}</p>"]
    for section in sections:
        parts.append(f"<h2>{html_text(section.title)}</h2><p>{html_text(section.text)}</p>")
        if section.table is not None:
            parts.append(_table(section.table))
        parts.append(section.markup)
        if section.figure is not None:
            parts.append(f'<img alt="{html_text(section.title)}" src="{data_url(png(section.figure))}">')
    parts.append(f'<p class="note"><code>{html_text(note)}</code></p>')
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html_text(title)}</title><style>{STYLE}</style><body>{''.join(parts)}</body></html>"
    )
    write_atomic(Path(path).expanduser(), page)


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

    from convneur import __version__

    cpu = f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu
    return {
        "convneur": __version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
        "machine": f"{device}, {torch.get_num_threads()} threads",
    }


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = ([html_text(cell) for cell in row] for row in rows)
    top = "".join(f"<th>{cell}</th>" for cell in head)
    rest = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body)
    return f"<table><tr>{top}</tr>{rest}</table>"


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
