"""The visitors' side: aiohttp's server with the relay's own limits and fast path.

aiohttp parses and serves; this adds the limits that a server in the open needs, and
offers each request to the fast path (:mod:`relay.http.fast_path`) before aiohttp
makes a request object of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import StreamReader, web
from aiohttp.http import HttpProcessingError, RawRequestMessage

from relay.http.aiohttp_internals import (
    ConnectionRunner,
    ConnectionServer,
    ServerConnection,
)
from relay.http.fast_path import (
    Begun,
    FastEndpoints,
    FastRequest,
    SitePath,
    accept_endpoint,
)
from relay.http.raw_responses import own_answer
from relay.observability.logging import get_logger

log = get_logger()

LATE: Final = (
    b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """What a visitor may use of the relay. Times in seconds, sizes in bytes.

    ``line`` and ``field`` are the longest request line and header field,
    ``fields`` their number. ``head`` is how long a request's head may take from
    its first byte, ``idle`` how long a connection is kept without a request.
    A body must bring ``body_rate`` bytes a second, measured over ``body_span``
    and only while the relay would read more. ``connections`` is how many one
    address may hold open (0: any number); trusted proxies are exempt.
    """

    line: int = 16_384
    field: int = 32_768
    fields: int = 128
    head: float = 10.0
    idle: float = 75.0
    body_rate: int = 500
    body_span: float = 10.0
    connections: int = 0

    def server_options(self) -> dict[str, Any]:
        """Return the options of aiohttp's server that make it fit for a proxy."""
        return {
            # Bodies are forwarded as they are: a decoded one would not fit its
            # headers.
            "auto_decompress": False,
            # A visitor who leaves ends the call to the site.
            "handler_cancellation": True,
            "max_line_size": self.line,
            "max_field_size": self.field,
            "max_headers": self.fields,
            "keepalive_timeout": self.idle,
        }


class SlowBodyError(web.HTTPRequestTimeout):
    """A body that came too slowly: 408 for the code that reads it."""


class ListenerRunner(ConnectionRunner):
    """Runs an application behind :class:`VisitorConnection`.

    ``site`` is the fast path to the site, None without one.
    """

    def __init__(
        self,
        app: web.Application,
        site: SitePath | None = None,
        *,
        endpoints: FastEndpoints | None = None,
        limits: ListenerLimits | None = None,
        shutdown_timeout: float = 60.0,
        **options: Any,
    ) -> None:
        self.limits = limits or ListenerLimits()
        options = self.limits.server_options() | options
        super().__init__(app, shutdown_timeout=shutdown_timeout, **options)
        # The one option that is the server's, not each connection's.
        options.pop("handler_cancellation")
        self._connection_options = options
        self.site = site
        self.endpoints = endpoints or {}
        self._open: Counter[str] = Counter()

    def connection(self, server: ConnectionServer) -> VisitorConnection:
        """Return the protocol of a new connection."""
        return VisitorConnection(self, server, **self._connection_options)

    def drain(self) -> None:
        """Close each connection with its next response, from now on."""
        if isinstance(self.server, ConnectionServer):
            self.server.draining = True

    def admit(self, peer: str | None) -> bool:
        """Count a new connection; False if its address has enough of them."""
        if peer is None:
            return True
        self._open[peer] += 1
        most = self.limits.connections
        if not most or self._open[peer] <= most:
            return True
        return self.site is not None and self.site.believes(peer)

    def dismiss(self, peer: str | None) -> None:
        """Count a connection that has ended."""
        if peer is None:
            return
        self._open[peer] -= 1
        if self._open[peer] <= 0:
            del self._open[peer]


class VisitorConnection(ServerConnection):
    """One visitor's connection.

    While a request of the fast path is under way, or waits for its body, aiohttp's
    own loop sleeps on its waiter, which is kept here (``_sleeper``) so that nothing
    wakes it: requests that come meanwhile queue up behind.
    """

    __slots__ = (
        "_begun",
        "_body",
        "_came",
        "_connections",
        "_early",
        "_fast",
        "_listener",
        "_pending_body",
        "_replied",
        "_sleeper",
        "_timer",
        "peer",
        "scheme",
    )

    def __init__(
        self, listener: ListenerRunner, server: ConnectionServer, **options: Any
    ) -> None:
        super().__init__(server, loop=server.loop, **options)
        self._listener = listener
        self._connections = server
        self._timer: asyncio.TimerHandle | None = None
        self._body: StreamReader | None = None
        self._came = 0
        self._fast: FastRequest | None = None
        self._pending_body: StreamReader | None = None
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
        if not self._listener.admit(self.peer):
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End what was under way for a visitor who has left."""
        self._listener.dismiss(self.peer)
        self._stop_timer()
        if self._fast is not None:
            self._fast.cancel()
            self._fast = self._pending_body = None
        if self._begun is not None:
            self._begun.abandon()
            self._begun = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came; a single ordinary request takes the fast path."""
        sleeper = self.idle_waiter()
        if self._replied and sleeper is None:
            # A quick visitor, whose next request would be tied to the slow path:
            # aiohttp's loop is about to look for it, and finds it there.
            if not self._early:
                self.loop.call_soon(self._take_early)
            self._early.append(data)
            return
        self._replied = False
        if sleeper is None or sleeper.done():
            super().data_received(data)
            if self._pending_body is not None:
                self._start_fast(self._pending_body)
            elif self.waiting_messages and self._timer is None:
                self._await_body()
            return
        # So that the parser's messages wake nobody before they are looked at.
        self.detach_waiter()
        super().data_received(data)
        if self.failed:
            sleeper.cancel()
        elif not self.waiting_messages:
            self.attach_waiter(sleeper)
            self._await_head()
        else:
            self._stop_timer()
            self._sleeper = sleeper
            self._choose_path()

    async def finish_response(
        self,
        request: web.BaseRequest,
        resp: web.StreamResponse,
        start_time: float | None,
    ) -> tuple[web.StreamResponse, bool]:
        """Note that the response of the slow path is out."""
        finished = await super().finish_response(request, resp, start_time)
        self._replied = not self.upgraded
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
            head = self._listener.limits.head
            self._timer = self.loop.call_later(head, self._head_is_late)

    def _head_is_late(self) -> None:
        self._timer = None
        if self.transport is not None and not self.waiting_messages:
            self.transport.write(LATE)
            self.force_close()

    def _await_body(self) -> None:
        """Let a body that is not all there come fast enough."""
        body = self.last_body
        if body is None or body.is_eof():
            return
        self._body = body
        self._watch(body)

    def _watch(self, body: StreamReader) -> None:
        self._came = body.total_bytes
        span = self._listener.limits.body_span
        self._timer = self.loop.call_later(span, self._look_at_body, body)

    def _look_at_body(self, body: StreamReader) -> None:
        self._timer = None
        if body.is_eof() or body.exception() is not None or self.upgraded:
            return
        limits = self._listener.limits
        least = limits.body_rate * limits.body_span
        # While reading is paused it is the site that is slow.
        if not self.reading_paused and body.total_bytes - self._came < least:
            log.info("visitor.slow_body")
            body.set_exception(SlowBodyError())
            self.close()
            if self._pending_body is body:
                self._start_fast(body)
            return
        if self._pending_body is body:
            # A body that needs that long is nothing for the fast path.
            self._fast = self._pending_body = None
            self._wake()
        self._watch(body)

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
        """Log what went wrong in one line; a traceback may quote a visitor.

        Malformed requests are the visitor's affair: one that sends many must not be
        able to fill the log.
        """
        error = details.get("exc_info")
        write = log.debug if isinstance(error, HttpProcessingError) else log.error
        write("visitor.request_failed", error=type(error).__name__)

    def _choose_path(self) -> None:
        """Let a single ordinary request take the fast path, others the slow one."""
        message, body = self.first_message
        alone = self.waiting_messages == 1 and not self.writing_paused
        alone = alone and not self._connections.draining
        if alone and message is not None:
            self._fast = self._accept(message)
        if self._fast is None:
            self._await_body()
            self._wake()
            return
        self.begin_request()
        self._pending_body = body
        if not body.is_eof():
            self._await_body()
        self._start_fast(body)

    def _accept(self, message: RawRequestMessage) -> FastRequest | None:
        """Ask both fast paths, to the relay's own endpoints and to the site."""
        own = accept_endpoint(self._listener.endpoints, self, message)
        site = self._listener.site
        return own if own is not None or site is None else site.accept(self, message)

    def _start_fast(self, body: StreamReader) -> None:
        """Start once all of the body is there, or leave it to the slow path."""
        failed = body.exception() is not None or self.failed
        if self._fast is None or not (failed or body.is_eof()):
            return
        self._pending_body = None
        if not failed and self._fast.start(body):
            if self._listener.site is not None:
                self._listener.site.started()
            return
        self._fast = None
        self._wake()

    def _wake(self) -> None:
        """Let aiohttp's loop have what there is."""
        sleeper = self._restored()
        if not sleeper.done():
            sleeper.set_result(None)

    def complete(self, answer: bytes, *, close: bool) -> None:
        """Write a whole answer, and be ready for the next request."""
        self._fast = None
        if self.transport is None or not self.parses:
            return
        self.transport.write(answer)
        self.finish_request()
        sleeper = self._restored()
        if close or self.ending:
            self.force_close()
            return
        self.keep_alive_anew()
        if self.waiting_messages:
            sleeper.set_result(None)

    def hand_over(self, begun: Begun) -> None:
        """Let aiohttp's loop have the request, and the proxy what was begun."""
        self._fast = None
        self._begun = begun
        self._wake()

    def take_begun(self) -> Begun | None:
        """Return where the present request was sent already, if it was; once."""
        begun, self._begun = self._begun, None
        return begun

    def _restored(self) -> asyncio.Future[None]:
        sleeper, self._sleeper = self._sleeper, None
        assert sleeper is not None  # noqa: S101 - set with the fast request
        self.attach_waiter(sleeper)
        return sleeper
