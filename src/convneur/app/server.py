"""The page's server, in a thread of its own; clients that are slow or send nothing do not stop others."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0  # from a connection, or the answer before, to the end of a request's headers
TAKE_SECONDS = 30.0  # in which a client must have taken some of its answer
MOST_CONNECTIONS = 400  # below the usual limit of open files, 1024
CLOSE_SECONDS = 3.0  # for the answers that are under way when the page ends


class Connection(H11Protocol):
    """HTTP of one client. uvicorn itself waits for ever for headers, and for clients that do not read."""

    _idle_since = 0.0
    _begin_timer: asyncio.TimerHandle | None = None
    _take_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request; of too many connections, the one that has waited longest for its request goes."""
        super().connection_made(transport)
        self._expect_request()
        if len(self.connections) > MOST_CONNECTIONS:
            idle = [each for each in self.connections if isinstance(each, Connection) and each._is_idle]
            min(idle, key=lambda each: each._idle_since).transport.abort()  # this one at least is idle

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing any more."""
        for timer in (self._begin_timer, self._take_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Expect the next request."""
        self._expect_request()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The client does not take its answer for now."""
        super().pause_writing()
        self._take_timer = self.loop.call_later(TAKE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        if self._take_timer is not None:
            self._take_timer.cancel()

    def _expect_request(self) -> None:
        if self._begin_timer is not None:
            self._begin_timer.cancel()
        self._idle_since = self.loop.time()
        self._begin_timer = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self._is_idle:
            self.transport.abort()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _should_upgrade(self) -> bool:
        return False  # the page has no websockets, and uvicorn would say how to install them


class PageServer:
    """Serves from its own thread until it is closed.

    Args:
        app: ASGI.
        listener: Bound to the address.
    """

    def __init__(self, app: Any, listener: socket.socket) -> None:
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=True,
            forwarded_allow_ips=["127.0.0.1", "::1"],
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)

    def start(self) -> None:
        """Return when requests are answered.

        Raises:
            OSError: If the server cannot start; its log says why.
        """
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise OSError("the page's server did not start; the lines above say why")
            time.sleep(0.01)

    def close(self) -> None:
        """End it; an answer that is being computed is not waited for."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what is cut off now is no error
        self._server.should_exit = True
        self._thread.join(CLOSE_SECONDS)


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to an address.

    Args:
        host: Name or address.
        port: 0 for any that is free.

    Raises:
        ValueError: If there is no such port.
        OSError: If it cannot be listened on, in one line that says what to do.
    """
    if not 0 <= port <= 65535:  # the C library would take it for another one
        raise ValueError(f"--port {port} is out of range; give 0 to 65535")
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen()
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OSError(f"cannot listen on {host}, port {port} ({reason}); give another --port or --host") from error
    return listener
