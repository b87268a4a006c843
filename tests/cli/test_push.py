"""``convneur push`` speaks to a hub: here a small one on this machine, which keeps what it is sent."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from convneur import create_model
from convneur.models import save_model


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as an upload of small files needs; commits end up in ``server.files``."""

    def do_POST(self):
        body = (
            self.rfile.read(int(self.headers["Content-Length"])) if "Content-Length" in self.headers else self.chunks()
        )
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        if self.headers.get("Authorization") != "Bearer right":
            return self.answer({"error": "Invalid username or password."}, 401)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            self.server.created = asked
            return self.answer({"url": f"{self.server.url}/{asked['organization']}/{asked['name']}"})
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.path.endswith("/preupload/main"):
            paths = [file["path"] for file in json.loads(body)["files"]]
            return self.answer(
                {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}
            )
        if self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.answer(
                {"commitUrl": f"{self.server.url}/someone/name/commit/1", "commitOid": "0" * 40, "success": True}
            )
        return self.answer({}, 404)

    def chunks(self):
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        return body

    def do_GET(self):
        self.answer({"id": "someone/name", "sha": "0" * 40, "siblings": []})

    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.asked, server.files, server.created = [], {}, None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def push(hub, folder: Path, *arguments: str, token: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0", "COLUMNS": "200"}
    command = [sys.executable, "-m", "convneur", "push", str(folder), "someone/name", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)


@pytest.mark.slow
def test_a_pushed_model_is_on_the_hub_as_it_is_on_disk(hub, tmp_path):
    folder = tmp_path / "run" / "model"
    save_model(create_model("convneur_m1", num_classes=2), folder, {"num_classes": 2}, card="# Card")
    (folder / "private.txt").write_text("stays here")
    done = push(hub, tmp_path / "run", "--private", token="right")
    assert done.returncode == 0, done.stderr
    assert "timm.create_model('hf-hub:someone/name', pretrained=True)" in done.stdout
    assert (hub.created["organization"], hub.created["name"]) == ("someone", "name")
    assert hub.created.get("private") is True or hub.created.get("visibility") == "private"
    assert sorted(hub.files) == ["README.md", "config.json", "model.safetensors"]
    assert all(hub.files[name] == (folder / name).read_bytes() for name in hub.files)

    refused = push(hub, tmp_path / "run", token="wrong")
    assert refused.returncode == 2
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "could not upload to someone/name" in refused.stderr
    assert "hf auth login" in refused.stderr
