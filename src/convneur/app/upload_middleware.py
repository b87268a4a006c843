"""What clients send, looked at before the page's own server is: uploads, questions, and the addresses that they ask.

Gradio counts uploads by what their headers say, keeps them under names that follow from their content, copies them when
they are asked about, and has many more addresses than the page needs. So uploads are taken here, and a question is
passed on without its file: the function that answers finds it by `upload_of`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qs

import anyio.to_thread
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from convneur.app.asgi import Body, GoneError, Message, Receive, RefusedError, Send, Server, refuse, respond
from convneur.app.limits import Limits, RateLimit
from convneur.app.uploads import NOT_AN_UPLOAD, Uploads
from convneur.models.registry_utils import choose

MOST_JSON = 100_000  # bytes of a request that is no upload
FORM = 100_000  # bytes of an upload around its file
API = "/gradio_api"
FILE = f"{API}/file="
ANSWER = f"{API}/call/explain/"
JOIN, CALL = f"{API}/queue/join", f"{API}/call/explain"
QUESTION = '{"data": [{"path": PATH, "meta": {"_type": "gradio.FileData"}}, MODEL]}'
# What the page in a browser and gradio_client ask for. Gradio has more: addresses that fetch from the web, run ffmpeg,
# or end in a traceback when they are asked for what is not there.
READ = (
    *("/", "/config", "/theme.css", "/robots.txt", "/manifest.json", "/favicon.ico", "/logout"),
    *(f"{API}/{name}" for name in ("info", "queue/data", "startup-events", "user", "token", "app_id", "theme.css")),
)
READ_BELOW = ("/assets/", "/static/", "/svelte/", f"{API}/heartbeat/", ANSWER, FILE)
_STATE, _JSON = "convneur.upload", b"application/json"
_Model = TypeVar("_Model", bound=BaseModel)
_Name = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_-]{1,64}$")]


class _Named(BaseModel):
    model_config = ConfigDict(strict=True)
    path: Any


class _Question(BaseModel):
    model_config = ConfigDict(strict=True)
    data: tuple[_Named | None, str]
    fn_index: int | None = None
    session_hash: _Name | None = None


class _Cancel(BaseModel):
    model_config = ConfigDict(strict=True)
    event_id: _Name
    session_hash: _Name = "none"
    fn_index: int = 0


class UploadMiddleware:
    """A server (ASGI) in front of another.

    Args:
        app: The other.
        uploads: Where files are kept; no other may be named.
        limits: Of files, and of how many may be sent.
        models: Names that may be asked for.
        function: Number by which the page knows its one function.
        is_open: Whether a session, or the event of a program, has an answer to wait for.
    """

    def __init__(
        self,
        app: Server,
        uploads: Uploads,
        limits: Limits,
        models: Collection[str],
        function: int,
        is_open: Callable[[str], bool],
    ) -> None:
        self._app, self._uploads, self._limits, self._models = app, uploads, limits, models
        self._function, self._is_open = function, is_open
        self._too_large = f"the file is larger than the limit of {limits.megabytes:g} MB"
        self._uploaded, self._asked, self._logged_in = (RateLimit(limits.per_minute) for _ in range(3))

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].rstrip("/") or "/"
        is_upload = path == f"{API}/upload"
        body = (
            Body(receive, self._limits.max_bytes + FORM, self._too_large)
            if is_upload
            else Body(receive, MOST_JSON, f"the request is larger than {MOST_JSON:,} bytes; upload the image first")
        )
        try:
            if path == f"{API}/upload_progress":  # which the page in a browser asks for, and uploads here do not tell
                await _stream_done(send)
            elif scope["method"] in ("GET", "HEAD"):
                self._check_address(path, scope)
                await self._app(scope, receive, send)
            elif scope["method"] != "POST":
                raise RefusedError(f"the page does not know the method {scope['method'][:20]}", 405)
            elif is_upload:
                await self._upload(scope, body, send)
            else:
                content, kind = await self._rewritten(path, scope, body)
                await self._app(_with_body(scope, content, kind), _again(content, receive), send)
        except RefusedError as error:
            await refuse(body, send, error)
        except GoneError:
            return

    def _check_address(self, path: str, scope: Message) -> None:
        if path not in READ and not path.startswith(READ_BELOW):
            raise RefusedError("the page has nothing at this address", 404)
        if path.startswith(FILE) and not self._uploads.holds(path.removeprefix(FILE)):
            raise RefusedError("this is not a file of the page", 403)
        waited_for = None
        if path.startswith(ANSWER):
            waited_for = path.removeprefix(ANSWER)
        elif path == f"{API}/queue/data":
            waited_for = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
        if waited_for is not None and not self._is_open(waited_for):
            raise RefusedError("there is no answer to wait for; ask first", 404)

    async def _upload(self, scope: Message, body: Body, send: Send) -> None:
        await self._check_login(scope)
        self._uploaded.admit(client_of(scope))
        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > self._limits.max_bytes + FORM:
            raise RefusedError(self._too_large, 413)
        if not headers.get("content-type", "").startswith("multipart/form-data"):
            raise RefusedError("an upload is a form with one file; curl -F files=@photo.jpg sends one", 400)
        request = Request(dict(scope), body)
        try:
            form = await MultiPartParser(headers, request.stream(), max_files=1, max_fields=1).parse()
        except MultiPartException as error:
            raise RefusedError(f"the upload is not a form with one file ({error.message.rstrip('.')})", 400) from error
        except FormParserError as error:
            raise RefusedError("the upload is not a form with one file (it is damaged)", 400) from error
        except OSError as error:
            raise RefusedError(f"the upload cannot be kept ({error.strerror})", 507) from error
        try:
            file = form.get("files")
            if not isinstance(file, UploadFile):
                raise RefusedError("the form has no file named files; curl -F files=@photo.jpg sends one", 400)
            if (file.size or 0) > self._limits.max_bytes:
                raise RefusedError(self._too_large, 413)
            kept = await anyio.to_thread.run_sync(self._uploads.add, file.file)
        except OSError as error:
            raise RefusedError(f"the upload cannot be kept ({error.strerror})", 507) from error
        finally:
            await form.close()
        await respond(send, 200, [kept])

    async def _check_login(self, scope: Message) -> None:
        """Ask the page who is logged in, which it checks itself at all other addresses."""
        answered: list[int] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered.append(message["status"])

        path = f"{API}/login_check"
        changed = {"method": "GET", "path": path, "raw_path": path.encode(), "query_string": b""}
        await self._app({**scope, **changed}, receive, send)
        if answered != [200]:
            raise RefusedError("log in first", 401)

    async def _rewritten(self, path: str, scope: Message, body: Body) -> tuple[bytes, bytes]:
        """What is passed on of a request, and the kind of its content: of JSON, what we have read and nothing else."""
        client = client_of(scope)
        if path == "/login":
            self._logged_in.admit(client)
            kind = Headers(scope=scope).get("content-type", "")
            return await body.read(), kind.encode("latin-1")
        if path in (f"{API}/cancel", f"{API}/reset"):
            return _parsed(_Cancel, await body.read(), '{"event_id": EVENT_ID}').model_dump_json().encode(), _JSON
        if path not in (JOIN, CALL):
            raise RefusedError(f"the page has no such endpoint; send questions to {CALL}", 404)
        question = _parsed(_Question, await body.read(), QUESTION)
        if question.fn_index not in (None, self._function):
            raise RefusedError("fn_index is not known; the page has one function, whose api_name is /explain", 400)
        file, model = question.data
        if model not in self._models:
            try:
                choose(model if len(model) < 100 else f"{model[:60]}...", self._models, "model")
            except ValueError as error:
                raise RefusedError(" ".join(str(error).split()), 400) from error
        if file is not None:
            if file.path not in self._uploads:
                raise RefusedError(NOT_AN_UPLOAD, 400)
            scope.setdefault("state", {})[_STATE] = file.path
        if path == JOIN and question.session_hash is None:
            raise RefusedError(f"the question has no session_hash; programs ask {CALL}", 400)
        self._asked.admit(client)
        passed_on: dict[str, Any] = {"data": [None, model]}
        if path == JOIN:
            passed_on |= {"fn_index": self._function, "session_hash": question.session_hash}
        return json.dumps(passed_on).encode(), _JSON


async def _stream_done(send: Send) -> None:
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'data: {"msg": "done"}\n\n'})


def upload_of(scope: Message) -> str | None:
    """The upload that a question names; None if it names none."""
    upload: str | None = scope.get("state", {}).get(_STATE)
    return upload


def client_of(scope: Message) -> str:
    """Address that a request comes from, without its port: of a proxy on this machine, the one that it names."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def _parsed(kind: type[_Model], body: bytes, example: str) -> _Model:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "the request"
        line = " ".join(f"{place} is refused ({first['msg']}); send {example}".split())
        raise RefusedError(line, 400) from error


def _with_body(scope: Message, content: bytes, kind: bytes) -> Message:
    told = (b"content-type", b"content-length", b"transfer-encoding", b"content-encoding")
    headers = [(name, value) for name, value in scope["headers"] if name not in told]
    headers += [(b"content-type", kind), (b"content-length", str(len(content)).encode())]
    return {**scope, "headers": headers}


def _again(content: bytes, receive: Receive) -> Receive:
    """What was read already, and then what comes: that the client has gone."""
    read = iter([{"type": "http.request", "body": content, "more_body": False}])

    async def next_message() -> Message:
        return next(read, None) or await receive()

    return next_message
