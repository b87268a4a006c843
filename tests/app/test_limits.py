"""What is refused, and when it is taken again."""

import asyncio
import json

import pytest

from convneur.app.door import FORM, MOST_JSON, Door
from convneur.app.limits import Limits, RateLimit, RefusedError
from convneur.data.decode import UnreadableImageError
from tests.data import files


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_client_may_send_so_many_in_any_minute():
    clock = Clock()
    rate = RateLimit(3, clock)
    for clock.now in (0.0, 10.0, 20.0):
        rate.admit("a")
    clock.now = 59.0
    with pytest.raises(RefusedError, match="more than 3 requests a minute; ask again in 1 s"):
        rate.admit("a")
    rate.admit("b")  # another client is not held up
    clock.now = 60.0  # the first is a minute old; what was refused did not count
    rate.admit("a")
    with pytest.raises(RefusedError, match="in 10 s"):
        rate.admit("a")


def test_clients_that_have_gone_are_forgotten():
    clock = Clock()
    rate = RateLimit(1, clock)
    for number in range(100):
        rate.admit(str(number))
    clock.now = 61.0
    rate.admit("new")
    assert set(rate._seen) == {"new"}


def test_images_are_decoded_within_limits():
    limits = Limits(megapixels=0.01, megabytes=0.002)
    assert limits.decode(files.encoded(files.plain(), "PNG")).size == (24, 16)
    for file, message in [
        (files.encoded(files.plain(size=(200, 100)), "PNG"), "200 x 100 px is more than the limit of 0.01 megapixels"),
        (files.encoded(files.plain(size=(170, 10)), "PNG"), "170 x 10 px is too long"),
        (b"0" * 2001, "the file is larger than the limit of 0.002 MB"),
        (files.bomb(), "30000 x 30000 px is more than the limit"),
        (b"", "the file is empty"),
        (b"text", "not an image"),
    ]:
        with pytest.raises(UnreadableImageError, match=message):
            limits.decode(file)


@pytest.mark.parametrize("name", ["megapixels", "megabytes", "per_minute", "queue"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_limits_that_let_nothing_in_are_refused(name, value):
    with pytest.raises(ValueError, match="is out of range; give a number above 0"):
        Limits(**{name: value})


def ask(door, path, body=b"", headers=()):
    """Status and what the door, or the server behind it, says to a POST."""
    sent = []
    parts = [{"type": "http.request", "body": body[:5], "more_body": True}, {"type": "http.request", "body": body[5:]}]

    async def receive():
        return parts.pop(0) if parts else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers), "client": ("1.2.3.4", 5)}
    asyncio.run(door(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]


@pytest.fixture
def door(tmp_path):
    """In front of a server that says what it was sent."""

    async def echo(scope, receive, send):
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "link").symlink_to("/etc")
    return Door(echo, tmp_path / "uploads", Limits(megabytes=1, per_minute=2))


def test_only_uploads_may_be_named(door):
    inside = str(door.uploads / "abc" / "photo.png")
    for body in (json.dumps({"data": [{"path": inside}, "m"]}), json.dumps({"path": None}), "no json", "[1, 2]"):
        assert ask(door, "/gradio_api/queue/join", body.encode()) == (200, body.encode())
    for path in (
        "/etc/passwd",
        f"{door.uploads}/../secret",
        f"{door.uploads}/link/passwd",
        f"{door.uploads}-else/a.png",
        "http://example.org/a.png",
        f"{door.uploads}/http://example.org",
        "a\0b",
        "",
        7,
        {"path": inside},
    ):
        status, said = ask(door, "/gradio_api/call/explain", json.dumps({"data": [{"path": path}, "m"]}).encode())
        assert status == 400, path
        assert "not that of an uploaded file" in json.loads(said)["detail"]


def test_large_requests_and_many_uploads_are_refused(door):
    assert ask(door, "/gradio_api/call/explain", b"0" * (MOST_JSON + 1))[0] == 413
    assert ask(door, "/gradio_api/upload")[0] == 411
    too_much = str(1_000_000 + FORM + 1).encode()
    assert ask(door, "/gradio_api/upload", headers=[(b"content-length", too_much)])[0] == 413
    answers = [ask(door, "/gradio_api/upload", b"photo", [(b"content-length", b"5")]) for _ in range(3)]
    assert [status for status, _ in answers] == [200, 200, 429]
    assert answers[0][1] == b"photo"
    assert "more than 2 requests a minute" in json.loads(answers[2][1])["detail"]
