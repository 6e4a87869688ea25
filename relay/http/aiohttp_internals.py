"""Everything of aiohttp that its documentation does not promise, in one module.

No other module imports aiohttp's undocumented modules, inherits from their classes or
touches a private attribute (a test reads the code). What only makes requests faster is
looked for when a server starts (:func:`missing_attributes`): with an aiohttp that lacks
it, the same classes serve everything by aiohttp's own loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import aiohttp
from aiohttp import ClientPayloadError, StreamReader, http_parser, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import (
    SERVER_SOFTWARE,
    HttpProcessingError,
    RawRequestMessage,
    RawResponseMessage,
    StreamWriter,
)
from aiohttp.web_protocol import RequestHandler

__all__ = [
    "SERVER_SOFTWARE",
    "VERSION",
    "HttpProcessingError",
    "RawRequestMessage",
    "RawResponseMessage",
    "ServerProtocol",
    "ServerRunner",
    "SiteProtocol",
    "StreamWriter",
    "has_c_parser",
    "missing_attributes",
    "tunnel_reader",
]

VERSION: Final = aiohttp.__version__

BUFFER: Final = 2**16
"""Bytes of a tunnel's direction before its sender is made to wait (twice that)."""

HEAD_END: Final = b"\r\n\r\n"

AHEAD: Final = 2
"""Requests that are parsed before the one under way is answered. aiohttp's own 32 are
megabytes of headers for each connection; with one, reading would pause at each request,
and nobody would notice that a visitor has left."""

SERVER_NEEDS: Final = (
    *("_close", "_force_close", "_handler_waiter", "_keepalive_handle"),
    *("_keepalive_timeout", "_messages", "_next_keepalive_close_time", "_parser"),
    *("_paused", "_process_keepalive", "_request_in_progress", "_upgraded", "_waiter"),
)
"""What the fast path needs of a visitor's protocol, each as 3.14.4 has it."""

CLIENT_NEEDS: Final = (
    *("_buffer", "_drop_timeout", "_on_read_timeout", "_read_timeout"),
    "_reschedule_timeout",
)
"""What it needs of the site's."""


def has_c_parser() -> bool:
    """Whether aiohttp parses with its C parser, not with the lenient Python one."""
    return http_parser.HttpRequestParser is not http_parser.HttpRequestParserPy


def missing_attributes() -> list[str]:
    """Return what the fast path needs and this aiohttp lacks; best: nothing.

    To be called inside of the event loop.
    """
    loop = asyncio.get_running_loop()
    visitor = RequestHandler(web.Server(_unanswered), loop=loop)
    lacking = [
        *_lacks(visitor, SERVER_NEEDS),
        *_lacks(ResponseHandler(loop), CLIENT_NEEDS),
    ]
    if not hasattr(getattr(visitor, "_parser", None), "message_consumed"):
        lacking.append("HttpRequestParser.message_consumed")
    return lacking


def _lacks(protocol: BaseProtocol, names: Iterable[str]) -> list[str]:
    """Return which of these attributes a protocol has not."""
    kind = type(protocol).__name__
    return [f"{kind}.{name}" for name in names if not hasattr(protocol, name)]


async def _unanswered(_: web.BaseRequest) -> web.StreamResponse:
    raise NotImplementedError


class ServerProtocol(RequestHandler):
    """aiohttp's side of a visitor's connection, which shows requests before its loop.

    With ``fast_path`` set, a request that comes to an idle connection is shown to
    :meth:`on_request` while aiohttp's loop still sleeps on its waiter, which is kept
    here so that nothing wakes it. From then on the request is ended by
    :meth:`write_answer`, or handed to the loop by :meth:`hand_over`; those that come
    meanwhile queue up behind. Without it aiohttp's loop has all requests at once.
    """

    __slots__ = (
        *("_early", "_head_bytes", "_held_waiter", "_latest_body", "_longest_head"),
        *("_recent_bytes", "_responded", "fast_path", "loop"),
    )

    def __init__(
        self, server: web.Server, *, fast_path: bool, longest_head: int, **options: Any
    ) -> None:
        super().__init__(server, **options)
        self.loop: asyncio.AbstractEventLoop = options["loop"]
        self.fast_path = fast_path
        self._parse_less_ahead(options)
        self._longest_head = longest_head
        self._head_bytes = 0
        self._recent_bytes = 0
        self._latest_body: StreamReader | None = None
        self._held_waiter: asyncio.Future[None] | None = None
        self._responded = False
        self._early: list[bytes] = []

    def on_request(self, message: RawRequestMessage | None, body: StreamReader) -> None:
        """Start a request, or hand it over; None: it is not alone, or malformed."""
        raise NotImplementedError

    def on_partial_head(self) -> None:
        """Note that a head has begun and is not whole."""
        raise NotImplementedError

    def on_data(self) -> None:
        """Note that more has come while a request is held back, or aiohttp's loop runs.

        Without the fast path that is all data, the first of a request too.
        """
        raise NotImplementedError

    def on_long_head(self) -> None:
        """Refuse a head that is longer than any may be; it is not kept."""
        raise NotImplementedError

    def _parse_less_ahead(self, options: Mapping[str, Any]) -> None:
        """Replace the parser by one that stops behind few requests."""
        names = ("max_line_size", "max_field_size", "max_headers", "auto_decompress")
        self._max_msg_queue_size, self._msg_queue_resume_size = AHEAD, AHEAD // 2
        self._parser = http_parser.HttpRequestParser(
            self,
            self.loop,
            BUFFER,
            payload_exception=web.RequestPayloadError,
            max_msg_queue_size=AHEAD,
            **{name: options[name] for name in names if name in options},
        )

    def _parse(self, data: bytes) -> None:
        """Let aiohttp parse what came, a head with an upgrade by itself.

        Behind one that it does not support its parser forgets what came with it.
        """
        end = data.find(HEAD_END) + len(HEAD_END)
        if len(HEAD_END) <= end < len(data) and (
            self._head_bytes or b"\nupgrade" in data[:end].lower()
        ):
            self._feed(data[:end])
            data = data[end:]
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        """Hold all heads to their limit.

        A head that is not whole counts as it comes; one that is, by what is in it.
        """
        known = len(self._messages)
        in_body = self._latest_body is not None and not self._latest_body.is_eof()
        super().data_received(data)
        self._recent_bytes += len(data)
        if len(self._messages) > known:
            self._latest_body = self._messages[-1][1]
            if self._recent_bytes > self._longest_head:
                self._drop_long_heads()
            self._head_bytes, self._recent_bytes = 0, len(data)
        elif not in_body:
            self._head_bytes += len(data)
            if self._head_bytes > self._longest_head and not self._upgraded:
                self.on_long_head()

    def _drop_long_heads(self) -> None:
        for place, (message, _) in enumerate(self._messages):
            if isinstance(message, RawRequestMessage) and (
                _head_size(message) > self._longest_head
            ):
                while len(self._messages) > place:
                    self._messages.pop()
                self.on_long_head()
                return

    def data_received(self, data: bytes) -> None:
        """Parse what came, and show it before aiohttp's loop has it."""
        waiter = self._waiter if self.fast_path else None
        if waiter is None and self._responded:
            # A quick visitor, whose next request would be tied to the slow path:
            # aiohttp's loop is about to look for it, and finds it there.
            if not self._early:
                self._loop.call_soon(self._parse_early)
            self._early.append(data)
            return
        self._responded = False
        if waiter is None or waiter.done():
            self._parse(data)
            self.on_data()
            return
        # So that the parser's messages wake nobody before they are looked at.
        self._waiter = None
        self._parse(data)
        if self._force_close:
            waiter.cancel()
        elif not self._messages:
            self._waiter = waiter
            self.on_partial_head()
        else:
            self._held_waiter = waiter
            message, body = self._messages[0]
            alone = len(self._messages) == 1 and not self._paused
            # Anything else is what aiohttp puts in place of a malformed one.
            if alone and isinstance(message, RawRequestMessage):
                self.on_request(message, body)
            else:
                self.on_request(None, body)

    async def finish_response(self, *args: Any, **options: Any) -> Any:
        """Note that the answer of aiohttp's loop is out."""
        finished = await super().finish_response(*args, **options)
        self._responded = self.fast_path and not self._upgraded
        return finished

    def _parse_early(self) -> None:
        """Parse what came before aiohttp's loop was ready for it."""
        data, self._early = b"".join(self._early), []
        self._responded = False
        if self.transport is not None:
            self.data_received(data)

    @property
    def is_busy(self) -> bool:
        """Whether a request that came whole is not answered yet."""
        return self._request_in_progress or bool(self._messages) or bool(self._early)

    @property
    def is_whole(self) -> bool:
        """Whether all of the latest request has come."""
        return self._latest_body is not None and self._latest_body.is_eof()

    def end_when_idle(self) -> None:
        """Close the connection as soon as nothing waits for an answer."""
        self._keepalive_timeout = 0.001
        if self._keepalive_handle is not None:
            self._keepalive_handle.cancel()
            self._keepalive_handle = None

    @property
    def is_closing(self) -> bool:
        """Whether the connection is given up, whatever is still under way."""
        return self._force_close

    def hold(self) -> None:
        """Count the held request as in progress: a stop waits for it."""
        self._request_in_progress = True

    def hand_over(self) -> None:
        """Let aiohttp's loop have the request that was held back."""
        waiter = self._release_waiter()
        if not waiter.done():
            waiter.set_result(None)

    def write_answer(self, answer: bytes, *, close: bool) -> None:
        """Answer the held request, and be ready for the next as aiohttp's loop is."""
        if self.transport is None or self._parser is None:
            return
        self.transport.write(answer)
        self._messages.popleft()
        self._parser.message_consumed()
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)
        waiter = self._release_waiter()
        if close or self._close or self._force_close:
            self.force_close()
            return
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(
                self._next_keepalive_close_time, self._process_keepalive
            )
        if self._messages:
            waiter.set_result(None)

    def _release_waiter(self) -> asyncio.Future[None]:
        waiter, self._held_waiter = self._held_waiter, None
        assert waiter is not None  # noqa: S101 - set before a request is shown
        self._waiter = waiter
        return waiter


def _head_size(message: RawRequestMessage) -> int:
    fields = sum(len(name) + len(value) + 4 for name, value in message.raw_headers)
    return len(message.method) + len(message.path) + 12 + fields


class ServerRunner(web.AppRunner):
    """aiohttp's runner, with a server of our own in place of the application's."""

    def wrap(self, server: web.Server) -> web.Server:
        """Return what serves in place of the server made for the application."""
        raise NotImplementedError

    async def _make_server(self) -> web.Server:
        return self.wrap(await super()._make_server())


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
        self._one_timer = not _lacks(self, CLIENT_NEEDS)
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
        self.reader = StreamReader(protocol, BUFFER, loop=loop)
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
