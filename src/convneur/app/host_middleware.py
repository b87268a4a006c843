"""Which names the page answers to, and to whose pages.

A web site that somebody looks at must not reach the page through their browser: neither by a name that it lets point to
this machine (``Host``) nor from its own address (``Origin``).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from convneur.app.asgi import Body, Message, Receive, RefusedError, Send, Server, refuse

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z_-][0-9A-Za-z._-]*))(?::([0-9]{1,5}))?")
_PORTS = {"http": 80, "https": 443}
# Checked here, or read by uvicorn already. Gradio would believe them, echo an origin, or fail on a range.
_KEPT_BACK = frozenset(
    (b"origin", b"x-forwarded-host", b"x-forwarded-proto", b"x-gradio-server", b"range", b"if-range")
)
# The page loads nothing from elsewhere, and no other shows it in a frame. Gradio's scripts are inline and use eval.
_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'; base-uri 'self'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class HostMiddleware:
    """A server (ASGI) in front of another, which passes on what was sent to one of the allowed hosts, by its own pages.

    Args:
        app: The other.
        names: Of allowed hosts, beside those of the loopback. With none, the address that a connection came to.
    """

    def __init__(self, app: Server, names: Iterable[str]) -> None:
        self._app, self._named = app, frozenset(map(host_name, names))
        self._loopback = frozenset(LOOPBACK)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with an error and one line."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # the page has no websockets
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
            await send(message)

        try:
            self._check(scope)
        except RefusedError as error:
            await refuse(Body(receive, 0, ""), send_with_headers, error)
            return
        headers = [(name, value) for name, value in scope["headers"] if name not in _KEPT_BACK]
        await self._app({**scope, "headers": headers}, receive, send_with_headers)

    def _check(self, scope: Message) -> None:
        hosts, origins = _values(scope, b"host"), _values(scope, b"origin")
        allowed = self._loopback | (self._named or _own_address(scope))
        if len(hosts) != 1 or (host := _parsed(hosts[0])) is None:
            raise RefusedError("the request must name one host, as in 'Host: 127.0.0.1:7860'", 400)
        if host[0] not in allowed:
            raise RefusedError("the page is not known by this host name; --allowed-hosts gives it more names", 421)
        if origins and (len(origins) != 1 or not _is_allowed_origin(origins[0], allowed, host[1])):
            raise RefusedError("only the page itself may ask from a browser; the origin is another one", 403)


def host_name(name: str) -> str:
    """A name as it is compared: in small letters, IP addresses in their one short form.

    Raises:
        ValueError: If it is not the name of a host, or has a scheme or port; one line.
    """
    parsed = _parsed(f"[{name}]" if ":" in name and not name.startswith("[") else name)
    if parsed is None or parsed[1] is not None:
        raise ValueError(f"--allowed-hosts {name!r} is not the name of a host; give names such as page.example.org")
    return parsed[0]


def address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IP address, of IPv4 where it is one of IPv4 in the form of IPv6; None for anything else."""
    try:
        parsed = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed


def _parsed(host: str) -> tuple[str, int | None] | None:
    match = _HOST.fullmatch(host)
    if match is None:
        return None
    bracketed, name, port = match.groups()
    if bracketed is not None and address(bracketed) is None:
        return None
    if port is not None and not 0 < int(port) < 65536:
        return None
    name = (bracketed or name).lower().removesuffix(".")
    return str(address(name) or name), None if port is None else int(port)


def _is_allowed_origin(origin: str, allowed: frozenset[str], port: int | None) -> bool:
    """Whether it names an allowed host, at the port that the request came to; ``null`` does not."""
    scheme, separator, rest = origin.partition("://")
    parsed = _parsed(rest)
    if not separator or scheme not in _PORTS or parsed is None:
        return False
    default = _PORTS[scheme]
    return parsed[0] in allowed and (parsed[1] or default) == (port or default)


def _own_address(scope: Message) -> frozenset[str]:
    server = scope.get("server")
    return frozenset((str(address(server[0]) or server[0]),) if server else ())


def _values(scope: Message, header: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == header]
