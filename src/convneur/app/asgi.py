"""What both middlewares speak: the types of ASGI, bodies that are counted, and refusals of one line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Server = Callable[[Message, Receive, Send], Awaitable[None]]

GRACE = 15.0  # seconds in which a body need not come fast
SLOWEST = 20_000  # bytes per second of a body after that, on average
LINGER = 2.0  # seconds for which a refused body is read on: a client that still sends would not see the answer


class RefusedError(ValueError):
    """What a client asks for and is not given.

    Args:
        line: Says why.
        status: Of HTTP.
    """

    def __init__(self, line: str, status: int) -> None:
        super().__init__(line)
        self.status = status


class GoneError(Exception):
    """The client has left in the middle of its request."""


class Body:
    """The body of a request: what arrives is counted, whatever the headers say, and has to arrive in time.

    Args:
        receive: Of the request.
        most: Bytes, at most.
        too_large: The line that refuses more.
    """

    def __init__(self, receive: Receive, most: int, too_large: str) -> None:
        self._receive, self._most, self._too_large = receive, most, too_large
        self._began, self._bytes, self._ended = asyncio.get_running_loop().time(), 0, False

    async def __call__(self) -> Message:
        """The next part.

        Raises:
            RefusedError: If it is too much, or comes too slowly.
            GoneError: If the client has left.
        """
        left = self._began + GRACE + self._bytes / SLOWEST - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(self._receive(), left)
        except asyncio.TimeoutError as error:
            raise RefusedError("the request came too slowly; send it again", 408) from error
        if message["type"] != "http.request":
            raise GoneError
        self._ended = not message.get("more_body", False)
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._most:
            raise RefusedError(self._too_large, 413)
        return message

    async def read(self) -> bytes:
        """All of it; see `__call__` for what is raised."""
        body = bytearray()
        while not self._ended:
            body += (await self()).get("body", b"")
        return bytes(body)

    async def drain(self) -> None:
        """Read on and forget, for no longer than `LINGER`."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._drain(), LINGER)

    async def _drain(self) -> None:
        while not self._ended:
            message = await self._receive()
            self._ended = message["type"] != "http.request" or not message.get("more_body", False)


async def refuse(body: Body, send: Send, error: RefusedError) -> None:
    """Answer with an error and one line, and close the connection."""
    await respond(send, error.status, {"detail": str(error), "error": str(error)}, body)


async def respond(send: Send, status: int, content: Any, body: Body | None = None) -> None:
    """Answer with JSON; with a ``body``, what is left of it is read, and then the connection is closed."""
    encoded = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(encoded)).encode())]
    if body is not None:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": encoded, "more_body": body is not None})
    if body is not None:
        await body.drain()
        await send({"type": "http.response.body", "body": b""})
