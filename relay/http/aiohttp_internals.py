"""Everything that reaches into aiohttp's undocumented parts, under plain names.

aiohttp documents no way to look at a request before it becomes an object, to limit
how slowly one may come, or to see every end of a response. The classes here do, and
nothing else in the program touches an attribute that aiohttp does not document
(``tests/unit/test_architecture.py`` reads the code). CI runs the tests of the
listener and the proxy against the lowest and the newest aiohttp that
``pyproject.toml`` allows, and :func:`missing` refuses to start on any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from aiohttp import StreamReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_exceptions import ClientPayloadError
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawRequestMessage, RawResponseMessage, StreamWriter
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler

_SERVER_PARTS: Final = frozenset(
    {
        *("_waiter", "_handler_waiter", "_messages", "_parser", "_payload_parser"),
        *("_force_close", "_close", "_upgraded", "_request_in_progress"),
        *("_keepalive_handle", "_keepalive_timeout", "_next_keepalive_close_time"),
        *("_process_keepalive", "_loop", "_paused", "_reading_paused"),
    }
)

_CLIENT_PARTS: Final = frozenset(
    {
        *("_buffer", "_loop", "_read_timeout", "_read_timeout_handle"),
        *("_reschedule_timeout", "_drop_timeout", "_on_read_timeout"),
    }
)


def missing() -> list[str]:
    """Return the parts that this aiohttp has not got; empty where all is well."""
    loop = asyncio.new_event_loop()
    try:
        server: web.Server = web.Server(_refuse, loop=loop)
        made = [
            (RequestHandler(server, loop=loop), _SERVER_PARTS),
            (ResponseHandler(loop), _CLIENT_PARTS),
            (web.AppRunner(web.Application()), frozenset({"_make_server"})),
        ]
        return sorted(
            f"{type(one).__name__}.{name}"
            for one, names in made
            for name in names
            if not hasattr(one, name)
        )
    finally:
        loop.close()


async def _refuse(_: web.BaseRequest) -> web.StreamResponse:
    raise web.HTTPNotFound


class ServerConnection(RequestHandler):
    """aiohttp's side of one visitor's connection.

    aiohttp's loop sleeps on a waiter while there is no request. Whoever takes the
    waiter away decides which of the parsed messages the loop gets to see.
    """

    __slots__ = ()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of this connection."""
        return self._loop

    @property
    def first_message(self) -> tuple[RawRequestMessage | None, StreamReader]:
        """The oldest message that was parsed and is not answered, and its body.

        The message is None where aiohttp could not read the request.
        """
        message, body = self._messages[0]
        return message if isinstance(message, RawRequestMessage) else None, body

    @property
    def last_body(self) -> StreamReader | None:
        """The body of the message that came last; None if it has none."""
        body = self._messages[-1][1]
        return None if body is EMPTY_PAYLOAD else body

    @property
    def waiting_messages(self) -> int:
        """How many messages were parsed and are not answered."""
        return len(self._messages)

    @property
    def failed(self) -> bool:
        """Whether the connection is to be cut without another response."""
        return self._force_close

    @property
    def ending(self) -> bool:
        """Whether the connection ends with the present response."""
        return self._close or self._force_close

    @property
    def upgraded(self) -> bool:
        """Whether the connection speaks another protocol now."""
        return self._upgraded or self._payload_parser is not None

    @property
    def writing_paused(self) -> bool:
        """Whether the visitor reads too slowly to be sent more."""
        return self._paused

    @property
    def reading_paused(self) -> bool:
        """Whether the relay has asked the visitor's body to wait."""
        return self._reading_paused

    @property
    def parses(self) -> bool:
        """Whether the connection is up and its parser there."""
        return self.transport is not None and self._parser is not None

    def idle_waiter(self) -> asyncio.Future[None] | None:
        """Return what aiohttp's loop sleeps on; None while it is busy."""
        return self._waiter

    def detach_waiter(self) -> None:
        """Keep what is parsed from waking aiohttp's loop."""
        self._waiter = None

    def attach_waiter(self, waiter: asyncio.Future[None]) -> None:
        """Let the next message wake aiohttp's loop again."""
        self._waiter = waiter

    def begin_request(self) -> None:
        """Note a request in progress: a stop waits for it."""
        self._request_in_progress = True

    def finish_request(self) -> None:
        """Drop the first message, which is answered, and be ready for the next."""
        self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)

    def keep_alive_anew(self) -> None:
        """Count the time without a request from now on."""
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(
                self._next_keepalive_close_time, self._process_keepalive
            )


class ConnectionServer(web.Server):
    """aiohttp's server, with connections of our own making.

    ``make`` returns the protocol of a new connection. ``draining``: every response
    from now on closes its connection, where aiohttp would have to cut them, perhaps
    in the middle of a request.
    """

    def __init__(
        self, server: web.Server, make: Callable[[ConnectionServer], RequestHandler]
    ) -> None:
        """Replace a server that aiohttp made for an application."""
        self._factory = server.request_factory
        self._make = make
        self.draining = False
        super().__init__(
            server.request_handler,
            request_factory=self._request,
            handler_cancellation=server.handler_cancellation,
        )

    def __call__(self) -> RequestHandler:
        """Return the protocol of a new connection."""
        return self._make(self)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the server."""
        return self._loop

    def _request(self, message: RawRequestMessage, *rest: Any) -> web.BaseRequest:
        if self.draining:
            message = message._replace(should_close=True)
        return self._factory(message, *rest)


class ConnectionRunner(web.AppRunner):
    """Runs an application behind a :class:`ConnectionServer`."""

    def connection(self, server: ConnectionServer) -> RequestHandler:
        """Return the protocol of a new connection; a subclass makes it."""
        raise NotImplementedError

    async def _make_server(self) -> web.Server:
        return ConnectionServer(await super()._make_server(), self.connection)


class SiteProtocol(ResponseHandler):
    """aiohttp's client protocol, which reports every end of a response.

    The base class takes a reset for the end of a response without length, and
    does not report an error in the chunks to those who read the body. It also sets
    and cancels several timers for each exchange; here one timer looks at a deadline
    that moves.

    ``waiting`` is called, once, when a response's head is there or there will be
    none; without it a caller that awaits :meth:`read` continues, as ever. ``idle``:
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
        """Parse what came, and report a head."""
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
        """Return the head that has come, without taking it; None without one."""
        return self._buffer[0][0] if self._buffer else None

    def take_head(self) -> None:
        """Remove the head that :meth:`head` has shown."""
        self._buffer.popleft()

    def _report(self) -> None:
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
        """Note whether the connection broke before its end is reported."""
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


class RawBytes:
    """The bytes of a connection that speaks another protocol now, unparsed.

    It takes the parser's place in aiohttp's protocols.
    """

    def __init__(self, protocol: BaseProtocol, limit: int) -> None:
        loop = asyncio.get_running_loop()
        self.reader = StreamReader(protocol, limit, loop=loop)
        if not protocol.connected:
            self.reader.feed_eof()

    @classmethod
    def of_visitor(cls, protocol: RequestHandler, limit: int) -> RawBytes:
        """Read a visitor's connection from now on."""
        raw = cls(protocol, limit)
        # The protocol's hook for a WebSocket parser takes whatever feeds alike.
        protocol.set_parser(raw)  # type: ignore[arg-type]
        return raw

    @classmethod
    def of_site(cls, protocol: ResponseHandler, limit: int) -> RawBytes:
        """Read the site's connection from now on, however long it is silent."""
        raw = cls(protocol, limit)
        protocol.read_timeout = None
        protocol.set_parser(raw, raw.reader)
        return raw

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Keep what arrived; never the end of the message, nothing left over."""
        self.reader.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        """Note that the other side has gone."""
        if not self.reader.is_eof():
            self.reader.feed_eof()


def writer_to(protocol: ResponseHandler) -> StreamWriter:
    """Return a writer that waits while the other side reads slowly."""
    return StreamWriter(protocol, asyncio.get_running_loop())
