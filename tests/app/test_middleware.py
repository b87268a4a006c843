"""What the page turns away before its own server sees it: too much, too slow, from elsewhere, or not understood."""

import asyncio
import io
import json
import time

import pytest

pytest.importorskip("gradio", reason="needs gradio: pip install 'convneur[app]'")

from convneur.app import asgi
from convneur.app.host_middleware import HostMiddleware, host_name
from convneur.app.limits import Limits
from convneur.app.upload_middleware import FORM, MOST_JSON, UploadMiddleware, upload_of
from convneur.app.uploads import KEPT_SECONDS, Uploads

API = "/gradio_api"
KIND = (b"content-type", b"multipart/form-data; boundary=b")
MEGABYTE = 1_000_000


def ask(server, path="/", body=(), headers=(), method="GET", scope=(), wait=0.0):
    """Status, body and headers of an answer to a request whose body comes in parts; and how many parts were taken."""
    sent, parts = [], list(body) or [b""]
    count = len(parts)

    async def receive():
        if wait:
            await asyncio.sleep(wait)
        if not parts:
            return {"type": "http.disconnect"}
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    request = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
    request |= {"headers": list(headers), "client": ("1.2.3.4", 5), "server": ("127.0.0.1", 7860), **dict(scope)}
    asyncio.run(server(request, receive, send))
    if not sent or sent[0]["type"] != "http.response.start":
        return sent
    said = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], said, dict(sent[0]["headers"]), count - len(parts)


async def echo(scope, receive, send):
    """A server that says what it was sent."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    seen = {
        "headers": [name.decode() for name, _ in scope["headers"]],
        "body": body.decode(),
        "upload": upload_of(scope),
    }
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(seen).encode()})


# ---- Host and Origin

HOSTS = HostMiddleware(echo, ["Page.Example.org", "192.168.1.5"])


@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        (["localhost:7860"], 200),
        (["127.0.0.1:7860"], 200),
        (["[::1]:7860"], 200),
        (["[0:0::1]"], 200),
        (["LOCALHOST.:8080"], 200),  # the near end of a tunnel may have another port
        (["page.example.org"], 200),
        (["192.168.1.5:7860"], 200),
        (["evil.example"], 421),
        (["localhost.evil.example:7860"], 421),
        (["127.0.0.1.evil.example"], 421),
        (["127.0.0.2"], 421),
        (["2130706433"], 421),
        (["localhost@evil.example"], 400),
        (["evil@localhost:7860"], 400),
        (["localhost:7860/x"], 400),
        (["localhost:0"], 400),
        (["localhost:99999"], 400),
        (["localhost:7860\n"], 400),
        (["löcalhost"], 400),
        ([""], 400),
        ([], 400),
        (["localhost", "evil.example"], 400),
        (["localhost", "localhost"], 400),
    ],
)
def test_only_allowed_hosts_are_answered(hosts, status):
    got, said, headers, _ = ask(HOSTS, headers=[(b"host", host.encode("latin-1")) for host in hosts])
    assert got == status
    assert status == 200 or "\n" not in json.loads(said)["detail"]
    assert b"content-security-policy" in headers


@pytest.mark.parametrize(
    ("origins", "status"),
    [
        (["http://localhost:7860"], 200),
        (["http://127.0.0.1:7860"], 200),
        (["https://page.example.org:7860"], 200),
        (["http://localhost:3000"], 403),  # another server of this machine
        (["http://localhost"], 403),
        (["http://evil.example:7860"], 403),
        (["null"], 403),
        ([""], 403),
        (["file://"], 403),
        (["chrome-extension://localhost:7860"], 403),
        (["http://localhost:7860@evil.example"], 403),
        (["http://localhost:7860/"], 403),
        (["http://localhost:7860", "http://evil.example"], 403),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_only_the_pages_own_origin_may_ask_and_none_is_echoed(origins, status, method):
    headers = [(b"host", b"localhost:7860"), *((b"origin", origin.encode()) for origin in origins)]
    got, _, answered, _ = ask(HOSTS, headers=headers, method=method)
    assert got == status
    assert not [name for name in answered if name.startswith(b"access-control")]


def test_behind_tls_the_ports_need_not_be_named():
    for origin, status in (("https://page.example.org", 200), ("https://page.example.org:444", 403)):
        headers = [(b"host", b"page.example.org"), (b"origin", origin.encode())]
        assert ask(HOSTS, headers=headers)[0] == status


def test_what_a_client_says_of_proxies_and_ranges_is_not_passed_on():
    told = [b"x-forwarded-host", b"x-forwarded-proto", b"x-gradio-server", b"origin", b"range"]
    values = [b"evil.example", b"https", b"http://evil.example", b"http://localhost:7860", b"bytes=1-2-3"]
    headers = [(b"host", b"localhost:7860"), (b"accept", b"*/*"), *zip(told, values, strict=True)]
    assert json.loads(ask(HOSTS, headers=headers)[1])["headers"] == ["host", "accept"]


def test_websockets_are_closed_whoever_asks():
    for host in (b"localhost:7860", b"evil.example"):
        sent = ask(HOSTS, headers=[(b"host", host)], scope={"type": "websocket"})
        assert [message["type"] for message in sent] == ["websocket.close"]


def test_by_default_the_address_that_a_connection_came_to_is_allowed():
    bound = HostMiddleware(echo, [])
    for own, host, status in [
        ("192.168.1.7", b"192.168.1.7:7860", 200),
        ("::ffff:192.168.1.7", b"192.168.1.7:7860", 200),
        ("fe80::1%eth0", b"[fe80::1]:7860", 200),
        ("192.168.1.7", b"192.168.1.8:7860", 421),
        ("192.168.1.7", b"localhost:7860", 200),
    ]:
        assert ask(bound, headers=[(b"host", host)], scope={"server": (own, 7860)})[0] == status
    assert ask(HOSTS, headers=[(b"host", b"192.168.1.7")], scope={"server": ("192.168.1.7", 7860)})[0] == 421


@pytest.mark.parametrize("name", ["http://x", "x:80", "*", "", "a b", "a/b", "u@x", "[::1", "::1::2"])
def test_what_is_no_name_of_a_host_is_refused(name):
    with pytest.raises(ValueError, match="is not the name of a host; give names such as"):
        host_name(name)


# ---- bodies


@pytest.fixture
def uploads(tmp_path):
    return Uploads(tmp_path, most=3)


@pytest.fixture
def middleware(uploads):
    """Of a page whose users are all logged in, and which has an answer for the session ``open``."""
    limits = Limits(megabytes=1, per_minute=20)
    return UploadMiddleware(echo, uploads, limits, ["m"], function=7, is_open=lambda session: session == "open")


def form(content: bytes, name: str = "files") -> list[bytes]:
    """A form with one file, in parts of 64 kB, as chunks arrive."""
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="../../a.png"\r\n\r\n'.encode()
    whole = head + content + b"\r\n--b--\r\n"
    return [whole[start : start + 65536] for start in range(0, len(whole), 65536)]


def upload(middleware, parts, headers=(KIND,)):
    return ask(middleware, f"{API}/upload", parts, headers, "POST")


def test_an_upload_is_kept_under_a_name_of_ours(middleware, uploads):
    paths = [json.loads(upload(middleware, form(b"photo"))[1])[0] for _ in range(2)]
    assert len(set(paths)) == 2  # the same content of two clients is two files
    assert sorted(map(str, uploads.folder.iterdir())) == sorted(paths)
    assert uploads.take(paths[0]) == b"photo"


def test_what_arrives_is_counted_and_nothing_of_it_is_kept(middleware, uploads):
    for length in ([], [(b"content-length", b"5")], [(b"transfer-encoding", b"chunked")]):
        status, said, headers, _ = upload(middleware, form(b"0" * 72 * MEGABYTE)[:60], [KIND, *length])
        assert status == 413
        assert json.loads(said)["detail"] == "the file is larger than the limit of 1 MB"
        assert headers[b"connection"] == b"close"
    assert upload(middleware, form(b"0" * (MEGABYTE + 1)))[0] == 413  # a byte too many, and the form within its limit
    assert upload(middleware, form(b"0" * MEGABYTE))[0] == 200
    assert [path.stat().st_size for path in uploads.folder.iterdir()] == [MEGABYTE]
    declared = [KIND, (b"content-length", str(MEGABYTE + FORM + 1).encode())]
    assert upload(middleware, [], declared)[0] == 413


@pytest.mark.parametrize(
    "path", ["/login", f"{API}/queue/join", f"{API}/call/explain", f"{API}/cancel", f"{API}/reset"]
)
def test_every_other_body_is_counted_too(middleware, path):
    status, said, headers, _ = ask(middleware, path, [b"0" * 10_000] * (MOST_JSON // 10_000 + 1), method="POST")
    assert status == 413
    assert f"larger than {MOST_JSON:,} bytes" in json.loads(said)["detail"]
    assert headers[b"connection"] == b"close"


@pytest.mark.parametrize(
    ("parts", "headers", "line"),
    [
        ([b"x"], [], "a form with one file"),
        ([b"x" * 1000], [KIND], "a form with one file"),
        ([b"x"], [(b"content-type", b"multipart/form-data")], "boundary"),
        ([form(b"x")[0][:-30]], [KIND], "no file"),
        (form(b"x", name="other"), [KIND], "no file named files"),
        ([form(b"x")[0].replace(b"--b--\r\n", b"") + form(b"y")[0]], [KIND], "Too many files"),
        (
            [
                b"".join(b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\nv\r\n' for _ in range(500))
                + form(b"x")[0]
            ],
            [KIND],
            "Too many fields",
        ),
        ([b"--b\r\n" + b"X: 1\r\n" * 5000 + form(b"x")[0][5:]], [KIND], "a form with one file"),
    ],
    ids=["no form", "garbage", "no boundary", "cut off", "other name", "two files", "many fields", "many headers"],
)
def test_forms_that_are_no_upload_are_refused_in_one_line(middleware, uploads, parts, headers, line):
    status, said, *_ = upload(middleware, parts, headers)
    assert status == 400
    assert line in json.loads(said)["detail"]
    assert "\n" not in json.loads(said)["detail"]
    assert not list(uploads.folder.iterdir())


def test_a_client_that_leaves_or_sends_too_slowly_leaves_nothing(middleware, uploads, monkeypatch):
    assert ask(middleware, f"{API}/upload", form(b"0" * 200_000)[:2], [KIND], "POST")[0] == 400  # cut off
    monkeypatch.setattr(asgi, "GRACE", 0.05)
    monkeypatch.setattr(asgi, "SLOWEST", MEGABYTE * 1000)
    monkeypatch.setattr(asgi, "LINGER", 0.05)
    for path in ("upload", "call/explain"):
        status, said, *_ = ask(
            middleware, f"{API}/{path}", [form(b"0")[0][:60], *[b"0"] * 99], [KIND], "POST", wait=0.03
        )
        assert status == 408
        assert "too slowly" in json.loads(said)["detail"]
    assert not list(uploads.folder.iterdir())


def test_too_many_of_one_client_are_refused(uploads):
    middleware = UploadMiddleware(echo, uploads, Limits(megabytes=1, per_minute=2), ["m"], 7, lambda _: True)
    assert [upload(middleware, form(b"photo"))[0] for _ in range(3)] == [200, 200, 429]
    question = [json.dumps({"data": [None, "m"]}).encode()]
    answers = [ask(middleware, f"{API}/call/explain", question, method="POST") for _ in range(3)]
    assert [status for status, *_ in answers] == [200, 200, 429]
    assert "more than 2 requests a minute" in json.loads(answers[2][1])["detail"]
    logins = [ask(middleware, "/login", [b"username=a&password=b"], method="POST")[0] for _ in range(3)]
    assert logins == [200, 200, 429]


def test_who_is_not_logged_in_uploads_nothing(uploads):
    async def login_page(scope, receive, send):
        assert scope["path"] == f"{API}/login_check"
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    middleware = UploadMiddleware(login_page, uploads, Limits(), ["m"], 7, lambda _: True)
    assert upload(middleware, form(b"photo"))[0] == 401
    assert not list(uploads.folder.iterdir())


# ---- questions


def question(middleware, body, path="call/explain"):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, said, *_ = ask(middleware, f"{API}/{path}", [body[:5], body[5:]], method="POST")
    return status, json.loads(said)


def test_a_question_is_passed_on_without_its_file_and_what_else_it_says(middleware):
    path = json.loads(upload(middleware, form(b"photo"))[1])[0]
    file = {"path": path, "url": "http://127.0.0.1:1/", "meta": {"_type": "gradio.FileData"}}
    status, seen = question(
        middleware, {"data": [file, "m"], "event_data": {"a": 1}, "batched": True, "oauth_token": "t"}
    )
    assert status == 200
    assert (json.loads(seen["body"]), seen["upload"]) == ({"data": [None, "m"]}, path)
    joined = {"data": [None, "m"], "fn_index": 7, "session_hash": "abc", "trigger_id": 3}
    status, seen = question(middleware, joined, "queue/join")
    assert json.loads(seen["body"]) == {"data": [None, "m"], "fn_index": 7, "session_hash": "abc"}
    assert seen["upload"] is None


@pytest.mark.parametrize(
    "path",
    [
        None,
        7,
        "",
        [],
        {},
        "/etc/passwd",
        "../../etc/passwd",
        "a\0b",
        "http://example.org/a.png",
        "{folder}/x",
        "{folder}",
    ],
)
def test_only_uploads_may_be_named(middleware, uploads, path):
    path = path.replace("{folder}", str(uploads.folder)) if isinstance(path, str) else path
    (uploads.folder / "x").write_bytes(b"not an upload")
    status, said = question(middleware, {"data": [{"path": path}, "m"]})
    assert (status, "not that of an uploaded file" in said["detail"]) == (400, True)


@pytest.mark.parametrize(
    "body",
    [
        {"data": ["photo.png", "m"]},
        {"data": [{}, "m"]},
        {"data": []},
        {"data": [None]},
        {"data": [None, "m", 1]},
        {"data": [None, 3]},
        {"data": [None, "/etc"]},
        {"data": [None, "x" * 50_000]},
        {"data": [None, None]},
        {"data": {}},
        {},
        [],
        7,
        None,
        {"data": [None, "m"], "fn_index": 99},
        {"data": [None, "m"], "fn_index": True},
        {"data": [None, "m"], "session_hash": "a/b"},
        {"data": [None, "m"], "session_hash": "a" * 65},
        b"",
        b"no json",
        b"[" * 50_000,
        b'{"data": ' + b"[" * 40_000 + b"]" * 40_000 + b"}",
        b'{"data": [null, "m"], "fn_index": 1e999}',
        b'{"data": [null, "m"], "fn_index": ' + b"9" * 5000 + b"}",
        b'{"data": [NaN, "m"]}',
        b'{"data": [null, "\\ud800"]}',
        b'{"data": [null, "\xff"]}',
    ],
    ids=lambda body: str(body)[:40],
)
def test_what_is_no_question_is_refused_in_one_line(middleware, body):
    status, said = question(middleware, body)
    assert status == 400
    assert said["error"] == said["detail"]
    assert "\n" not in said["detail"]
    assert len(said["detail"]) < 300


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", f"{API}/call/other", 404),
        ("POST", f"{API}/run/explain", 404),
        ("POST", f"{API}/component_server", 404),
        ("POST", f"{API}/process_recording", 404),
        ("POST", f"{API}/vibe-edit", 404),
        ("DELETE", "/", 405),
        ("GET", f"{API}/proxy=http://example.org", 404),
        ("GET", f"{API}/file=http://example.org/a.png", 403),
        ("GET", f"{API}/file=/etc/passwd", 403),
        ("GET", f"{API}/file={{folder}}/../secret", 403),
        ("GET", f"{API}/file={{folder}}/link", 403),
        ("GET", f"{API}/file=\0", 403),
        ("GET", f"{API}/file={{folder}}/picture.png", 200),
        ("GET", f"{API}/queue/data", 404),
        ("GET", f"{API}/call/explain/unknown", 404),
        ("GET", f"{API}/call/explain/open", 200),
        ("GET", "http://evil.example/", 404),
        ("GET", "/config", 200),
        ("GET", f"{API}/upload_progress", 200),
    ],
)
def test_addresses_that_the_page_does_not_need_are_closed(middleware, uploads, tmp_path_factory, method, path, status):
    secret = uploads.folder.parent / "secret"
    secret.write_text("secret")
    (uploads.folder / "link").symlink_to(secret)
    (uploads.folder / "picture.png").write_bytes(b"")
    assert ask(middleware, path.replace("{folder}", str(uploads.folder)), method=method)[0] == status


# ---- files


def test_an_upload_answers_once_and_the_oldest_of_too_many_goes(uploads):
    paths = [uploads.add(io.BytesIO(bytes([number]))) for number in range(4)]
    assert [path in uploads for path in paths] == [False, True, True, True]
    assert uploads.take(paths[1]) == b"\1"
    for gone in paths[:2]:
        with pytest.raises(ValueError, match="not that of an uploaded file"):
            uploads.take(gone)
    assert sorted(map(str, uploads.folder.iterdir())) == sorted(paths[2:])


def test_nothing_is_written_when_the_page_has_ended(uploads):
    uploads.close()
    for write in (lambda: uploads.picture(b"x"), lambda: uploads.add(io.BytesIO(b"x"))):
        with pytest.raises(OSError, match="has ended"):
            write()
    assert not list(uploads.folder.iterdir())


def test_nothing_is_kept_for_20_minutes(uploads):
    path, picture = uploads.add(io.BytesIO(b"x")), uploads.picture(b"y")
    uploads.sweep(time.time() + KEPT_SECONDS - 60)
    assert path in uploads
    uploads.sweep(time.time() + KEPT_SECONDS + 1)
    assert path not in uploads
    assert not uploads.holds(picture)
    assert not list(uploads.folder.iterdir())
    assert KEPT_SECONDS < 20 * 60
