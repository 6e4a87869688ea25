"""The site's side of a connection: aiohttp's client protocol, made strict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import StreamReader
from aiohttp.client_exceptions import ClientPayloadError
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage


class SiteProtocol(ResponseHandler):
    """aiohttp's client protocol, which tells every end of an answer.

    The base class takes a reset for the end of an answer without length, and
    tells nobody who reads a body of an error in its chunks. It also sets and
    cancels several timers for each exchange; here one timer looks at a deadline
    that moves.

    ``waiting`` is called, once, when an answer's head is there or there will be
    none; without it whoever awaits :meth:`read` is told, as ever. ``idle``:
    nothing may come now, and what comes nevertheless spoils the connection.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.broken = False
        self.idle = False
        self.waiting: Callable[[], None] | None = None
        self._body: StreamReader | None = None
        self._deadline: float | None = None

    def data_received(self, data: bytes) -> None:
        """Parse what came, and tell who waits for the head."""
        if self.idle:
            self.force_close()
            return
        super().data_received(data)
        if self.waiting is not None and self._buffer:
            self._tell()

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """End the exchange; tell who waits for a head that there is none."""
        super().set_exception(exc, *cause)
        if self.waiting is not None:
            self._tell()

    def head(self) -> tuple[RawResponseMessage, StreamReader] | None:
        """Give the head that has come, without taking it; None without one."""
        return self._buffer[0][0] if self._buffer else None

    def take_head(self) -> None:
        """Take the head that :meth:`head` has shown."""
        self._buffer.popleft()

    def _tell(self) -> None:
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting()

    def _reschedule_timeout(self) -> None:
        if not self._read_timeout:
            self._deadline = None
            return
        self._deadline = self._loop.time() + self._read_timeout
        timer = self._read_timeout_handle
        if timer is not None and timer.when() > self._deadline:
            timer.cancel()
            timer = None
        if timer is None:
            self._arm()

    def _drop_timeout(self) -> None:
        self._deadline = None

    def _arm(self) -> None:
        if self._deadline is not None:
            self._read_timeout_handle = self._loop.call_at(
                self._deadline, self._look_at_deadline
            )

    def _look_at_deadline(self) -> None:
        self._read_timeout_handle = None
        if self._deadline is None:
            return
        if self._loop.time() < self._deadline:
            self._arm()
        else:
            self._on_read_timeout()

    def watch(self, body: StreamReader) -> None:
        """Make sure that this body ends when the connection does."""
        self._body = body
        if not self.connected:
            self._end_body()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note whether the connection broke before anybody is told of its end."""
        self.broken = exc is not None
        if self._read_timeout_handle is not None:
            self._read_timeout_handle.cancel()
            self._read_timeout_handle = None
        super().connection_lost(exc)
        self._end_body()

    def _end_body(self) -> None:
        body = self._body
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(ClientPayloadError("the connection ended"))
