"""What the proxy needs of aiohttp's client that its documentation does not promise.

As in ``aiohttp_internals``, which has that of the server, and the names that are looked
for at a start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from aiohttp import ClientPayloadError, StreamReader
from aiohttp.client_proto import ResponseHandler
from aiohttp.web_protocol import RequestHandler

from relay.http import aiohttp_internals

if TYPE_CHECKING:
    from aiohttp.base_protocol import BaseProtocol

    from relay.http.aiohttp_internals import RawResponseMessage


class SiteProtocol(ResponseHandler):
    """aiohttp's client protocol, which reports every end of an answer.

    The base class takes a reset for the end of an answer without length, and
    does not report an error in its chunks to the reader of a body. It also sets and
    cancels several timers for each exchange; here one timer looks at a deadline
    that moves.

    ``waiting`` is called, once, when an answer's head is there or there will be
    none; without it the head is awaited by :meth:`read`. ``idle``: nothing may come
    now, and what comes nevertheless spoils the connection.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.broken = False
        self.idle = False
        self.waiting: Callable[[], None] | None = None
        self._watched_body: StreamReader | None = None
        self._one_timer = not aiohttp_internals.lacks(
            self, aiohttp_internals.CLIENT_NEEDS
        )
        self._deadline: float | None = None
        self._timer_handle: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Parse what came, and report a head that is there."""
        if self.idle:
            self.force_close()
            return
        super().data_received(data)
        if self.waiting is not None and self._buffer:
            self._report()

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """End the exchange; report that there is no head."""
        super().set_exception(exc, *cause)
        if self.waiting is not None:
            self._report()

    def head(self) -> tuple[RawResponseMessage, StreamReader] | None:
        """Return the head that has come, which stays to be read; None without one."""
        return self._buffer[0][0] if self._buffer else None

    def take_head(self) -> None:
        """Remove the head that :meth:`head` has returned."""
        self._buffer.popleft()

    def _report(self) -> None:
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting()

    def _reschedule_timeout(self) -> None:
        if not self._one_timer:
            super()._reschedule_timeout()
            return
        if not self._read_timeout:
            self._deadline = None
            return
        self._deadline = self._loop.time() + self._read_timeout
        timer = self._timer_handle
        if timer is not None and timer.when() > self._deadline:
            timer.cancel()
            timer = None
        if timer is None:
            self._arm()

    def _drop_timeout(self) -> None:
        if not self._one_timer:
            super()._drop_timeout()
        self._deadline = None

    def _arm(self) -> None:
        if self._deadline is not None:
            self._timer_handle = self._loop.call_at(
                self._deadline, self._look_at_deadline
            )

    def _look_at_deadline(self) -> None:
        self._timer_handle = None
        if self._deadline is None:
            return
        if self._loop.time() < self._deadline:
            self._arm()
        else:
            self._on_read_timeout()

    def watch(self, body: StreamReader) -> None:
        """Make sure that this body ends when the connection does."""
        self._watched_body = body
        if not self.connected:
            self._end_body()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note whether the connection broke before its end is reported."""
        self.broken = exc is not None
        if self._timer_handle is not None:
            self._timer_handle.cancel()
            self._timer_handle = None
        super().connection_lost(exc)
        self._end_body()

    def _end_body(self) -> None:
        body = self._watched_body
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(ClientPayloadError("the connection ended"))


class _RawParser:
    """Takes the place of a parser in aiohttp's protocols and keeps the bytes."""

    def __init__(self, protocol: BaseProtocol) -> None:
        loop = asyncio.get_running_loop()
        self.reader = StreamReader(protocol, aiohttp_internals.BUFFER, loop=loop)
        if not protocol.connected:
            self.reader.feed_eof()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Keep what arrived; never the end of the message, nothing left over."""
        self.reader.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        """Note that the other side has gone."""
        if not self.reader.is_eof():
            self.reader.feed_eof()


def tunnel_reader(protocol: RequestHandler | SiteProtocol) -> StreamReader:
    """Return the bytes that come on a connection from now on, parsed no more."""
    raw = _RawParser(protocol)
    # The protocols' hook for a WebSocket parser takes whatever feeds alike.
    if isinstance(protocol, SiteProtocol):
        # A socket may be silent for as long as both sides like.
        protocol.read_timeout = None
        protocol.set_parser(raw, raw.reader)
    else:
        protocol.set_parser(raw)  # type: ignore[arg-type]
    return raw.reader
