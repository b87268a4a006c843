"""Rows of the tables of docs/files.md, which tests hold true."""

from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "files.md"


def rows(heading: str) -> list[tuple[str, ...]]:
    """Cells of the rows of the table below a heading."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
