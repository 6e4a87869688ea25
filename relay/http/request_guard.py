"""What never reaches the site: requests that two servers could read differently.

aiohttp's parser refuses most malformed requests; this refuses what it lets
through and a site behind the proxy might take for something else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from relay.core.http.headers import Headers, is_host, refuse_target

_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
"""18 digits are more than any body and fit every server's 64 bits."""


_VERSIONS: Final = frozenset({(1, 0), (1, 1)})


@dataclass(frozen=True, slots=True)
class Refusal:
    """The status and the sentence that answer a refused request."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class Framing:
    """How a request's body is delimited: ``length`` bytes, or in chunks.

    Both unset: there is no body.
    """

    length: int | None = None
    chunked: bool = False

    @property
    def has_body(self) -> bool:
        """Whether body framing goes to the site."""
        return self.chunked or self.length is not None


def every(headers: Headers, name: bytes) -> list[bytes]:
    """Return the values of a header in order; name is lower case."""
    return [value for field, value in headers if field.lower() == name]


def framing(headers: Headers) -> Framing | Refusal:
    """Read the body's framing, or return why it is ambiguous.

    A transfer coding other than exactly "chunked" is refused: servers differ
    in how they read lists, repeats and empty members.
    """
    codings = every(headers, b"transfer-encoding")
    lengths = every(headers, b"content-length")
    if codings:
        if lengths or len(codings) > 1 or codings[0].lower() != b"chunked":
            return Refusal(400, "The request's framing is ambiguous.")
        return Framing(chunked=True)
    if not lengths:
        return Framing()
    if len(lengths) > 1 or _LENGTH.fullmatch(lengths[0]) is None:
        return Refusal(400, "The request's Content-Length is malformed.")
    return Framing(length=int(lengths[0]))


def origin_form(target: str, headers: Headers) -> str:
    """Return the path and query of a target in absolute form for this very host.

    RFC 9112 3.2.2 wants it accepted. Any other target stays as it is.
    """
    hosts = every(headers, b"host")
    if len(hosts) != 1:
        return target
    host = hosts[0].decode("ascii", "replace").lower()
    for scheme in ("http://", "https://"):
        start = scheme + host
        if target[: len(start)].lower() == start:
            rest = target[len(start) :]
            if rest.startswith("/"):
                return rest
            if not rest or rest.startswith("?"):
                return "/" + rest
    return target


def refuse(
    method: str, target: str, headers: Headers, version: tuple[int, int] = (1, 1)
) -> Refusal | None:
    """Return why a request must not reach the site, None if it may."""
    if method == "CONNECT":
        return Refusal(405, "This server opens no tunnels.")
    # The parser also takes HTTP/0.9 and HTTP/2.0 in the form of HTTP/1.
    if version not in _VERSIONS:
        return Refusal(505, "This server speaks HTTP/1.0 and HTTP/1.1.")
    reason = refuse_target(target, method)
    if reason is not None:
        return Refusal(400, f"The request's target is refused: {reason}.")
    hosts = every(headers, b"host")
    # HTTP/1.0 may do without; the parser has refused that for 1.1.
    if len(hosts) > 1 or not all(is_host(host.decode("latin-1")) for host in hosts):
        return Refusal(400, "The request's Host is malformed.")
    return _refuse_body(method, headers, version)


def _refuse_body(
    method: str, headers: Headers, version: tuple[int, int]
) -> Refusal | None:
    framed = framing(headers)
    if isinstance(framed, Refusal):
        return framed
    if framed.chunked and version == (1, 0):
        # RFC 9112, 6.1: such framing is faulty, whatever the parser made of it.
        return Refusal(400, "HTTP/1.0 has no chunks.")
    if wants_websocket(headers) and (method != "GET" or framed.has_body):
        return Refusal(400, "A WebSocket is opened with GET and without a body.")
    return None


def wants_websocket(headers: Headers) -> bool:
    """Whether a request asks to go over to the WebSocket protocol."""
    asked = [value.lower() for value in every(headers, b"upgrade")]
    tokens = b",".join(every(headers, b"connection")).lower().split(b",")
    return asked == [b"websocket"] and b"upgrade" in [t.strip() for t in tokens]
