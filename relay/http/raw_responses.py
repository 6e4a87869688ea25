"""Responses written byte for byte: the site's, and those that never change."""

from __future__ import annotations

import asyncio
import html
import json
import socket
import struct
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from relay.core.clock import now_ms
from relay.core.http.headers import Headers

_PAGE: Final = (
    "<!doctype html><html lang=en><meta charset=utf-8>"
    "<meta name=viewport content='width=device-width'><title>{title}</title>"
    "<body style='font:1rem/1.5 system-ui;max-width:36rem;margin:15vh auto;"
    "padding:0 1rem'><h1>{title}</h1><p>{message}</p>\n"
)


def chunk(data: bytes) -> bytes:
    """Frame data as one chunk (RFC 9112, 7.1); nothing for no data."""
    return b"%x\r\n%s\r\n" % (len(data), data) if data else b""


class SiteResponse(web.StreamResponse):
    """A streamed answer whose header lines keep their order, case and bytes.

    aiohttp's own response re-encodes header values and adds Server, Date and
    Content-Type; an answer of the site's must pass as it is. ``length`` is the
    body's size in bytes, None if unknown; ``empty`` answers have no body
    whatever their headers announce. Signals and middlewares cannot change it.
    """

    def __init__(
        self,
        status: int,
        reason: bytes,
        headers: Headers,
        *,
        length: int | None,
        empty: bool = False,
        body: bytes = b"",
    ) -> None:
        super().__init__(status=status)
        self._line = b"%d %s" % (status, reason)
        self._fields = headers
        self._length = length
        self._bare = empty
        self._own_body = body
        self._out: AbstractStreamWriter | None = None
        self._in_chunks = False
        self._delimited = True
        self._persistent = True
        self._over = False

    @property
    def prepared(self) -> bool:
        """Whether the head was written."""
        return self._out is not None

    @property
    def keep_alive(self) -> bool:
        """Whether the visitor's connection serves further requests."""
        return self._persistent

    def force_close(self) -> None:
        """Close the visitor's connection after this answer."""
        self._persistent = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write the head and, for a small answer of our own, the body."""
        if self._out is None:
            await self.begin(request, self._own_body)
        return self._out

    async def begin(self, request: web.BaseRequest, first: bytes = b"") -> None:
        """Write the head together with what is there of the body: one packet."""
        modern = request.version >= HttpVersion11
        counted = self._bare or self._length is not None
        self._in_chunks = not counted and modern
        self._delimited = counted or modern
        self._persistent &= request.keep_alive and self._delimited
        self._out = request.writer
        await self._out.write(self._head(modern) + self._framed(first))

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write the next bytes of the body, waiting while the visitor is slow."""
        if self._out is not None and not self._over:
            await self._out.write(self._framed(bytes(data)))

    async def write_eof(self, data: bytes = b"") -> None:
        """End the answer; a cut one stays cut."""
        if self._out is None or self._over:
            return
        self._over = True
        end = b"0\r\n\r\n" if self._in_chunks else b""
        if last := self._framed(data) + end:
            await self._out.write(last)
        await self._out.drain()

    def cut(self, request: web.BaseRequest) -> None:
        """End the connection so that nobody takes the answer for a whole one.

        An answer without length or chunks is over when the connection closes:
        there only a reset shows that it was cut.
        """
        self._over = True
        self._persistent = False
        transport = request.transport
        if transport is None:
            return
        if self._delimited:
            transport.close()
        else:
            _reset(transport)

    def _framed(self, data: bytes) -> bytes:
        if self._bare:
            return b""
        return chunk(data) if self._in_chunks else data

    def _head(self, modern: bool) -> bytes:  # noqa: FBT001 - private, named at its call
        lines = [b"HTTP/1.1 " if modern else b"HTTP/1.0 ", self._line, b"\r\n"]
        lines += [b"%s: %s\r\n" % field for field in self._fields]
        if self._in_chunks:
            lines.append(b"Transfer-Encoding: chunked\r\n")
        if self.status == HTTPStatus.SWITCHING_PROTOCOLS:
            self._persistent = False
        elif not self._persistent:
            lines.append(b"Connection: close\r\n")
        elif not modern:
            lines.append(b"Connection: keep-alive\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)


def _reset(transport: asyncio.Transport) -> None:
    """End a connection with a reset: no time to linger (socket(7), SO_LINGER)."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def own_answer(
    request: web.BaseRequest, status: int, message: str, extra: Headers = ()
) -> SiteResponse:
    """Make a small answer of the relay's own: a page, or JSON by Accept.

    It closes the connection: what is left of the request must not be read as
    the next one.
    """
    title = HTTPStatus(status).phrase
    accept = request.headers.get("Accept", "")
    if "application/json" in accept and "text/html" not in accept:
        kind = b"application/json"
        code = title.lower().replace(" ", "_")
        text = json.dumps({"error": {"code": code, "message": message}})
    else:
        kind = b"text/html; charset=utf-8"
        text = _PAGE.format(title=title, message=html.escape(message))
    body = text.encode()
    response = SiteResponse(
        status,
        title.encode(),
        [
            (b"Content-Type", kind),
            (b"Content-Length", b"%d" % len(body)),
            (b"Cache-Control", b"no-store"),
            (b"X-Content-Type-Options", b"nosniff"),
            *extra,
        ],
        length=len(body),
        empty=request.method == "HEAD",
        body=body,
    )
    response.force_close()
    return response


class _Packet(web.StreamResponse):
    """The bytes of one answer. It keeps no state, so one serves all requests."""

    def __init__(
        self, status: int, headers: Mapping[str, str], body: bytes, *, last: bool
    ) -> None:
        super().__init__(status=status)
        self._last = last
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if last:
            lines.append("Connection: close")
        self._opening = "\r\n".join([*lines, "Date: "]).encode("ascii")
        self._own_body = body

    @property
    def keep_alive(self) -> bool:
        """Whether the connection serves further requests."""
        return not self._last

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Write all of it at once."""
        body = b"" if request.method == "HEAD" else self._own_body
        writer = request.writer
        await writer.write(b"".join((self._opening, http_date(), b"\r\n\r\n", body)))
        await writer.drain()
        return writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: the end is written."""


class FixedAnswer:
    """One answer to all GET and HEAD requests.

    aiohttp's own response copies, completes and encodes its headers anew for
    each request, which costs a third of all it does for a short text.
    Middlewares and signals cannot change this one.
    """

    def __init__(
        self, status: int, headers: Mapping[str, str], body: bytes = b""
    ) -> None:
        self._kept = _Packet(status, headers, body, last=False)
        self._closed = _Packet(status, headers, body, last=True)

    def to(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the response to return from a handler."""
        # An HTTP/1.0 client gets its connection closed, which it always understands.
        persistent = request.keep_alive and request.version >= HttpVersion11
        return self._kept if persistent else self._closed


def http_date() -> bytes:
    """Return the Date of a response that is written now (RFC 9110, 6.6.1)."""
    return _formatted(now_ms() // 1000)


@lru_cache(maxsize=1)
def _formatted(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode("ascii")
