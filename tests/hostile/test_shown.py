"""The verbs show names of strangers as they are: what is printed, written for others to open, and drawn."""

import csv
import hashlib
import io
import json

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from PIL import Image

from convneur.data.semantic.masks import MaskEncoding
from convneur.embedding.shard_writer import ShardWriter, WrittenShard
from convneur.models import save_model
from convneur.outputs import OutputFolder
from convneur.printing import printable, shortened, tell_notes
from convneur.reports.figures import confusion, curves, gallery
from convneur.reports.page import png
from convneur.tasks.results import listed_classes
from convneur.tasks.segmentation.report import legend
from convneur.training.run_folder import names_hash
from convneur_command.predict import _print
from convneur_command.tables import tell_unreadable
from tests.cli.test_classify import call
from tests.data.semantic import builders as semantic
from tests.hostile.names import NASTY
from tests.hostile.test_printing import Tags, console, harmless, nasty
from tests.models.builders import create
from tests.tasks.detection import builders
from tests.training.runs import TINY as FLAGS

TINY = {"dims": [8, 12, 16, 24], "depths": [1, 1, 1, 1], "memory_width": 16}
FOLDER = {key: name for key, name in NASTY.items() if "/" not in name and key not in ("long", "half a pair")}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder, itself in brackets, with a picture under each nasty name, one more below ``q[``, and no picture."""
    root = tmp_path_factory.mktemp("data") / "[photos]"
    for path in (*FOLDER.values(), "q[/b].png"):
        path = root / (path if path.endswith(".png") else f"{path}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    (root / "\x1b[2J[/bad].png").mkdir(parents=True)
    (root / "\x1b[2J[bad].png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    given = TINY | {"num_classes": len(NASTY)}
    folder = tmp_path_factory.mktemp("runs") / "m[/odel]"
    torch.manual_seed(0)
    save_model(create("convneur_m1", **given), folder, given, list(NASTY.values()))
    return folder


def said(out: str, err: str) -> str:
    assert harmless((out + err).replace("\n", "")), [c for c in out + err if not harmless(c)]
    assert "Traceback" not in err
    return out + err


@nasty
def test_a_reason_to_stop_is_one_line(name, capsys):
    code, out, err = call(capsys, "predict", f"{name}.gone", "--model", "convneur_m1")
    said(out, err)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert err.startswith("convneur: ")
    if "\n" not in name:
        assert printable(name).strip() in err


@nasty
def test_notes_and_files_that_cannot_be_read_are_told_in_a_line_each(name):
    out, file = console()
    assert tell_unreadable([], [(name, name)] * 2, out) == 2
    tell_notes([name], out)
    assert harmless(file.getvalue().replace("\n", ""))
    assert file.getvalue().splitlines() == [
        *[f"convneur: {printable(name)} could not be read ({printable(name)})"] * 2,
        printable(name),
    ]


@nasty
@pytest.mark.parametrize("format", ["table", "csv", "jsonl"])
def test_answers_hold_names_as_they_are(name, format, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100000")
    tables = [
        [{"file": name, "top": [{"label": name, "score": 0.5}, {"label": name, "score": 0.25}]}],
        [{"file": name, "picture": name, "objects": [{"label": name, "score": 0.5, "box": [0.0] * 4}]}],
        [{"file": name, "mask": name, "overlay": name, "shares": {name: 0.5}}],
    ]
    for rows in tables:
        _print(rows, format)
        out = capsys.readouterr().out
        assert harmless(out.replace("\n", ""))
        if format == "jsonl":
            assert [json.loads(line) for line in out.splitlines()] == rows
        elif format == "csv":
            _, row = csv.reader(io.StringIO(out))
            assert [cell.removeprefix("'") for cell in row[:2]] == [printable(name)] * 2
            assert not row[0].startswith(("=", "+", "-", "@", "\t", "\r"))
        else:
            assert len(out.splitlines()) == 2
            assert out.count(printable(name).strip()) >= 2


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_figures_draw_names_as_they_are():
    names = list(NASTY.values())
    rows = [{"step": float(n), "loss": 1.0 / n} for n in (1, 2)]
    code = MaskEncoding(names, np.zeros((len(names), 3), np.uint8))
    figures = [
        confusion({name: torch.eye(len(names)) for name in names[:2]}, names),
        curves(dict.fromkeys(names[-5:], rows), {"loss": "loss"}),
        gallery([torch.rand(3, 8, 8)] * len(names), [shortened(name) for name in names]),
        Figure(figsize=(14, 4.1), layout="constrained"),
    ]
    figures[3].subplots()
    legend(figures[3], code, set(range(len(names))))
    for figure in figures:
        assert Image.open(io.BytesIO(png(figure))).width < 10_000
    ticks, keys = figures[0].axes[0].get_xticklabels(), figures[3].legends[0].get_texts()
    lines = figures[1].axes[0].get_legend().get_texts()
    for drawn, of in ((ticks, names), (keys, names), (lines, names[-5:])):
        assert [text.get_text().strip() for text in drawn] == [shortened(name).strip() for name in of]
        assert not any(text.get_parse_math() for text in drawn)


def test_cards_name_classes_as_they_are(classifier):
    card = listed_classes(list(NASTY.values())[:21])
    assert card.endswith(", ...")
    assert harmless(card)
    assert all(printable(name) in card for name in list(NASTY.values())[:20])


@pytest.mark.slow  # gradio takes seconds to import
def test_the_app_shows_names_as_text():
    page = pytest.importorskip("convneur.app.page", reason="needs gradio")
    answers = [{"label": name, "probability": 0.5} for name in NASTY.values()]
    assert set(page._label({"answers": answers, "trained": True})) == set(map(printable, NASTY.values()))
    latency = {"rounds": 1, "device": "cpu", "milliseconds": 1.0, "baseline_milliseconds": None}
    for name in NASTY.values():
        told = {"architecture": name, "image_size": [1, 1], "latency": latency, "notes": [], "stages": []}
        shown = MarkdownIt("commonmark").render(page._words(told))
        assert set(Tags(shown).tags) == {"p", "code", "strong"}


@nasty
def test_what_cannot_be_embedded_is_listed_exactly(name, tmp_path):
    parts = ShardWriter(tmp_path, 1, 1, 2)
    parts.list_unreadable({0: WrittenShard(0, 0, [(name, name)])})
    (line,) = (tmp_path / "failed.jsonl").read_text(encoding="utf-8").splitlines()
    assert harmless(line)
    assert json.loads(line) == {"id": name, "reason": name}


@nasty
def test_what_is_made_of_a_file_has_a_name_that_can_be_written(name, tmp_path):
    for _ in range(2):  # the second call finds what the first has written
        with OutputFolder(tmp_path, "predict", overwrite=True) as folder:
            folder.check({})
            folder.start()
            paths = [*folder.free(name, [".png", "-overlay.jpg"]), *folder.free(name, [".png", "-overlay.jpg"])]
        assert len(set(paths)) == 4
        for path in paths:
            assert path.parent == tmp_path
            assert harmless(path.name)
            path.write_text("x")
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths} | {".convneur-predict"}


def test_names_that_are_no_text_can_be_told_apart():
    class Images(list):
        name = list.__getitem__

    assert names_hash(Images(["\udcff"])) != names_hash(Images(["\udcfe"]))
    assert names_hash(Images(["a", "b"])) == hashlib.sha1(b"a\nb").hexdigest()  # as in runs of earlier versions


def test_predict_names_a_folder_of_nasty_names(photos, classifier, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100000")
    arguments = ["predict", str(photos), "--model", str(classifier), "--top-k", "26", "--workers", "0"]
    files = {str(path) for path in photos.rglob("*.png") if path.is_file()} - {f"{photos}/\x1b[2J[bad].png"}
    for format in ("table", "csv", "jsonl"):
        code, out, err = call(capsys, *arguments, "--format", format)
        assert code == 0
        told = said(out, err)
        assert r"\x1b[2J[bad].png could not be read" in err
        if format == "csv":
            told = "\n".join(cell for row in csv.reader(io.StringIO(out)) for cell in row)
        assert all(printable(name).strip() in told for name in files) or format == "jsonl"
        assert all(printable(name).strip() in told for name in NASTY.values()) or format != "table"
    rows = [json.loads(line) for line in out.splitlines()]
    assert {row["file"] for row in rows} == files
    assert {answer["label"] for answer in rows[0]["top"]} == set(NASTY.values())


@pytest.mark.slow
def test_explain_shows_a_folder_of_nasty_names(photos, classifier, tmp_path, capsys):
    names = ("\x1b[31mred\x9b0m.png", "q[/b].png", "<script>alert(1)</script>".replace("/", "") + ".png")
    paths = [photos / name for name in names]
    for path in paths:
        if not path.exists():
            Image.new("RGB", (40, 40)).save(path)
    out = tmp_path / "[out]"
    code, *told = call(
        capsys, "explain", *map(str, paths), "--model", str(classifier), "--out", str(out), "--image-size", "64"
    )
    assert code == 0, told
    said(*told)
    pages = [path.read_text() for path in out.glob("*.html")]
    assert len(pages) == 3
    for page in pages:
        tags = Tags(page)
        assert tags.tags.count("script") == 1
        assert tags.tags.count("title") == 1
        assert harmless(page.replace("\n", ""))


@pytest.mark.slow
def test_a_detector_of_nasty_classes_is_judged_and_draws(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100000")
    names = ["=[/b]" + NASTY["title of the window"], NASTY["mathtext"], NASTY["image"]]
    scenes = builders.write_scenes(tmp_path / "sc[/b]enes")
    for listed in scenes.glob("instances_*.json"):
        content = json.loads(listed.read_text())
        content["categories"] = [{"id": 10 * n, "name": name} for n, name in enumerate(names, start=1)]
        listed.write_text(json.dumps(content))
    run = tmp_path / "run[/]"
    flags = [
        "--out",
        str(run),
        "--workers",
        "0",
        "--epochs",
        "1",
        *FLAGS.split(),
        "--ema",
        "0",
        "--fit.accelerator",
        "cpu",
    ]
    heads = "--min-size 64 --max-size 96 --batch-size 2 --heads.out-channels 16 --heads.smallest-anchor 16".split()
    code, *told = call(
        capsys,
        "train",
        "detection",
        "--data",
        str(scenes),
        *flags,
        *heads,
        "--heads.proposals",
        "50",
        "--max-unreadable",
        "0.5",
    )
    assert code == 0, told
    said(*told)
    code, *told = call(capsys, "eval", "--model", str(run), "--data", str(scenes), "--out", str(tmp_path / "[eval]"))
    assert code == 0, told
    said(*told)
    for page in (run / "report.html", tmp_path / "[eval]" / "report.html"):
        tags = Tags(page.read_text())
        assert "script" not in tags.tags
        assert all(printable(name) in "".join(tags.words) for name in names)
    assert "`[/b]" not in (run / "model" / "README.md").read_text()
    assert harmless((run / "model" / "README.md").read_text().replace("\n", ""))
    arguments = [
        "predict",
        str(photos),
        "--model",
        str(run),
        "--out",
        str(tmp_path / "[found]"),
        "--score",
        "0",
        "--workers",
        "0",
    ]
    for format in ("table", "csv", "jsonl"):
        code, out, err = call(capsys, *arguments, "--format", format)
        assert code == 0
        said(out, err)
    assert {each["label"] for line in out.splitlines() for each in json.loads(line)["objects"]} <= set(names)


@pytest.mark.slow
def test_a_segmentation_model_of_nasty_classes_is_judged_and_marks(photos, tmp_path, capsys):
    names = [NASTY["colour"] + "[/b]", NASTY["mathtext"], NASTY["script"]]
    scenes = semantic.write_scenes(tmp_path / "sc[/b]enes")
    (scenes / "classes.txt").write_text("\n".join(names) + "\n")
    run = tmp_path / "run[/]"
    flags = [
        "--out",
        str(run),
        "--workers",
        "0",
        "--epochs",
        "1",
        *FLAGS.split(),
        "--ema",
        "0",
        "--fit.accelerator",
        "cpu",
    ]
    heads = "--decoder-channels 32 --augment.crop 64 64 --batch-size 2".split()
    code, *told = call(capsys, "train", "segmentation", "--data", str(scenes), *flags, *heads)
    assert code == 0, told
    said(*told)
    tags = Tags((run / "report.html").read_text())
    assert "script" not in tags.tags
    assert all(printable(name) in "".join(tags.words) for name in names)
    assert harmless((run / "model" / "README.md").read_text().replace("\n", ""))
    out = tmp_path / "[found]"
    for format in ("table", "csv", "jsonl"):
        code, *told = call(capsys, "predict", str(photos), "--model", str(run), "--out", str(out), "--format", format)
        assert code == 0
        said(*told)
    assert (out / "classes.txt").read_text().splitlines() == list(map(printable, names))


@pytest.mark.slow
def test_a_classifier_of_nasty_classes_is_trained_and_judged(tmp_path, capsys):
    data = tmp_path / "da[/b]ta"
    names = sorted(name for key, name in FOLDER.items() if key != "separator")
    for number, name in enumerate(names):
        for image in range(5):
            path = data / name / f"{image}[/b]\x1b[2J.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (number * 10, image * 40, 90)).save(path)
    run = tmp_path / "run[/]"
    flags = (
        f"--epochs 1 --batch-size 16 --image-size 32 --eval-size 0 --workers 0 --ema 0 --fit.accelerator cpu {FLAGS}"
    )
    code, *told = call(capsys, "train", "--data", str(data), "--out", str(run), *flags.split())
    assert code == 0, told
    said(*told)
    code, *told = call(
        capsys, "eval", "--model", str(run), "--data", str(data), "--out", str(tmp_path / "[eval]"), "--workers", "0"
    )
    assert code == 0, told
    said(*told)
    for page in (run / "report.html", tmp_path / "[eval]" / "report.html"):
        tags = Tags(page.read_text())
        assert "script" not in tags.tags
        assert "title" in tags.tags
        assert all(
            printable(name) in "".join(tags.words)
            for name in names
            if name in json.loads((page.parent / "metrics.json").read_text())["per_class"]
        )
    assert harmless((run / "model" / "README.md").read_text().replace("\n", ""))
