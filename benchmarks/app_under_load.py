"""The page of `convneur app` under load: a browser, many clients at once, slow ones and hostile ones.

    pip install selenium  # and a chromium with its chromedriver
    python benchmarks/app_under_load.py --clients 20
    python benchmarks/app_under_load.py --clients 5 --no-browser

starts the page with a small model and asks it about each image while nobody else does. Then all ask at once, and the
answers and pictures must be the same; the memory must stay bounded, Ctrl-C must end the page in 5 s although questions
are under way, with exit code 0, no traceback in its log and no file left. Exit code 1 if anything is otherwise.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import timm
from PIL import Image

import convneur  # noqa: F401  its models
from convneur.models import save_model

LABELS = ["one", "two", "three"]
SMALL = {"dims": [8, 12, 16, 24], "depths": [1, 1, 1, 1], "memory_width": 16, "num_classes": 3}
ENDS_IN = 5.0  # seconds after Ctrl-C
MEMORY = 400e6  # bytes above what the page took when nobody asked
START = 180.0
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


def images(count: int) -> list[bytes]:
    """Files that all get other answers."""
    draw, files = np.random.default_rng(0), []
    for number in range(count):
        pixels = draw.integers(0, 256, (8, 8, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((200 + 7 * number, 180), Image.Resampling.BICUBIC).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files


class Page:
    """The server, as a process of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.address, self.log, self.temporary = f"http://127.0.0.1:{self.port}", folder / "log", folder / "temporary"
        self.temporary.mkdir()
        save_model(timm.create_model("convneur_m1", **SMALL), folder / "small" / "model", SMALL, LABELS)
        flags = ["--model", str(folder / "small"), "--port", str(self.port), "--max-mb", "1", "--per-minute", "100000"]
        environment = os.environ | {"TMPDIR": str(self.temporary), "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "convneur", "app", *flags], stdout=log, stderr=log, env=environment
            )
        last = time.monotonic() + START
        while "Ctrl-C ends it" not in self.log.read_text():
            if self.process.poll() is not None or time.monotonic() > last:
                raise SystemExit(f"the page did not start\n{self.log.read_text()}")
            time.sleep(0.1)

    def memory(self) -> int:
        """Bytes that the process takes now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(status.split("VmRSS:")[1].split()[0])

    def ask(self, client: httpx.Client, file: bytes) -> tuple[str, tuple[bytes, ...]]:
        """What is answered about an image, without the times, and the pictures of it."""
        api = f"{self.address}/gradio_api"
        (path,) = client.post(f"{api}/upload", files={"files": ("a.png", file)}).raise_for_status().json()
        question = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, "small"]}
        event = client.post(f"{api}/call/explain", json=question).raise_for_status().json()["event_id"]
        stream = client.get(f"{api}/call/explain/{event}").raise_for_status().text
        kind, data = stream.strip().split("\n\n")[-1].split("\n")
        if kind != "event: complete":
            raise ValueError(f"{kind} {data}")
        numbers, *pictures = json.loads(data.removeprefix("data: "))[:6]
        told = json.dumps({key: numbers[key] for key in ("answers", "stages", "image_size")})
        served = (client.get(f"{api}/file={each['path']}").raise_for_status().content for each in pictures)
        return told, tuple(served)


def hostile(page: Page, stop: threading.Event, seed: int) -> int:
    """Send what nobody should, until told to stop; how many requests got an answer that was no refusal."""
    draw, accepted, api = random.Random(seed), 0, f"{page.address}/gradio_api"
    form = {"content-type": "multipart/form-data; boundary=b"}

    def endless() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        for _ in range(20):
            yield b"0" * 200_000

    with httpx.Client(timeout=60) as client:
        requests = [
            lambda: client.post(f"{api}/upload", content=endless(), headers=form),
            lambda: client.post(f"{api}/queue/join", content=endless()),
            lambda: client.post(f"{api}/call/explain", content=b"[" * 50_000),
            lambda: client.post(f"{api}/call/explain", json={"data": [{"path": "/etc/passwd"}, "small"]}),
            lambda: client.post(f"{api}/call/explain", json={"data": ["a.png", "small"]}),
            lambda: client.post(f"{api}/queue/join", json={"data": [None, "small"], "fn_index": 99}),
            lambda: client.get(f"{page.address}/config", headers={"host": "evil.example"}),
            lambda: client.get(f"{page.address}/config", headers={"origin": "http://evil.example"}),
            lambda: client.get(f"{api}/file=/etc/passwd"),
            lambda: client.get(f"{api}/proxy=http://example.org/"),
        ]
        while not stop.is_set():
            with suppress(httpx.TransportError):  # refused and closed while it was still being sent
                accepted += draw.choice(requests)().status_code < 400
            time.sleep(0.05)
    return accepted


@contextmanager
def slow(page: Page, count: int) -> Iterator[None]:
    """Connections that send nothing, half of a header, or a byte of a body now and then."""
    beginnings = [
        b"",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
        b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b",
    ]
    stop = threading.Event()

    def keep() -> None:
        open_now: list[tuple[socket.socket, bytes]] = []
        while not stop.wait(1.0):
            while len(open_now) < count:
                beginning = beginnings[len(open_now) % len(beginnings)]
                try:
                    connection = socket.create_connection(("127.0.0.1", page.port), timeout=10)
                except OSError:  # the page has ended
                    break
                with suppress(OSError):
                    connection.sendall(beginning)
                open_now.append((connection, beginning))
            for pair in list(open_now):
                try:
                    if pair[1]:
                        pair[0].sendall(b"x")
                except OSError:  # the page has closed it
                    pair[0].close()
                    open_now.remove(pair)
        for connection, _ in open_now:
            connection.close()

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class Browser:
    """Chromium, which drops images on the page and reads the answer."""

    def __init__(self, page: Page, folder: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for flag in (*FLAGS.split(), f"--user-data-dir={folder / 'profile'}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        self.folder = folder
        self.driver.get(page.address)

    def ask(self, file: bytes) -> list[tuple[str, int]]:
        """Labels and percentages that the page shows for an image."""
        from selenium.webdriver.common.by import By

        path = self.folder / "photo.png"
        path.write_bytes(file)
        before = self._source()
        self._wait(lambda: self.driver.find_elements(By.CSS_SELECTOR, "input[type=file]"), "the box for a file")
        self.driver.find_elements(By.CSS_SELECTOR, "input[type=file]")[0].send_keys(str(path))
        self._wait(lambda: self._source() not in ("", before), "an answer")
        time.sleep(1.0)  # the parts of an answer are drawn one after the other
        script = "return [...document.querySelectorAll('[data-testid$=confidence-set]')].map(e => e.innerText)"
        shown = [text.replace("%", "").split("\n") for text in self.driver.execute_script(script)]
        return [(parts[0], round(float(parts[-1]))) for parts in shown]

    def complaints(self) -> list[str]:
        """What the browser says was refused, missing or wrong."""
        return [each["message"] for each in self.driver.get_log("browser") if each["level"] == "SEVERE"]

    def _source(self) -> str:
        script = (
            "return [...document.querySelectorAll('img')].map(e => e.src).filter(s => s.includes('file='))[0] || ''"
        )
        return str(self.driver.execute_script(script))

    def _wait(self, what: object, name: str) -> None:
        last = time.monotonic() + 900  # behind all the clients
        while not what():  # type: ignore[operator]
            if time.monotonic() > last:
                raise SystemExit(f"the browser waits for {name}; it says {self.complaints()}")
            time.sleep(0.2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--questions", type=int, default=5, help="of each client")
    parser.add_argument("--slow", type=int, default=200, help="connections of slow clients")
    parser.add_argument("--no-browser", action="store_true")
    given = parser.parse_args()
    if not given.no_browser:
        try:
            import selenium  # noqa: F401
        except ImportError:
            print("the browser needs selenium; pip install selenium, or give --no-browser", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory() as name:
        return measure(Path(name), given)


def measure(folder: Path, given: argparse.Namespace) -> int:
    faults: list[str] = []
    page, files = Page(folder), images(given.clients)
    try:
        with httpx.Client(timeout=300) as client:
            page.ask(client, files[0])  # loads the model
            began = time.monotonic()
            expected = [page.ask(client, file) for file in files]
            each = (time.monotonic() - began) / len(files)
        idle = page.memory()
        print(f"idle: {len(set(expected))} answers of {given.clients} images, {each:.1f} s each, {idle / 1e6:.0f} MB")
        under_load(page, files, expected, given, folder, faults)
        most = max(MEASURED)
        print(f"memory at most {most / 1e6:.0f} MB, {(most - idle) / 1e6:+.0f} MB")
        if most > idle + MEMORY:
            faults.append(f"memory grew by {(most - idle) / 1e6:.0f} MB")
        end(page, files, faults)
    finally:
        if page.process.poll() is None:
            page.process.kill()
    for fault in faults:
        print(f"FAULT: {fault}")
    print("all is well" if not faults else f"{len(faults)} faults")
    return 1 if faults else 0


MEASURED: list[int] = []


def under_load(
    page: Page, files: list[bytes], expected: list, given: argparse.Namespace, folder: Path, faults: list[str]
) -> None:
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            MEASURED.append(page.memory())

    def ask_often(number: int) -> list[float]:
        times = []
        with httpx.Client(timeout=300) as client:
            for turn in range(given.questions):
                which = (number + turn) % len(files)
                began = time.monotonic()
                try:
                    if page.ask(client, files[which]) != expected[which]:
                        faults.append(f"client {number} got another answer about image {which}")
                except Exception as error:
                    faults.append(f"client {number}: {type(error).__name__} {error}")
                times.append(time.monotonic() - began)
        return times

    threading.Thread(target=watch, daemon=True).start()
    with slow(page, given.slow), ThreadPoolExecutor(given.clients + 4) as pool:
        attackers = [pool.submit(hostile, page, stop, seed) for seed in range(4)]
        clients = [pool.submit(ask_often, number) for number in range(given.clients)]
        try:
            if not given.no_browser:
                browse(page, files, expected, folder, faults)
            times = sorted(each for client in clients for each in client.result())
        finally:
            stop.set()
        print(f"{len(times)} answers under load, median {times[len(times) // 2]:.1f} s, longest {times[-1]:.1f} s")
        if accepted := sum(attacker.result() for attacker in attackers):
            faults.append(f"{accepted} hostile requests were not refused")


def browse(page: Page, files: list[bytes], expected: list, folder: Path, faults: list[str]) -> None:
    browser = Browser(page, folder)
    try:
        for which in range(min(3, len(files))):
            answers = json.loads(expected[which][0])["answers"]
            should = [(each["label"], round(100 * each["probability"])) for each in answers]
            shown = browser.ask(files[which])
            print(f"the browser shows {shown}")
            if shown != should:
                faults.append(f"the browser shows {shown} for image {which}, not {should}")
        faults.extend(f"the browser says {line}" for line in browser.complaints())
    finally:
        browser.driver.quit()


def end(page: Page, files: list[bytes], faults: list[str]) -> None:
    """Ctrl-C while questions are under way."""

    def ask() -> None:
        with httpx.Client(timeout=60) as client, suppress(Exception):
            while True:
                page.ask(client, files[0])

    for _ in range(5):
        threading.Thread(target=ask, daemon=True).start()
    with slow(page, 20):
        time.sleep(3.0)
        began = time.monotonic()
        page.process.send_signal(signal.SIGINT)
        try:
            code = page.process.wait(60)
        except subprocess.TimeoutExpired:
            faults.append("Ctrl-C did not end the page in 60 s")
            return
        took = time.monotonic() - began
    left = sorted(str(path.relative_to(page.temporary)) for path in page.temporary.rglob("*"))
    print(f"Ctrl-C ended it in {took:.1f} s with exit code {code}; left behind: {left}")
    if took > ENDS_IN or code != 0 or left:
        faults.append(f"Ctrl-C: {took:.1f} s, exit code {code}, left behind {left}")
    if "Traceback" in (log := page.log.read_text()):
        faults.append(f"a traceback in the log\n{log[-3000:]}")


if __name__ == "__main__":
    sys.exit(main())
