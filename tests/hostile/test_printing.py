"""What is shown is text, whatever it holds: the one module that prints, and that nothing prints beside it."""

import ast
import csv
import html
import io
import json
import logging
import os
import subprocess
import sys
import unicodedata
import warnings
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import convneur
import convneur_command.main
from convneur import printing
from convneur.files import file_stem
from tests.hostile.names import NASTY, ORDINARY

# The command itself answers before the package is imported.
ALLOWED = {Path(printing.__file__), Path(convneur_command.main.__file__)}
SOURCES = sorted({*Path(convneur.__file__).parents[1].glob("convneur*/**/*.py")} - ALLOWED)
BESIDE = {"print", "input"}
nasty = pytest.mark.parametrize("name", NASTY.values(), ids=NASTY)


def harmless(text: str) -> bool:
    """Whether a terminal shows all of a text, and does nothing else."""
    return not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in "\u202e\u2066\u2069" for c in text)


def console(width: int = 30_000, **options) -> tuple[printing.Console, io.StringIO]:
    file = io.StringIO()
    return printing.Console(file=file, width=width, **options), file


@nasty
def test_a_line_shows_all_of_a_name_and_nothing_else_happens(name):
    shown = printing.printable(name)
    assert harmless(shown)
    if harmless(name):
        assert shown == name
    else:
        assert shown.encode("ascii").decode("unicode_escape") == name


@pytest.mark.parametrize("name", ORDINARY)
def test_letters_of_all_scripts_stay(name):
    assert printing.printable(name) == name
    assert json.loads(printing.json_text(name)) == name
    assert name in printing.json_text(name) or "\\" in name
    assert list(csv.reader([printing.csv_text([[name]])])) == [[name]]


@nasty
@pytest.mark.parametrize("style", [None, "yellow"])
def test_lines_and_tables_hold_names_as_they_are(name, style):
    shown = printing.printable(name)
    out, file = console()
    out.print(f"{name} could not be read ({name})", style=style)
    assert file.getvalue() == f"{shown} could not be read ({shown})\n"
    out, file = console()
    table = printing.Table(title=name, caption=name)
    table.add_column(name)
    table.add_row(name)
    table.caption = printing.lines([name, name])
    out.print(table)
    assert harmless(file.getvalue().replace("\n", ""))
    assert file.getvalue().count(shown.strip()) >= 5


@nasty
def test_what_is_drawn_while_one_waits_is_text(name, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    out, file = console(force_terminal=True, _environ={"TERM": "xterm"}, color_system=None)
    with out.status(f"Loading {name}"):
        pass
    with printing.Progress(console=out) as progress:
        progress.update(progress.add_task(name, total=1), completed=1)
    assert file.getvalue().replace("\r", "").count(printing.printable(name).split()[0]) >= 2
    assert name not in file.getvalue() or harmless(name)


@nasty
def test_json_is_exact_and_harmless(name):
    text = printing.json_text({name: [name]}, indent=1)
    assert json.loads(text) == {name: [name]}
    assert harmless(text.replace("\n", ""))
    assert printing.json_text(name, ascii_only=True).isascii()
    assert json.loads(printing.json_text(name, ascii_only=True)) == name


def test_semicolons_part_no_cells():
    rows = [["a;=1+1", 'say "=1;2"', ""], ["plain", "x,y", "b"]]
    text = printing.csv_text(rows)
    assert text.splitlines() == ['"a;=1+1","say ""=1;2""",""', 'plain,"x,y",b']
    assert list(csv.reader(io.StringIO(text))) == rows


@nasty
def test_csv_has_no_formulas_and_numbers_stay(name):
    text = printing.csv_text([[name, -1.5, None, 7]])
    ((cell, *numbers),) = csv.reader(io.StringIO(text))
    assert numbers == ["-1.5", "", "7"]
    assert cell.removeprefix("'") == printing.printable(name)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert harmless(text.rstrip("\n"))


class Tags(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not any(key.startswith("on") for key, _ in attrs)

    def handle_data(self, data):
        self.words.append(data)


@nasty
def test_pages_and_cards_show_names_as_they_are(name):
    page = Tags(f'<p title="{printing.html_text(name)}">{printing.html_text(name)}</p>')
    assert page.tags == ["p"]
    assert "".join(page.words) == printing.printable(name)
    card = MarkdownIt("commonmark").render(f"Classes: {printing.markdown_code(name)}, {printing.markdown_code('b')}.")
    assert Tags(card).tags == ["p", "code", "code"]
    assert html.escape(printing.printable(name).strip(), quote=False) in card.replace("&quot;", '"')


@nasty
def test_stems_of_files_are_names_of_files(name, tmp_path):
    stem = file_stem(name)
    assert harmless(stem)
    path = tmp_path / f".{stem}-written-channel.png-12345678"
    path.write_text("x")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_stems_of_other_scripts_are_cut_between_letters():
    assert file_stem("猫" * 85) == "猫" * 53
    assert [file_stem(name) for name in ("a[1] b", "..", "")] == ["a[1] b", "..", ""]


@pytest.mark.slow
def test_no_encoding_ends_a_command():
    script = (
        "from convneur.printing import Console, guard_process, print_csv, print_json, print_row\n"
        "import json, sys\n"
        "guard_process()\n"
        "names = json.loads(sys.stdin.readline())\n"
        "for name in names:\n"
        "    print_json(name); print_csv([[name]]); print_row(name, name)\n"
        "    Console().print(name); Console(stderr=True).print(name)\n"
    )
    names = [*NASTY.values(), *ORDINARY]
    for encoding in ("ascii", "utf-8"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            input=json.dumps(names).encode(),
            capture_output=True,
            env=os.environ | {"PYTHONIOENCODING": encoding, "LANG": "C", "COLUMNS": "80"},
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        out = done.stdout.decode(encoding).splitlines()
        assert [json.loads(line) for line in out[::4]] == names
        assert all(harmless(line.replace("\t", "")) for line in out)


def test_what_other_packages_say_is_text(capsys, monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(logging.lastResort, "formatter", None)
    printing.guard_process()
    told = warnings.formatwarning("tensor \x1b]0;x\x07", UserWarning, "file.py", 1)
    assert r"UserWarning: tensor \x1b]0;x\x07" in told
    record = logging.LogRecord("x", logging.WARNING, "file.py", 1, "keys %s", ("\x1b[2J\nx",), None)
    logging.lastResort.handle(record)
    assert capsys.readouterr().err == "keys \\x1b[2J\\nx\n"


def test_nothing_prints_beside_the_one_module():
    """A new place that prints takes its console, table or bar from `convneur.printing`."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
                modules = {name.split(".")[0] for name in names}
                assert not modules & {"rich", "html"}, f"{where}: use convneur.printing"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in BESIDE, f"{where}: use convneur.printing"
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("stdout", "__stdout__"), f"{where}: use convneur.printing"
                assert node.attr not in ("writer", "DictWriter"), f"{where}: use convneur.printing.csv_text"


def test_a_table_that_goes_to_a_file_breaks_no_name(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    out, name = io.StringIO(), "a" * 300
    table = printing.Table(box=None)
    table.add_column("file", overflow="fold")
    table.add_column("answer")
    table.add_row(name, "cat")
    printing.Console(file=out).print(table)
    assert name in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) < 400


@pytest.mark.slow
def test_the_same_warning_is_shown_once():
    """Whatever a library does to the filters meanwhile."""
    code = (
        "import warnings; from convneur.printing import guard_process; guard_process()\n"
        "for _ in range(3):\n    warnings.simplefilter('always'); warnings.warn('four workers on two cores')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("four workers on two cores") == 1
