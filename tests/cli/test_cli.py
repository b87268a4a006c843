"""The command line as people use it: in a process of its own."""

import dataclasses
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import timm
import torch

from convneur import ops
from convneur_command.main import main


def start(*arguments: str, **options) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    command = [sys.executable, "-m", "convneur", *arguments]
    options.setdefault("stdout", subprocess.PIPE)
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, **options)


def call(*arguments: str) -> tuple[int, str, str]:
    """The same within this process, for what needs none of its own."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as stop:  # the parser's own way to leave
            code = int(stop.code or 0)
    return code, out.getvalue(), err.getvalue()


def run(*arguments: str, **options) -> tuple[int, str, str]:
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def test_info_fits_a_terminal_and_says_what_it_counts(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = call("info")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert re.search(r"convneur_m3\s+64/128/256/512\s+196/196/196/49\s+9.62\s+1.447", out)


@pytest.mark.slow
def test_info_json():
    code, out, _ = call("info", "--json")
    rows = json.loads(out)["variants"]
    assert code == 0
    assert list(rows) == ["convneur_m1", "convneur_m2", "convneur_m3", "convneur_m4"]
    assert rows["convneur_m1"]["published"]["macs"] > 2 * rows["convneur_m1"]["default"]["macs"]
    assert rows["convneur_m4"]["local_only"]["params"] == 15593560


@pytest.mark.slow
def test_info_says_which_kernels_serve_here_and_if_not_why(monkeypatch):
    monkeypatch.setattr(ops.linear, "missing", None)
    monkeypatch.setattr(ops.global_branch, "missing", "there is no compiler")
    with ops.use_kernels(True):
        _, out, _ = call("info", "--json")
        _, table, _ = call("info")
    kernels = json.loads(out)["kernels"]
    assert list(kernels) == [operation.name for operation in ops.OPERATIONS]
    assert kernels["linear"] == {"serves": True, "reason": None}
    assert kernels["global_branch"] == {"serves": False, "reason": "there is no compiler"}
    assert re.search(r"^linear +serves *$", table, re.MULTILINE)
    assert re.search(r"^global_branch +does not serve: there is no compiler *$", table, re.MULTILINE)


def test_info_says_that_kernels_are_switched_off():
    with ops.use_kernels(False):
        _, out, _ = call("info")
    for operation in ops.OPERATIONS:
        assert re.search(rf"{operation.name} +does not serve: kernels are switched off \(CONVNEUR_KERNELS=0\)", out)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One short demo, looked at by several tests."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    code, out, err = run("demo", "--epochs", "1", "--out", str(folder))
    assert code == 0, err
    return folder, out, err


@pytest.mark.slow
def test_demo_prints_one_table(demo):
    _, out, err = demo
    assert re.search(r"convneur .*%.*k.*M", out)
    assert re.search(r"local-only .*%.*k.*M", out)
    assert "Warning" not in out + err
    assert "Traceback" not in out + err


@pytest.mark.slow
def test_demo_writes_numbers_weights_and_report(demo):
    folder, _, _ = demo
    assert sorted(p.name for p in folder.iterdir()) == [
        ".convneur-demo",
        "convneur",
        "local-only",
        "metrics.json",
        "report.html",
    ]
    models = json.loads((folder / "metrics.json").read_text())["models"]
    assert models["convneur"]["params"] > models["local-only"]["params"]
    assert 0 < models["convneur"]["accuracy"] <= 1
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    model = timm.create_model(f"local-dir:{folder / 'convneur'}", pretrained=True).eval()
    assert model(torch.rand(1, 1, 32, 32)).shape == (1, 10)
    assert model.pretrained_cfg["mean"] == [0.0]


@pytest.mark.slow
def test_demo_again_replaces_what_was_there_if_told_to(demo):
    folder, _, _ = demo
    (folder / "convneur" / "mine.txt").write_text("mine")
    command = ["demo", "--epochs", "1", "--out", str(folder)]
    code, _, err = call(*command)
    assert (code, len(err.splitlines())) == (0, 1)
    assert "holds what this command makes, finished; add --overwrite" in err
    code, _, err = call(*command, "--seed", "1")
    assert code == 2
    assert "was made with another seed (0, now 1); add --overwrite to replace it" in err
    code, _, err = call(*command, "--seed", "1", "--overwrite")
    assert code == 0, err
    assert (folder / "convneur" / "mine.txt").read_text() == "mine"
    assert json.loads((folder / "metrics.json").read_text())["recipe"]["seed"] == 1


@pytest.mark.slow
def test_mosaic_demo(tmp_path, monkeypatch):
    from convneur.lab import demo as pair

    monkeypatch.setattr(pair, "MOSAIC", dataclasses.replace(pair.MOSAIC, steps_per_epoch=2, batch_size=4))
    assert main(["demo", "--task", "mosaic", "--epochs", "1", "--out", str(tmp_path)]) == 0
    models = json.loads((tmp_path / "metrics.json").read_text())["models"]
    assert set(models) == {"convneur", "local-only"}
    assert 0 <= models["convneur"]["iou"] <= 1
    assert (tmp_path / "report.html").read_text().count("data:image/png;base64,") == 2


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_keeps_what_was_done(tmp_path):
    """In a terminal, as people see it: the bar shows the first epoch's accuracy, then comes Ctrl-C."""
    ours, theirs = pty.openpty()
    process = start("demo", "--epochs", "500", "--out", str(tmp_path / "run"), stdout=theirs, preexec_fn=_own_session)
    os.close(theirs)
    shown = b""
    while b"accuracy" not in shown:
        shown += os.read(ours, 4096)
    os.killpg(process.pid, signal.SIGINT)
    drain = threading.Thread(target=lambda: [None for _ in iter(lambda: _read(ours), b"")], daemon=True)
    drain.start()
    _, err = process.communicate(timeout=60)
    assert b"images/s" in shown
    last = err.strip().splitlines()[-1]
    assert process.returncode == 130
    assert last.startswith("convneur: stopped; what was done is in")
    assert "Traceback" not in err
    assert "Detected KeyboardInterrupt" not in err
    kept = json.loads((tmp_path / "run" / "metrics.json").read_text())["models"]["convneur"]
    assert kept["finished"] is False
    assert len(kept["curve"]) >= 1
    assert (tmp_path / "run" / "convneur" / "model.safetensors").exists()


def _own_session() -> None:
    """A process group to be stopped, in which Ctrl-C works even if this test's own process ignores it."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _read(terminal: int) -> bytes:
    """What the terminal shows next; nothing once the other side has closed."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "file").write_text("")
    for arguments, message in [
        (["demo", "--epochs", "0", "--out", str(tmp_path)], "--epochs 0 is out of range"),
        (["demo", "--out", str(tmp_path / "file")], "is a file; give a folder"),
        (["info", "--preset", "publshed"], "did you mean 'published'?"),
        (["info", "--image-size", "16"], "smaller than the total stride"),
    ]:
        code, _, err = call(*arguments)
        assert (code, len(err.strip().splitlines())) == (2, 1), err
        assert message in err
    code, _, err = call("inof")
    assert code == 2
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo"],
        ["train", "--data", "digits"],
        ["eval", "--model", "no/such/run", "--data", "digits"],
        ["embed", "photos", "--model", "no/such/run"],
        ["stream", "huge.tif", "--model", "no/such/run"],
        ["explain", "{file}", "--model", "no/such/run"],
        ["ablate", "core", "--data", "no/such/folder"],
        ["bench", "latency"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_folder_that_cannot_be_is_told_before_anything_else(arguments, tmp_path):
    """Models and images that are not there would be told next."""
    file = tmp_path / "notes.txt"
    file.write_text("kept")
    for out, line in [
        (file, f"--out {file} is a file; give a folder"),
        (file / "run", f"--out {file / 'run'} cannot be made (Not a directory); give a folder that you may write to"),
    ]:
        code, printed, err = call(*(each.format(file=file) for each in arguments), "--out", str(out))
        assert (code, printed, err) == (2, "", f"convneur: {line}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert file.read_text() == "kept"


def test_a_link_to_a_folder_that_is_gone(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    link = tmp_path / "link"
    line = f"--out {link} cannot be written to ({link} is a link to nothing); give a folder that you may"
    code, _, err = call("bench", "latency", "--out", str(tmp_path / "link"))
    assert code == 2
    assert err == f"convneur: {line} write to\n"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc, where not even root can write")
def test_a_folder_that_nobody_may_write_to():
    reason = "(No such file or directory); give a folder that you may write to"
    for out, line in [
        ("/proc/run", f"/proc/run cannot be made {reason}"),
        ("/proc", f"/proc cannot be written to {reason}"),
    ]:
        assert call("bench", "latency", "--out", out) == (2, "", f"convneur: --out {line}\n")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_one_line_and_leaves_no_half_file(tmp_path):
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(tmp_path)], check=False)
    if mount.returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        code, _, err = run("demo", "--epochs", "1", "--out", str(tmp_path / "run"))
        assert code == 2
        assert "Traceback" not in err
        assert "No space left on device" in err.strip().splitlines()[-1]
        assert "free some space" in err.strip().splitlines()[-1]
        assert not (tmp_path / "run" / "convneur").exists()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_the_page_takes_no_files_for_models(tmp_path):
    """An exported file could run code, or be of another kind; it is refused before the page is there."""
    pytest.importorskip("gradio")
    (tmp_path / "model.pt2").write_bytes(b"PK")
    code, printed, err = call("app", "--model", str(tmp_path / "model.pt2"))
    assert (code, printed) == (2, "")
    assert "model.pt2 is a file; the page looks into folders" in err
