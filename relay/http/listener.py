"""The visitors' side: aiohttp's server protocol with the relay's own limits.

aiohttp parses and serves; this adds what a server in the open needs and it has
not got, and two ways that take a request before aiohttp makes a request object
for it: the express lane to the site (``express``), and the short one to the relay's
own endpoints (``shortcut``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aiohttp import StreamReader, web
from aiohttp.http import HttpProcessingError, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler

from relay.http.fast_endpoints import Shortcuts
from relay.http.fast_endpoints import book as book_shortcut
from relay.http.listener_limits import FrontLimits
from relay.observability.logging import get_logger
from relay.proxy.fast_exchange import (
    Begun,
    Flight,
)
from relay.proxy.fast_path import Express
from relay.proxy.site_response import own_answer

if TYPE_CHECKING:
    from relay.http.listener_server import FrontServer

log = get_logger()

LATE: Final = (
    b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


class SlowBodyError(web.HTTPRequestTimeout):
    """A body that came too slowly: 408 for whoever reads it."""


class Front(RequestHandler):
    """One visitor's connection.

    While a flight of the express lane is under way, or waits for its request's
    body, aiohttp's own loop sleeps on its waiter, which is kept here
    (``_sleeper``) so that nothing wakes it: requests that come meanwhile queue
    up behind.
    """

    __slots__ = (
        "_begun",
        "_boarding",
        "_body",
        "_came",
        "_early",
        "_express",
        "_flight",
        "_limits",
        "_replied",
        "_server",
        "_shortcuts",
        "_sleeper",
        "_timer",
        "peer",
        "scheme",
    )

    def __init__(
        self,
        server: FrontServer,
        *,
        express: Express | None,
        shortcuts: Shortcuts,
        limits: FrontLimits,
        **options: Any,
    ) -> None:
        super().__init__(server, **options)
        self._server = server
        self._express = express
        self._shortcuts = shortcuts
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._body: StreamReader | None = None
        self._came = 0
        self._flight: Flight | None = None
        self._boarding: StreamReader | None = None
        self._sleeper: asyncio.Future[None] | None = None
        self._begun: Begun | None = None
        self._replied = False
        self._early: list[bytes] = []
        self.peer: str | None = None
        self.scheme = "http"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note who is at the other end."""
        super().connection_made(transport)
        address = transport.get_extra_info("peername")
        self.peer = str(address[0]) if isinstance(address, tuple) else None
        if transport.get_extra_info("sslcontext") is not None:
            self.scheme = "https"
        if not self._server.admit(self.peer):
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End what was under way for a visitor who has left."""
        self._server.dismiss(self.peer)
        self._stop_timer()
        if self._flight is not None:
            self._flight.cancel()
            self._flight = self._boarding = None
        if self._begun is not None:
            self._begun.abandon()
            self._begun = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came; a single ordinary request takes the express lane."""
        sleeper = self._waiter
        if self._replied and sleeper is None:
            # A quick visitor, whose next request would be tied to the general
            # lane: aiohttp's loop is about to look for it, and finds it there.
            if not self._early:
                self._loop.call_soon(self._take_early)
            self._early.append(data)
            return
        self._replied = False
        if sleeper is None or sleeper.done():
            super().data_received(data)
            if self._boarding is not None:
                self._board(self._boarding)
            elif self._messages and self._timer is None:
                self._await_body()
            return
        # So that the parser's messages wake nobody before they are looked at.
        self._waiter = None
        super().data_received(data)
        if self._force_close:
            sleeper.cancel()
        elif not self._messages:
            self._waiter = sleeper
            self._await_head()
        else:
            self._stop_timer()
            self._sleeper = sleeper
            self._check_in()

    async def finish_response(
        self,
        request: web.BaseRequest,
        resp: web.StreamResponse,
        start_time: float | None,
    ) -> tuple[web.StreamResponse, bool]:
        """Note that the answer of the general lane is out."""
        finished = await super().finish_response(request, resp, start_time)
        self._replied = not self._upgraded
        return finished

    def _take_early(self) -> None:
        """Take what came before aiohttp's loop was ready for it."""
        data, self._early = b"".join(self._early), []
        self._replied = False
        if self.transport is not None:
            self.data_received(data)

    def _await_head(self) -> None:
        """Let a head that has begun be whole in time."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._limits.head, self._head_is_late)

    def _head_is_late(self) -> None:
        self._timer = None
        if self.transport is not None and not self._messages:
            self.transport.write(LATE)
            self.force_close()

    def _await_body(self) -> None:
        """Let a body that is not all there come fast enough."""
        body = self._messages[-1][1]
        if body is EMPTY_PAYLOAD or body.is_eof():
            return
        self._body, self._came = body, body.total_bytes
        self._timer = self._loop.call_later(
            self._limits.body_span, self._look_at_body, body
        )

    def _look_at_body(self, body: StreamReader) -> None:
        self._timer = None
        if body.is_eof() or body.exception() is not None or self._payload_parser:
            return
        came = body.total_bytes - self._came
        # While reading is paused it is the site that is slow.
        if not self._reading_paused and came < (
            self._limits.body_rate * self._limits.body_span
        ):
            log.info("visitor.slow_body")
            body.set_exception(SlowBodyError())
            self.close()
            if self._boarding is body:
                self._board(body)
            return
        if self._boarding is body:
            # Whoever needs that long is nothing for the express lane.
            self._flight = self._boarding = None
            self._wake()
        self._came = body.total_bytes
        self._timer = self._loop.call_later(
            self._limits.body_span, self._look_at_body, body
        )

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - quotes what the visitor sent
    ) -> web.StreamResponse:
        """Answer what could not be read, or could not be handled."""
        self.log_exception(exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("a part of another answer is out already")
        known = "The request is malformed." if status < 500 else "The relay failed."
        return own_answer(request, status, known)

    def log_exception(self, *_: Any, **details: Any) -> None:
        """Tell what went wrong in one line; a traceback may quote a visitor.

        Malformed requests are the visitor's affair: who sends many must not be
        able to fill the log.
        """
        error = details.get("exc_info")
        tell = log.debug if isinstance(error, HttpProcessingError) else log.error
        tell("visitor.request_failed", error=type(error).__name__)

    def _check_in(self) -> None:
        """Let a single ordinary request go a short way, others the general lane."""
        message, body = self._messages[0]
        alone = len(self._messages) == 1 and not self._paused
        alone = alone and not self._server.draining
        # What is no message is what aiohttp puts in place of a broken one.
        if alone and isinstance(message, RawRequestMessage):
            self._flight = self._book(message)
        if self._flight is None:
            self._await_body()
            self._wake()
            return
        # A stop waits for requests that are in progress.
        self._request_in_progress = True
        self._boarding = body
        if not body.is_eof():
            self._await_body()
        self._board(body)

    def _book(self, message: RawRequestMessage) -> Flight | None:
        """Ask both short ways, to the relay's own endpoints and to the site."""
        errand = book_shortcut(self._shortcuts, self, message)
        if errand is not None or self._express is None:
            return errand
        return self._express.book(self, message)

    def _board(self, body: StreamReader) -> None:
        """Take off once all of the body is there, or leave it to the other lane."""
        failed = body.exception() is not None or self._force_close
        if self._flight is None or not (failed or body.is_eof()):
            return
        self._boarding = None
        if not failed and self._flight.take_off(body):
            if self._express is not None:
                self._express.took_off()
            return
        self._flight = None
        self._wake()

    def _wake(self) -> None:
        """Let aiohttp's loop have what there is."""
        sleeper = self._restored()
        if not sleeper.done():
            sleeper.set_result(None)

    def landed(self, answer: bytes, *, close: bool) -> None:
        """Write a whole answer, and be ready for the next request."""
        self._flight = None
        if self.transport is None or self._parser is None:
            return
        self.transport.write(answer)
        self._messages.popleft()
        self._parser.message_consumed()
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)
        sleeper = self._restored()
        if close or self._close or self._force_close:
            self.force_close()
            return
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(
                self._next_keepalive_close_time, self._process_keepalive
            )
        if self._messages:
            sleeper.set_result(None)

    def diverted(self, begun: Begun) -> None:
        """Let aiohttp's loop have the request, and the proxy what was begun."""
        self._flight = None
        self._begun = begun
        self._wake()

    def take_begun(self) -> Begun | None:
        """Tell where the present request was sent already, if it was."""
        begun, self._begun = self._begun, None
        return begun

    def _restored(self) -> asyncio.Future[None]:
        sleeper, self._sleeper = self._sleeper, None
        assert sleeper is not None  # noqa: S101 - set with the flight
        self._waiter = sleeper
        return sleeper
