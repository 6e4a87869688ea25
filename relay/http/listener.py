"""The visitors' side: aiohttp's server protocol with the relay's own limits.

aiohttp parses and serves; this adds what a server in the open needs and it has
not got, and the fast path: requests that are taken before aiohttp makes a request
object for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from aiohttp import StreamReader, web

from relay.http.aiohttp_internals import (
    VERSION,
    HttpProcessingError,
    RawRequestMessage,
    ServerProtocol,
    ServerRunner,
    missing_attributes,
)
from relay.http.fast_path import Begun, FastPath, FastRequest
from relay.http.limits import Connections, ListenerLimits, ReadingWatch, tally
from relay.http.raw_responses import own_answer
from relay.observability.logging import get_logger

log = get_logger()

_END: Final = b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
LATE: Final = b"HTTP/1.1 408 Request Timeout" + _END
LONG: Final = b"HTTP/1.1 431 Request Header Fields Too Large" + _END


class SlowBodyError(web.HTTPRequestTimeout):
    """A body that came too slowly: 408 for its reader."""


class Listener(ServerProtocol):
    """One visitor's connection."""

    __slots__ = (
        *("_begun", "_body_timer", "_head_timer", "_left_timer", "_limits"),
        *("_reading", "_received", "_request", "_server", "_serving"),
        *("_waiting_body", "peer", "scheme"),
    )

    def __init__(
        self, server: ListenerServer, *, limits: ListenerLimits, **options: Any
    ) -> None:
        super().__init__(server, longest_head=limits.whole_head, **options)
        self._server = server
        self._limits = limits
        self._head_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._left_timer: asyncio.TimerHandle | None = None
        self._reading: ReadingWatch | None = None
        self._received = 0
        self._serving = False
        self._request: FastRequest | None = None
        self._waiting_body: StreamReader | None = None
        self._begun: Begun | None = None
        self.peer: str | None = None
        self.scheme = "http"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note who is at the other end."""
        super().connection_made(transport)
        # uvloop's transports are none of asyncio's classes.
        stream = cast("asyncio.Transport", transport)
        self._reading = ReadingWatch(stream, self._limits.stall, self._stalled)
        address = transport.get_extra_info("peername")
        self.peer = str(address[0]) if isinstance(address, tuple) else None
        if transport.get_extra_info("sslcontext") is not None:
            self.scheme = "https"
        if not self._server.held_open.admit(self.peer):
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End what was under way for a visitor who has left."""
        self._server.held_open.dismiss(self.peer)
        self._stop_timers()
        if self._left_timer is not None:
            self._left_timer.cancel()
        if self._reading is not None:
            self._reading.stop()
        if self._request is not None:
            self._request.cancel()
            self._request = self._waiting_body = None
        if self._begun is not None:
            self._begun.abandon()
            self._begun = None
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp returns None
        """Keep the connection of one who has ended his side, until he is answered.

        Whether he has left altogether only writing shows; nothing is waited for long.
        """
        if self.scheme == "https" or self.is_closing:
            return False
        if not (self.is_busy and self.is_whole):
            return False
        self.end_when_idle()
        self._left_timer = self.loop.call_later(
            self._limits.half_closed, self.force_close
        )
        return True

    @property
    def is_busy(self) -> bool:
        """Whether a request that came whole is not answered yet."""
        return super().is_busy or self._serving

    # --- What the visitor reads, in limits of time. ---

    def pause_writing(self) -> None:
        """Watch a visitor who reads more slowly than the answer comes."""
        super().pause_writing()
        if self._reading is not None:
            self._reading.start()

    def resume_writing(self) -> None:
        """Leave a visitor alone who reads."""
        super().resume_writing()
        if self._reading is not None and not self.is_closing:
            self._reading.stop()

    def force_close(self) -> None:
        """Close the connection; what is still to be sent has its time, too."""
        super().force_close()
        if self._reading is not None:
            self._reading.start()

    def _stalled(self) -> None:
        tally.note("visitor.not_reading", self.peer)

    # --- What the visitor sends, in limits of time. ---

    def on_partial_head(self) -> None:
        """Let a head that has begun be whole in time."""
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(
                self._limits.head, self._head_is_late
            )

    def _head_is_late(self) -> None:
        self._head_timer = None
        self._refuse(LATE)

    def on_long_head(self) -> None:
        """Refuse a head that is longer than any may be."""
        tally.note("visitor.long_head", self.peer)
        if self.is_busy:
            self.close()  # behind the answer that is under way
        else:
            self._refuse(LONG)

    def _refuse(self, answer: bytes) -> None:
        if self.transport is not None:
            self.transport.write(answer)
            self.force_close()

    def serve(self, body: StreamReader) -> None:
        """Note that aiohttp's loop serves a request, which has this body."""
        self._serving = True
        self._stop_timers()
        self._watch(body)

    async def finish_response(self, request: web.BaseRequest, *rest: Any) -> Any:
        """Note that what comes now begins the next request, or ends this one's body."""
        self._serving = not request.content.is_eof()
        return await super().finish_response(request, *rest)

    def _watch(self, body: StreamReader) -> None:
        """Let a body that is not all there come fast enough."""
        if body.is_eof():
            return
        self._received = body.total_bytes
        self._body_timer = self.loop.call_later(
            self._limits.body_span, self._look_at_body, body
        )

    def _look_at_body(self, body: StreamReader) -> None:
        self._body_timer = None
        if self.transport is None or body.is_eof() or body.exception() is not None:
            return
        received = body.total_bytes - self._received
        # While reading is paused it is the site that is slow.
        if self.transport.is_reading() and received < (
            self._limits.body_rate * self._limits.body_span
        ):
            tally.note("visitor.slow_body", self.peer)
            body.set_exception(SlowBodyError())
            self.close()
            if self._waiting_body is body:
                self._start(body)
            return
        if self._waiting_body is body:
            # A body that takes so long is the slow path's.
            self._request = self._waiting_body = None
            self.hand_over()
            return
        self._watch(body)

    def _stop_timers(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    # --- The fast path. ---

    def on_request(self, message: RawRequestMessage | None, body: StreamReader) -> None:
        """Start a single ordinary request; leave all others to aiohttp's loop."""
        self._stop_timers()
        if message is not None and not self._server.draining:
            self._request = self._server.prepare(self, message)
        if self._request is None:
            self.hand_over()
            return
        self.hold()
        self._waiting_body = body
        self._watch(body)
        self._start(body)

    def on_data(self) -> None:
        """Start the request whose body is all there now; without one, await a head."""
        if self._waiting_body is not None:
            self._start(self._waiting_body)
        elif not self.fast_path and not self._serving:
            self.on_partial_head()

    def _start(self, body: StreamReader) -> None:
        """Start the request once all of its body is there, or hand it over."""
        failed = body.exception() is not None or self.is_closing
        if self._request is None or not (failed or body.is_eof()):
            return
        self._waiting_body = None
        if not failed and self._request.start(body):
            self._server.fast_requests += 1
            return
        self._request = None
        self.hand_over()

    def complete(self, answer: bytes, *, close: bool) -> None:
        """Write a whole answer, and be ready for the next request."""
        self._request = None
        self.write_answer(answer, close=close)

    def divert(self, begun: Begun) -> None:
        """Hand the request to aiohttp's loop, and to its handler what was begun."""
        self._request = None
        self._begun = begun
        self.hand_over()

    def take_begun(self) -> Begun | None:
        """Return, once, how the present request was sent already, if it was."""
        begun, self._begun = self._begun, None
        return begun

    # --- What could not be read, or could not be handled. ---

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

        Malformed and slow requests are the visitor's affair.
        """
        error = details.get("exc_info")
        if isinstance(error, HttpProcessingError | web.HTTPException | ConnectionError):
            tally.note("visitor.refused", self.peer, error=type(error).__name__)
        else:
            log.error("visitor.request_failed", error=type(error).__name__)


class ListenerServer(web.Server):
    """aiohttp's server, which makes a :class:`Listener` for each visitor."""

    def __init__(
        self,
        server: web.Server,
        fast_paths: Sequence[FastPath],
        limits: ListenerLimits,
        exempt: Callable[[str], bool],
        options: dict[str, Any],
    ) -> None:
        """Replace a server of aiohttp's that was made for an application."""
        self._make_request_object = server.request_factory
        self.draining = False
        self.fast_requests = 0
        super().__init__(
            server.request_handler,
            request_factory=self._serve,
            handler_cancellation=server.handler_cancellation,
        )
        self._fast_paths = fast_paths
        self._limits = limits
        self.held_open = Connections(limits.connections, exempt)
        self._options = {**options, "loop": asyncio.get_running_loop()}

    def __call__(self) -> Listener:
        """Make the protocol of a new connection."""
        return Listener(
            self,
            limits=self._limits,
            fast_path=bool(self._fast_paths),
            **self._options,
        )

    def prepare(
        self, visitor: Listener, message: RawRequestMessage
    ) -> FastRequest | None:
        """Make a request ready for the first fast path that takes it."""
        for path in self._fast_paths:
            request = path.prepare(visitor, message)
            if request is not None:
                return request
        return None

    def _serve(
        self, message: RawRequestMessage, body: StreamReader, visitor: Any, *rest: Any
    ) -> web.BaseRequest:
        """Make a request object; a relay that stops ends connections with an answer.

        Otherwise it would have to cut them, perhaps in the middle of the next.
        """
        if isinstance(visitor, Listener):
            visitor.serve(body)
        if self.draining:
            message = message._replace(should_close=True)
        return self._make_request_object(message, body, visitor, *rest)


class ListenerRunner(ServerRunner):
    """Runs an application behind :class:`Listener`.

    ``fast_paths`` are asked in their order; ``exempt`` returns whether an address may
    hold any number of connections.
    """

    def __init__(
        self,
        app: web.Application,
        fast_paths: Sequence[FastPath] = (),
        *,
        limits: ListenerLimits | None = None,
        exempt: Callable[[str], bool] = lambda _: False,
        shutdown_timeout: float = 60.0,
        **options: Any,
    ) -> None:
        self._limits = limits or ListenerLimits()
        whole = self._limits.server_options() | options
        super().__init__(app, shutdown_timeout=shutdown_timeout, **whole)
        # The one option that is the server's, not each connection's.
        whole.pop("handler_cancellation")
        self._options = whole
        self._fast_paths = fast_paths
        self._exempt = exempt

    @property
    def fast_requests(self) -> int:
        """How many requests have taken a fast path."""
        server = self.server
        return server.fast_requests if isinstance(server, ListenerServer) else 0

    def drain(self) -> None:
        """Close each connection with its next answer, from now on."""
        if isinstance(self.server, ListenerServer):
            self.server.draining = True

    def wrap(self, server: web.Server) -> web.Server:
        """Return the server that makes a :class:`Listener` for each visitor."""
        fast_paths = self._fast_paths
        if fast_paths and (missing := missing_attributes()):
            log.warning(
                "listener.slow_path_only", aiohttp=VERSION, missing=", ".join(missing)
            )
            fast_paths = ()
        return ListenerServer(
            server, fast_paths, self._limits, self._exempt, self._options
        )
