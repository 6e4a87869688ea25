"""Requests of the fast path on their way: from take-off to landing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aiohttp import StreamReader

from relay.core.http.forwarding import (
    Returned,
    chunk,
    ordinary_answer,
)
from relay.core.http.headers import Headers
from relay.http.fast_path import Visitor
from relay.proxy.balancing import Sites
from relay.proxy.settling import (
    Settled,
    close_answer,
)
from relay.proxy.upstream import Upstream
from relay.proxy.upstream_connection import Connection

Declines = Callable[[bytes], bool] | None
"""Says by Content-Type which answers are to be changed; None: none are."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that went out to an instance of the site, on this connection."""

    upstream: Upstream
    connection: Connection

    def abandon(self) -> None:
        """Tell the site that nobody waits any more."""
        self.connection.abort()


@dataclass(frozen=True, slots=True)
class Settling:
    """A sign-up that is under way, or over; it goes on without its visitor."""

    work: asyncio.Task[Settled]

    def abandon(self) -> None:
        """Let go of the answer when it comes."""
        self.work.add_done_callback(close_answer)


class PlainRequest:
    """A request that no rule matches."""

    __slots__ = (
        "_begun",
        "_close",
        "_declines",
        "_head",
        "_method",
        "_sites",
        "_visitor",
    )

    def __init__(
        self,
        visitor: Visitor,
        request: tuple[str, bytes],
        sites: Sites,
        declines: Declines,
        *,
        close: bool,
    ) -> None:
        """Make ready; ``request`` is the method and the whole head."""
        self._visitor = visitor
        self._method, self._head = request
        self._sites = sites
        self._declines = declines
        self._close = close
        self._begun: Sent | None = None

    def start(self, body: StreamReader) -> bool:
        """Send it on a kept connection, if there is one."""
        kept = self._sites.kept_for(self._method)
        if kept is None or not kept[1].begin(self._head, body, self._complete):
            return False
        self._begun = Sent(*kept)
        return True

    def cancel(self) -> None:
        """Tell the site that nobody waits any more."""
        if self._begun is not None:
            self._begun.abandon()

    def _complete(self) -> None:
        """Pass the answer on if it is whole and ordinary, else divert."""
        begun = self._begun
        assert begun is not None  # noqa: S101 - set before any answer can come
        answer = self._answer(begun.connection)
        if answer is None:
            self._visitor.hand_over(begun)
            return
        begun.connection.protocol.take_head()
        begun.connection.release()
        self._visitor.complete(answer, close=self._close)

    def _answer(self, connection: Connection) -> bytes | None:
        head = connection.protocol.head()
        if head is None:
            return None
        message, payload = head
        if not payload.is_eof() or payload.exception() is not None:
            return None
        returned = _ordinary(message.code, message.raw_headers, self._declines)
        if returned is None:
            return None
        reason = message.reason.encode("utf-8", "surrogateescape")
        status = b"HTTP/1.1 %d %s\r\n" % (message.code, reason)
        return _written(status, returned, payload.read_nowait(), close=self._close)


class SignupRequest:
    """A sign-up: a task of its own, which outlives the visitor."""

    __slots__ = ("_close", "_declines", "_left", "_start", "_visitor", "_work")

    def __init__(
        self,
        visitor: Visitor,
        start: Callable[[bytes], asyncio.Task[Settled]],
        declines: Declines,
        *,
        close: bool,
    ) -> None:
        self._visitor = visitor
        self._start = start
        self._declines = declines
        self._close = close
        self._left = False
        self._work: asyncio.Task[Settled] | None = None

    def start(self, body: StreamReader) -> bool:
        """Start the work; it opens a connection if none is kept."""
        self._work = self._start(body.read_nowait())
        self._work.add_done_callback(self._complete)
        return True

    def cancel(self) -> None:
        """Let the sign-up go on alone."""
        self._left = True
        if self._work is not None:
            Settling(self._work).abandon()

    def _complete(self, work: asyncio.Task[Settled]) -> None:
        if self._left:
            return
        failed = work.cancelled() or work.exception() is not None
        answer = None if failed else self._answer(work.result())
        if answer is None:
            self._visitor.hand_over(Settling(work))
            return
        work.result().answer.close()
        self._visitor.complete(answer, close=self._close)

    def _answer(self, settled: Settled) -> bytes | None:
        answer, copied, cookies = settled
        if copied.cut is not None or not answer.whole:
            return None
        returned = _ordinary(answer.status, answer.headers, self._declines)
        if returned is None:
            return None
        body = b"".join((*copied.pieces, answer.read_nowait()))
        status = b"HTTP/1.1 %d %s\r\n" % (answer.status, answer.reason)
        return _written(status, returned, body, cookies, close=self._close)


def _ordinary(status: int, headers: Headers, declines: Declines) -> Returned | None:
    if status < 200 or status in {204, 304}:
        return None  # these have rules of their own
    returned = ordinary_answer(headers)
    if returned is None or (declines is not None and declines(returned.kind)):
        return None
    return returned


def _written(
    status: bytes,
    returned: Returned,
    body: bytes,
    cookies: Sequence[bytes] = (),
    *,
    close: bool,
) -> bytes:
    """Write an answer as the slow path does."""
    lines = [status, *returned.lines]
    lines += [b"Set-Cookie: %s\r\n" % cookie for cookie in cookies]
    if returned.length is None:
        lines.append(b"Transfer-Encoding: chunked\r\n")
        body = chunk(body) + b"0\r\n\r\n"
    if close:
        lines.append(b"Connection: close\r\n")
    return b"".join((*lines, b"\r\n", body))
