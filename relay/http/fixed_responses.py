"""Answers whose every byte but the date is known when the relay starts."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11

from relay.core.clock import now_ms

_END: Final = b"\r\n\r\n"


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
        await writer.write(b"".join((self._opening, _date(), _END, body)))
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
        """Give the response to return from a handler."""
        # An HTTP/1.0 client gets its connection closed, which it always understands.
        persistent = request.keep_alive and request.version >= HttpVersion11
        return self._kept if persistent else self._closed


def _date() -> bytes:
    return _written(now_ms() // 1000)


@lru_cache(maxsize=1)
def _written(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode("ascii")
