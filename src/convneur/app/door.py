"""What is turned away before the page's own server looks at it.

The server takes a file of an image as the path of an upload. It checks such paths itself, but would fetch addresses on
the web, and says nothing to the client of a path that it refuses.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

from convneur.app.limits import Limits, RateLimit, RefusedError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Server = Callable[[Message, Receive, Send], Awaitable[None]]

MOST_JSON = 1_000_000  # bytes of a request that is no upload
FORM = 100_000  # bytes of an upload around its file


class Door:
    """A server (ASGI) in front of another.

    Args:
        app: The other.
        uploads: Folder of its uploads; no file elsewhere may be named.
        limits: Of files, and of how many may be sent.
    """

    def __init__(self, app: Server, uploads: Path, limits: Limits) -> None:
        self.app, self.uploads, self.limits = app, uploads.resolve(), limits
        self.rate = RateLimit(limits.per_minute)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with an error and one line."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
        elif scope["path"].rstrip("/").endswith("/upload"):
            refused = self._refused_upload(scope)
            await (_answer(send, *refused) if refused else self.app(scope, receive, send))
        else:
            body = await _body(receive)
            refused = self._refused_body(body)
            await (_answer(send, *refused) if refused else self.app(scope, _again(body or b"", receive), send))

    def _refused_upload(self, scope: Message) -> tuple[int, str] | None:
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit():
            return 411, "the length of the upload is not told"
        if int(length) > self.limits.max_bytes + FORM:
            return 413, f"the file is larger than the limit of {self.limits.megabytes:g} MB"
        try:
            self.rate.admit(client_of(scope.get("client")))
        except RefusedError as error:
            return 429, str(error)
        return None

    def _refused_body(self, body: bytes | None) -> tuple[int, str] | None:
        if body is None:
            return 413, f"the request is larger than {MOST_JSON:,} bytes; upload the image first, then name it"
        try:
            paths = list(_paths(json.loads(body)))
        except (ValueError, RecursionError):  # no JSON, and so no file either; the server says what it thinks of it
            return None
        if all(isinstance(path, str) and self._is_upload(path) for path in paths):
            return None
        return 400, "the path is not that of an uploaded file; upload the image first, then give the path it was given"

    def _is_upload(self, path: str) -> bool:
        try:
            return Path(os.path.realpath(path)).is_relative_to(self.uploads) and "://" not in path
        except (ValueError, OSError):  # a zero byte, a loop of links
            return False


def client_of(client: Any) -> str:
    """Address that a request comes from, without its port: of a proxy on this machine, the one that it names."""
    return str(client[0]) if client else "unknown"


def _paths(value: Any) -> Iterator[Any]:
    """All that files of a request are called, however deep."""
    if isinstance(value, dict):
        if value.get("path") is not None:
            yield value["path"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _paths(each)


async def _body(receive: Receive) -> bytes | None:
    """A whole request; None if it is too large."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MOST_JSON:
            return None
    return body


def _again(body: bytes, receive: Receive) -> Receive:
    """What was read already, and then what comes: that the client has gone."""
    told = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def next_message() -> Message:
        return next(told, None) or await receive()

    return next_message


async def _answer(send: Send, status: int, line: str) -> None:
    body = json.dumps({"detail": line, "error": line}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
