"""The page as people and programs meet it: a server in a process of its own, with good and with bad visitors."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from convneur.app.server import listen
from convneur_command.main import main
from tests.cli.test_explain import LABELS, classifier
from tests.data import files

pytestmark = pytest.mark.slow  # a server and its page start in each

pytest.importorskip("gradio", reason="needs gradio: pip install 'convneur[app]'")
httpx = pytest.importorskip("httpx", reason="comes with gradio")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
ROOT = Path(__file__).parents[2]
GONE = 60  # seconds after which a server that is not there does not come any more


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Page:
    """A server, and ways to ask it."""

    def __init__(self, folder, *arguments: str):
        self.address = f"http://127.0.0.1:{(port := free_port())}"
        self.log, self.temporary = folder / "log", folder / "temporary"
        self.temporary.mkdir()
        command = [sys.executable, "-m", "convneur", "app", "--port", str(port), *arguments]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=os.environ | {"TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"},
            )
        last = time.monotonic() + GONE
        while "Ctrl-C ends it" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < last, self.log.read_text()
            time.sleep(0.1)

    def upload(self, content: bytes, name: str = "photo.png"):
        return httpx.post(f"{self.address}/gradio_api/upload", files={"files": (name, content)}, timeout=60)

    def ask(self, file, model: str = "small"):
        """The event that answers and its data, or the status of a refusal and its line."""
        begun = httpx.post(f"{self.address}/gradio_api/call/explain", json={"data": [file, model]}, timeout=60)
        if begun.status_code != 200:
            return begun.status_code, begun.json()["detail"]
        stream = httpx.get(f"{self.address}/gradio_api/call/explain/{begun.json()['event_id']}", timeout=120).text
        event, data = stream.strip().split("\n\n")[-1].split("\n")
        return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    def explain(self, content: bytes, name: str = "photo.png", model: str = "small"):
        (path,) = self.upload(content, name).json()
        return self.ask(uploaded(path), model)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(GONE)


def uploaded(path: str) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    run = classifier(folder / "small")
    opened = Page(folder, "--model", str(run), "--max-mb", "1", "--per-minute", "1000")
    yield opened
    if opened.process.poll() is None:
        opened.end(signal.SIGTERM)


GOOD = files.encoded(files.plain(size=(90, 70)), "PNG")


def is_alive(page) -> bool:
    event, (numbers, picture, *stages, _label, _words) = page.explain(GOOD)
    served = [httpx.get(f"{page.address}/gradio_api/file={each['path']}").content for each in (picture, *stages)]
    return event == "complete" and numbers["model"] == "small" and all(each[:4] == b"\x89PNG" for each in served)


def test_the_python_block_of_the_docs_gets_numbers_and_pictures(page, tmp_path, monkeypatch):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "app.md").read_text(), re.DOTALL)
    block = block.replace("http://127.0.0.1:7860", page.address).replace('"photos"', '"small"')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    Path("photo.jpg").write_bytes(GOOD)
    names: dict = {}
    exec(block, names)
    numbers = names["numbers"]
    assert {each["label"] for each in numbers["answers"]} == set(LABELS)
    assert len(numbers["stages"]) == len(names["stages"]) == 4
    assert all(Path(file).stat().st_size for file in [names["picture"], *names["stages"]])


def test_bad_files_are_refused_in_one_line_and_the_server_goes_on(page):
    for content, message in [
        (files.UNREADABLE["text.png"](), "not an image"),
        (files.bomb(), "30000 x 30000 px is more than the limit of 25 megapixels"),
        (files.truncated_jpeg(), "truncated"),
        (b"", "the file is empty"),
    ]:
        event, said = page.explain(content)
        assert event == "error", message
        assert message in said["error"]
        assert "\n" not in said["error"]
    refused = page.upload(b"0" * 1_200_000)
    assert refused.status_code == 413
    assert "larger than the limit of 1 MB" in refused.json()["detail"]
    assert is_alive(page)


def test_paths_do_not_leave_the_folder_of_uploads(page, tmp_path):
    (tmp_path / "secret.png").write_bytes(GOOD)
    for path in ("/etc/passwd", "../../etc/passwd", str(tmp_path / "secret.png"), f"{page.address}/theme.css"):
        assert page.ask(uploaded(path)) == (
            400,
            "the path is not that of an uploaded file; upload the image first, then give the path it was given",
        )
    (path,) = page.upload(GOOD, "../../etc/passwd").json()
    assert path.startswith(str(page.temporary))
    assert page.ask(uploaded(path))[0] == "complete"
    for path in ("/etc/passwd", str(tmp_path / "secret.png"), str(page.log)):
        assert httpx.get(f"{page.address}/gradio_api/file={path}").status_code == 403
    assert is_alive(page)


def test_other_models_and_no_image_are_refused(page):
    for model in ("/etc", "convneur_m1"):
        status, said = page.explain(GOOD, model=model)
        assert (status, "is not known" in said) == (400, True)
    event, said = page.ask(None)
    assert (event, "no image given" in said["error"]) == ("error", True)
    direct = httpx.post(f"{page.address}/gradio_api/run/explain", json={"data": [None, "small"]})
    assert direct.status_code == 404  # there is no way around the queue
    assert is_alive(page)


def test_ten_at_once_are_all_answered(page):
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(page.explain, [GOOD] * 10))
    assert [event for event, _ in answers] == ["complete"] * 10
    assert len({json.dumps(data[0]["answers"]) for _, data in answers}) == 1


@pytest.mark.skipif(BROWSER is None, reason="needs a browser: neither chromium nor google-chrome is installed")
def test_a_browser_shows_all_parts_and_loads_nothing_from_elsewhere(page, tmp_path):
    flags = "--headless --no-sandbox --disable-gpu --virtual-time-budget=15000 --dump-dom".split()
    command = [BROWSER, *flags, f"--user-data-dir={tmp_path}", page.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    for part in ("what did the memory do?", "Look inside", "As the model takes it", "Answers", "Stage 4", "Numbers"):
        assert part in done.stdout, part
    loaded = re.findall(r'<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)="((?:https?:)?//[^"]+)', done.stdout)
    assert [each for each in loaded if not each.startswith(page.address)] == []


def test_too_many_of_one_client_are_told_so_and_the_port_is_taken(tmp_path, capsys):
    page = Page(tmp_path, "--per-minute", "2")
    assert page.ask(None, "convneur_m1")[0] == "error"  # no image: not counted
    assert "has no trained weights" in page.log.read_text()
    assert page.upload(GOOD).status_code == page.upload(GOOD).status_code == 200
    refused = page.upload(GOOD)
    assert refused.status_code == 429
    assert "more than 2 requests a minute" in refused.json()["detail"]
    port = page.address.rsplit(":", 1)[1]
    assert main(["app", "--port", port]) == 2
    err = capsys.readouterr().err.strip()
    assert err.splitlines()[-1].startswith(
        f"convneur: cannot listen on 127.0.0.1, port {port} (Address already in use)"
    )
    assert page.end(signal.SIGINT) == 0
    assert "Traceback" not in page.log.read_text()
    assert not list(page.temporary.glob("convneur-app-*"))  # what was uploaded has gone


def test_port_0_is_any_that_is_free():
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert 0 < port < 65536
        with pytest.raises(OSError, match=f"port {port} .Address already in use"):
            listen("127.0.0.1", port)


def test_an_upload_is_deleted_with_its_answer(page):
    (path,) = page.upload(GOOD).json()
    assert Path(path).exists()
    assert page.ask(uploaded(path))[0] == "complete"
    assert not Path(path).exists()
    assert page.ask(uploaded(path))[0] == 400
    (path,) = page.upload(b"no image").json()
    assert page.ask(uploaded(path))[0] == "error"
    assert not Path(path).exists()


def test_mistakes_and_strangers_get_one_line_and_leave_no_traceback(page):
    api = f"{page.address}/gradio_api"
    for content in (
        b"[" * 50_000,
        b"no json",
        b'{"data": ["photo.png", "small"]}',
        b'{"data": [{"path": null}, "small"]}',
    ):
        said = httpx.post(f"{api}/call/explain", content=content)
        assert said.status_code == 400
        assert said.json()["error"]
    assert httpx.post(f"{page.address}/login").json()["error"] == "username is refused (Field required)"
    assert httpx.get(f"{api}/call/explain/unknown").status_code == 404
    chunks = (b"0" * 100_000 for _ in range(40))
    kind = {"content-type": "multipart/form-data; boundary=b"}
    assert httpx.post(f"{api}/upload", content=chunks, headers=kind).status_code in (400, 413)
    assert httpx.get(f"{page.address}/config", headers={"host": "evil.example"}).status_code == 421
    refused = httpx.get(f"{page.address}/config", headers={"origin": "http://evil.example"})
    assert refused.status_code == 403
    assert not [name for name in refused.headers if name.startswith("access-control")]
    told = {"x-forwarded-host": "evil.example", "x-gradio-server": "http://evil.example"}
    assert "evil.example" not in httpx.get(f"{page.address}/config", headers=told).text
    assert is_alive(page)
    assert "Traceback" not in page.log.read_text()


def test_only_who_is_in_the_file_may_log_in(tmp_path):
    (tmp_path / "users").write_text("ann:secret\n")
    page = Page(tmp_path, "--auth", str(tmp_path / "users"))
    assert "chmod 600" in page.log.read_text()
    assert page.upload(GOOD).status_code == 401
    assert page.ask(None, "convneur_m1")[0] == 401
    with httpx.Client(base_url=page.address) as client:
        assert client.post("/login", data={"username": "ann", "password": "wrong"}).status_code == 400
        assert client.get("/config").status_code == 401
        assert client.post("/login", data={"username": "ann", "password": "secret"}).status_code == 200
        assert client.get("/config").status_code == 200
        assert client.post("/gradio_api/upload", files={"files": ("a.png", GOOD)}).status_code == 200
    assert page.end(signal.SIGTERM) == 0
    assert not list(page.temporary.glob("convneur-app-*"))


@pytest.mark.slow
def test_under_load_answers_stay_right_and_ctrl_c_ends_it():
    script = ROOT / "benchmarks" / "app_under_load.py"
    flags = "--clients 5 --questions 1 --slow 200 --no-browser".split()
    done = subprocess.run([sys.executable, script, *flags], capture_output=True, text=True, check=False, timeout=550)
    assert done.returncode == 0, done.stdout + done.stderr


def test_bad_arguments_are_one_line_and_exit_code_2(capsys, monkeypatch, tmp_path):
    for arguments, message in [
        (["--model", str(tmp_path / "absent")], "is neither a folder nor a model of timm"),
        (["--model", "convneur_m9"], "did you mean 'convneur_m"),
        (["--max-mb", "0"], "--max-mb 0.0 is out of range"),
        (["--host", "256.0.0.1"], "give another --port or --host"),
        (["--host", "0.0.0.0", "--port", "0"], "give --auth FILE with who may use it, or --allowed-hosts NAME"),
        (["--allowed-hosts", "http://x"], "is not the name of a host"),
        (["--auth", str(tmp_path / "absent")], "give a file with lines user:password"),
        (["--auth", str(tmp_path)], "give one with lines user:password"),
        (["--port", "99999", "--model", str(tmp_path / "absent")], "--port 99999 is out of range; give 0 to 65535"),
        (["--port=-1"], "--port -1 is out of range; give 0 to 65535"),
    ]:
        assert main(["app", *arguments]) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.setattr("convneur.app.serve.importlib.util.find_spec", lambda _: None)
    assert main(["app"]) == 2
    assert "pip install 'convneur[app]'" in capsys.readouterr().err
