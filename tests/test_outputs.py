"""Folders that commands write to: what is refused, what is kept, who may write."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from convneur.files import NEW, new_for, remove_entry, replace_folder, write_atomic
from convneur.notes import AlreadyDone, files_hash
from convneur.outputs import BESIDE, WRITES, OutputFile, OutputFolder
from tests.cli.test_cli import call

VERBS = [verb for verb in WRITES if verb != "train"]


def fill(out: Path, verb: str, made_from: dict, overwrite: bool = False, text: str = "ours") -> None:
    """What a verb does: it writes one file of its own."""
    with OutputFolder(out, verb, overwrite) as folder:
        folder.check(made_from)
        folder.start()
        name = folder.free("a", [".png"])[0].name if verb in BESIDE else WRITES[verb][0].format(verb)
        write_atomic(out / name, text)
        folder.finish({"said": text})


def content(folder: Path) -> dict[str, str]:
    """Files that are not notes."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".convneur-"))
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def train_run(out: Path) -> None:
    (out / "model").mkdir(parents=True)
    (out / "run.json").write_text('{"data": "d", "model": "m", "recipe": {}}')
    (out / "model" / "config.json").write_text("{}")
    (out / "report.html").write_text("report")


@pytest.mark.parametrize("verb", VERBS)
def test_results_stay_until_told_otherwise(verb, tmp_path):
    out = tmp_path / "out"
    fill(out, verb, {"seed": 0}, text="first")
    with pytest.raises(AlreadyDone, match="finished; add --overwrite") as done:
        fill(out, verb, {"seed": 0}, text="second")
    assert done.value.told == {"said": "first"}
    with pytest.raises(FileExistsError, match=r"made with another seed \(0, now 1\); add --overwrite"):
        fill(out, verb, {"seed": 1}, text="second")
    (out / "mine.txt").write_text("mine")
    assert set(content(out).values()) == {"first", "mine"}
    fill(out, verb, {"seed": 1}, overwrite=True, text="second")
    assert set(content(out).values()) == {"second", "mine"}
    assert len(content(out)) == 2


@pytest.mark.parametrize("verb", [verb for verb in WRITES if verb not in BESIDE])
def test_a_folder_of_somebody_else_is_refused_and_stays_as_it_was(verb, tmp_path):
    (tmp_path / "model").mkdir()
    for name in ("model/mine.txt", "report.html", "metrics.json", "part-00000.parquet", "features.npy"):
        (tmp_path / name).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for overwrite in (False, True):
        with (
            pytest.raises(FileExistsError, match="nothing in it says that convneur filled it"),
            OutputFolder(tmp_path, verb, overwrite),
        ):
            pass
    assert sorted(tmp_path.rglob("*")) == before
    assert set(content(tmp_path).values()) == {"mine"}


@pytest.mark.parametrize("verb", BESIDE)
def test_pictures_are_written_beside_files_of_others(verb, tmp_path):
    (tmp_path / "a.png").write_text("mine")
    fill(tmp_path, verb, {"seed": 0})
    fill(tmp_path, verb, {"seed": 1}, overwrite=True, text="again")
    assert content(tmp_path) == {"a.png": "mine", "a-2.png": "again"}


@pytest.mark.parametrize("verb", VERBS)
def test_no_other_verb_touches_a_training_run(verb, tmp_path):
    train_run(tmp_path)
    before = content(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="holds a training run"):
            fill(tmp_path, verb, {}, overwrite)
    assert content(tmp_path) == before


def test_results_of_another_verb_need_overwrite(tmp_path):
    fill(tmp_path, "demo", {})
    with pytest.raises(FileExistsError, match="holds results of convneur demo; add --overwrite"):
        fill(tmp_path, "bench", {})
    fill(tmp_path, "bench", {}, overwrite=True)
    assert list(content(tmp_path)) == ["bench.json"]


def test_overwriting_a_run_removes_what_training_wrote_and_nothing_else(tmp_path):
    train_run(tmp_path)
    ours = (
        "checkpoints/step-000000001.ckpt",
        "logs/version_0/metrics.csv",
        "tensorboard/events.out.tfevents.1",
        "split.json",
    )
    for name in (*ours, "model/mine.txt", "checkpoints/best.ckpt", "notes/a.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    with OutputFolder(tmp_path, "train", overwrite=True) as folder:
        folder.clear()
    assert set(content(tmp_path)) == {"model/mine.txt", "checkpoints/best.ckpt", "notes/a.txt"}
    assert not (tmp_path / "logs").exists()


def test_results_of_another_verb_are_replaced_and_nothing_beside_them(tmp_path):
    with OutputFolder(tmp_path, "bench", part="scaling") as folder:
        folder.check({})
        folder.start()
        write_atomic(tmp_path / "scaling.json", "ours")
        folder.finish()
    (tmp_path / "mine.csv").write_text("mine")
    fill(tmp_path, "demo", {}, overwrite=True)
    assert content(tmp_path) == {"mine.csv": "mine", "metrics.json": "ours"}


def test_what_another_process_removes_meanwhile_is_removed(tmp_path, monkeypatch):
    def gone(path):
        raise FileNotFoundError(path)

    (tmp_path / "left").mkdir()
    monkeypatch.setattr("convneur.files.shutil", SimpleNamespace(rmtree=gone))
    remove_entry(tmp_path / "left")


@pytest.mark.parametrize(("first", "verb", "name"), [("predict", "eval", "report.html"), ("eval", "train", "run.json")])
def test_no_file_beside_results_of_another_verb_is_written_over(first, verb, name, tmp_path):
    fill(tmp_path, first, {})
    (tmp_path / name).write_text("mine")
    with (
        pytest.raises(FileExistsError, match=f"holds {name} beside results of convneur {first}, which did not write"),
        OutputFolder(tmp_path, verb, overwrite=True),
    ):
        pass
    assert content(tmp_path)[name] == "mine"


def test_nothing_but_pictures_is_written_beside_photographs(tmp_path):
    (tmp_path / "photo.jpg").write_text("mine")
    fill(tmp_path, "predict", {})
    with (
        pytest.raises(FileExistsError, match=r"holds photo\.jpg beside results of convneur predict"),
        OutputFolder(tmp_path, "train", overwrite=True),
    ):
        pass


def test_files_of_which_no_note_tells_are_kept(tmp_path):
    with OutputFolder(tmp_path, "bench", part="scaling") as folder:
        folder.check({})
        folder.start()
    (tmp_path / "latency.csv").write_text("mine")
    with (
        OutputFolder(tmp_path, "bench", part="latency") as folder,
        pytest.raises(FileExistsError, match=r"holds latency\.csv, and nothing says what it was made from; add --ov"),
    ):
        folder.check({})
    with OutputFolder(tmp_path, "bench", True, "latency") as folder:
        folder.check({})


@pytest.mark.parametrize(
    ("verb", "ours", "theirs"),
    [
        ("embed", "part-00000.parquet", "part-00000-mine.parquet"),
        ("embed", "part-1000000.parquet", "part-00000.old.parquet"),
        ("stream", "stage_0.npy", "stage_0-mine.npy"),
        ("train", "checkpoints/step-000000001.ckpt", "checkpoints/step-best.ckpt"),
        ("train", "checkpoints/step-000000001.damaged", "checkpoints/step-notes.txt"),
    ],
)
def test_names_that_only_begin_as_ours_are_others(verb, ours, theirs, tmp_path):
    if verb == "train":
        train_run(tmp_path)
    else:
        fill(tmp_path, verb, {})
    for name in (ours, theirs):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    with OutputFolder(tmp_path, verb, overwrite=True) as folder:
        folder.clear()
    assert content(tmp_path) == {theirs: theirs}


def test_a_run_is_known_until_it_is_all_removed(tmp_path, monkeypatch):
    train_run(tmp_path)
    removed = []
    monkeypatch.setattr("convneur.outputs.remove_entry", lambda path: removed.append(path.name))
    with OutputFolder(tmp_path, "train", overwrite=True) as folder:
        folder.clear()
    assert (removed[0], removed[-1]) == ("report.html", "run.json")


@pytest.mark.parametrize("verb", WRITES)
def test_a_link_to_nothing_is_refused_and_its_target_not_made(verb, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for out in (tmp_path / "link", tmp_path / "link" / "run"):
        with pytest.raises(OSError, match="is a link to nothing"), OutputFolder(out, verb):
            pass
    assert not (tmp_path / "target").exists()


def test_a_link_to_a_folder_is_a_folder(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    fill(tmp_path / "link", "demo", {})
    assert content(tmp_path / "target") == {"metrics.json": "ours"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_links_in_a_folder_lead_nowhere(overwrite, tmp_path):
    train_run(tmp_path / "run")
    models = tmp_path / "models"
    (tmp_path / "run" / "model").rename(models)
    (tmp_path / "run" / "model").symlink_to(models)
    with pytest.raises(OSError, match="model is a link; "), OutputFolder(tmp_path / "run", "train", overwrite):
        pass
    assert (models / "config.json").read_text() == "{}"


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "important").write_text("mine")
    fill(tmp_path / "out", "demo", {})
    (tmp_path / "out" / "metrics.json").unlink()
    (tmp_path / "out" / "metrics.json").symlink_to(tmp_path / "important")
    (tmp_path / "out" / "report.html").symlink_to(tmp_path / "important")
    write_atomic(tmp_path / "out" / "report.html", "report")
    fill(tmp_path / "out", "demo", {}, overwrite=True)
    assert (tmp_path / "important").read_text() == "mine"
    assert content(tmp_path / "out") == {"metrics.json": "ours"}


def test_a_lock_that_is_a_link_makes_no_file_elsewhere(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".convneur-lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="is a link; remove it"), OutputFolder(tmp_path / "out", "demo"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_damaged_note_is_refused(tmp_path):
    for text in ("{", "[]", '{"demo": 1}', "[" * 100_000, '{}\n"../a"\n', "\0"):
        (tmp_path / ".convneur-demo").write_text(text)
        with pytest.raises(ValueError, match="demo is damaged"), OutputFolder(tmp_path, "demo", True) as folder:
            folder.clear()


def test_names_with_line_breaks_own_nobody_elses_file(tmp_path):
    with OutputFolder(tmp_path, "predict") as folder:
        folder.check({})
        folder.start()
        write_atomic(folder.free("a\nmine", [".png"])[0], "ours")
        folder.finish()
    (tmp_path / "mine.png").write_text("mine")
    fill(tmp_path, "predict", {}, overwrite=True)
    assert content(tmp_path) == {"mine.png": "mine", "a.png": "ours"}


def test_what_killed_processes_left_is_removed(tmp_path):
    train_run(tmp_path)
    left = [tmp_path / f"{NEW}abc.html", tmp_path / "model" / f"{NEW}abc.md", tmp_path / f"{NEW}folder" / "file"]
    left[2].parent.mkdir()
    for path in left:
        path.write_text("half")
    with OutputFolder(tmp_path, "train"):
        pass
    assert not [path for path in left if path.exists()]
    assert set(content(tmp_path)) == {"run.json", "model/config.json", "report.html"}


def test_a_folder_in_which_nothing_was_written_goes_again(tmp_path):
    with pytest.raises(KeyError), OutputFolder(tmp_path / "new" / "run", "train"):
        raise KeyError
    assert not list(tmp_path.iterdir())


def hold(out: Path, verb: str, told: int) -> None:
    """Be in a folder, with a worker as those that load images, until killed."""
    os.setsid()
    with OutputFolder(out, verb):
        if os.fork():
            os.write(told, b"held")
        time.sleep(60)


@pytest.mark.skipif(os.name != "posix", reason="signals and forks are POSIX's")
def test_one_process_writes_at_a_time_and_a_killed_one_writes_no_more(tmp_path):
    out = tmp_path / "out"
    hears, told = os.pipe()
    holder = os.fork()
    if holder == 0:
        hold(out, "train", told)
        os._exit(0)
    try:
        assert os.read(hears, 4) == b"held"
        for verb in ("train", "demo", "embed"):
            with (
                pytest.raises(BlockingIOError, match="is being written by another process; wait for it, or stop it"),
                OutputFolder(out, verb),
            ):
                pass
        os.kill(holder, signal.SIGKILL)  # and not its worker
        os.waitpid(holder, 0)
        with OutputFolder(out, "train"):
            pass
    finally:
        os.killpg(holder, signal.SIGKILL)


def test_contexts_of_one_folder_nest(tmp_path):
    out = tmp_path / "out"
    with OutputFolder(out, "train"):
        with OutputFolder(out, "train"):
            (out / "run.json").write_text("{}")
        assert (out / ".convneur-lock").exists()
    assert not (out / ".convneur-lock").exists()


def export(path: Path, made_from: dict, overwrite: bool = False, text: str = "ours") -> None:
    with OutputFile([path.with_suffix(".bin"), path], "export", overwrite) as target:
        target.check(made_from)
        for file in target.files:
            write_atomic(file, text)
        target.finish("told")


@pytest.mark.parametrize("name", ["m.xml", "m [1].xml"])
def test_what_a_killed_export_left_is_removed_and_that_of_others_kept(name, tmp_path):
    left = Path(tempfile.mkdtemp(prefix=new_for(tmp_path / name), dir=tmp_path))
    (left / name).write_text("half")
    others = Path(tempfile.mkdtemp(prefix=new_for(tmp_path / "n.xml"), dir=tmp_path))
    export(tmp_path / name, {"size": 1})
    assert not left.exists()
    assert others.exists(), "another export may be at work"


def test_an_exported_file_stays_until_told_otherwise(tmp_path):
    path = tmp_path / "m.xml"
    (tmp_path / "mine.txt").write_text("mine")
    export(path, {"size": 1}, text="first")
    with pytest.raises(AlreadyDone):
        export(path, {"size": 1}, text="second")
    with pytest.raises(FileExistsError, match=r"made with another size .*; add --overwrite"):
        export(path, {"size": 2}, text="second")
    assert path.read_text() == "first"
    export(path, {"size": 2}, overwrite=True, text="second")
    assert content(tmp_path) == {"mine.txt": "mine", "m.xml": "second", "m.bin": "second"}


@pytest.mark.parametrize("name", ["m.xml", "m.bin"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_that_was_not_exported_is_kept(name, overwrite, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match="is there and not as convneur wrote it; remove it first"):
        export(tmp_path / "m.xml", {}, overwrite)
    assert content(tmp_path) == {name: "mine"}
    (tmp_path / name).unlink()
    export(tmp_path / "m.xml", {})
    (tmp_path / name).write_text("mine again")
    with pytest.raises(FileExistsError, match="remove it first"):
        export(tmp_path / "m.xml", {}, overwrite)


def test_a_model_is_saved_beside_files_of_others(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    (folder / "config.json").write_text("old")
    with replace_folder(folder, last="config.json") as fresh:
        (fresh / "config.json").write_text("new")
        (fresh / "README.md").write_text("new")
    assert content(folder) == {"mine.txt": "mine", "config.json": "new", "README.md": "new"}
    with pytest.raises(IsADirectoryError), replace_folder(folder, last="config.json") as fresh:
        fresh.write_text("as if the disk were full")
    assert content(tmp_path)["model/config.json"] == "new"
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(OSError, match="is a link"), replace_folder(tmp_path / "link", last="config.json"):
        pass


def test_files_that_changed_are_known(tmp_path):
    (tmp_path / "a").write_text("1")
    before = files_hash(tmp_path)
    assert files_hash(tmp_path) == before
    (tmp_path / "a").write_text("22")
    assert files_hash(tmp_path) != before
    assert files_hash("convneur_m1") == files_hash("convneur_m1") != files_hash("convneur_m2")


TASKS = (["train"], ["train", "detection"], ["train", "instance"], ["train", "segmentation"])
OTHERS = (
    ["demo"],
    ["embed", "photos", "--model", "m"],
    ["stream", "a.tif", "--model", "m"],
    ["ablate", "core"],
    ["bench"],
)


@pytest.mark.parametrize("command", [*TASKS, *OTHERS, ["eval", "--model", "m"]], ids=" ".join)
def test_every_verb_refuses_before_anything_else(command, tmp_path):
    """A folder of somebody else, and one in which another process is at work: one line, and nothing changed."""
    data = ["--data", "no/such/data"] if command[0] in ("train", "eval", "ablate") else []
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "mine.txt").write_text("mine")
    code, _, err = call(*command, *data, "--out", str(tmp_path / "mine"), "--overwrite")
    assert (code, len(err.splitlines())) == (2, 1), err
    assert "mine is not empty, and nothing in it says that convneur filled it (it holds model)" in err
    assert content(tmp_path) == {"mine/model/mine.txt": "mine"}

    def elsewhere() -> None:
        with OutputFolder(tmp_path / "busy", "demo"):
            entered.set()
            left.wait(60)

    entered, left = threading.Event(), threading.Event()
    thread = threading.Thread(target=elsewhere)
    thread.start()
    entered.wait(60)
    try:
        if command[0] != "ablate":  # which waits, and shares
            code, _, err = call(*command, *data, "--out", str(tmp_path / "busy"))
            assert (code, len(err.splitlines())) == (2, 1), err
            assert "busy is being written by another process; wait for it, or stop it" in err
        if command[0] == "train":
            (tmp_path / "busy" / "run.json").write_text('{"data": "d", "model": "m", "recipe": {}}')
            code, _, err = call(*command, *data, "--out", str(tmp_path / "busy"), "--resume")
            assert (code, len(err.splitlines())) == (2, 1), err
            assert "busy is being written by another process" in err
    finally:
        left.set()
        thread.join()


def test_folders_that_a_killed_removal_left_empty_go_too(tmp_path):
    (tmp_path / "run" / "logs" / "version_0").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"data": "", "model": "", "recipe": {}}')
    with OutputFolder(tmp_path / "run", "train", overwrite=True) as folder:
        folder.clear()
    assert not list((tmp_path / "run").iterdir())
