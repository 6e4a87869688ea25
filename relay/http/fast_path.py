"""The fast path: ordinary requests that are answered without a request object.

The listener offers each request to the relay's own endpoints (here) and to the site
(:class:`SitePath`, which the proxy implements). What neither accepts, because it is
not ordinary, takes the slow path: aiohttp's router, to the same endpoint or site.
The caller gets the same bytes either way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

from aiohttp import StreamReader, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE, HttpVersion11, RawRequestMessage

from relay.http.responses import told

Endpoint = Callable[[RawRequestMessage, str | None, bytes], Awaitable[web.Response]]
"""Answers a request by its head, who is at the other end of the connection, and its
body; may raise RefusedError."""

FastEndpoints = Mapping[str, Endpoint]
"""Endpoints by their path."""

FAST_ENDPOINTS: Final = web.AppKey("endpoints", Mapping[str, Endpoint])

MOST: Final = 32_768
"""Bytes of a body that is waited for: half of what aiohttp's reader holds before it
pauses the caller. A hook has 300."""


class Begun(Protocol):
    """A request that was sent to the site already; the slow path goes on with it."""

    def abandon(self) -> None:
        """Drop it: the visitor has left."""


class Visitor(Protocol):
    """The visitor's connection, as far as a request of the fast path needs it."""

    @property
    def peer(self) -> str | None:
        """The address at the other end, None on a unix socket."""

    @property
    def scheme(self) -> str:
        """How the visitor's request came in: http or https."""

    def complete(self, answer: bytes, *, close: bool) -> None:
        """Write a whole answer; the request is over."""

    def hand_over(self, begun: Begun) -> None:
        """Continue on the slow path with a request that is sent already."""


class FastRequest(Protocol):
    """One request of the fast path."""

    def start(self, body: StreamReader) -> bool:
        """Send the request, whose body is all there.

        False if that is not possible; then nothing is sent, nor read.
        """

    def cancel(self) -> None:
        """Continue without the visitor, who has left."""


class SitePath(Protocol):
    """The fast path to the site."""

    def believes(self, peer: str | None) -> bool:
        """Whether a peer is a trusted proxy, behind which many visitors are."""

    def accept(
        self, visitor: Visitor, message: RawRequestMessage
    ) -> FastRequest | None:
        """Prepare to forward a request; None if it is not an ordinary one."""

    def started(self) -> None:
        """Count a request that is on its way."""


def accept_endpoint(
    endpoints: FastEndpoints, visitor: Visitor, message: RawRequestMessage
) -> EndpointRequest | None:
    """Prepare to answer an ordinary request; None for any other."""
    endpoint = endpoints.get(message.path)
    if endpoint is None or message.method != "POST":
        return None
    if message.version != HttpVersion11 or message.chunked or message.upgrade:
        return None
    if message.compression is not None or "Expect" in message.headers:
        return None
    length = message.headers.get("Content-Length", "")
    # The parser has refused what is no number.
    if not length or int(length) > MOST:
        return None
    return EndpointRequest(visitor, endpoint, message)


class EndpointRequest:
    """A request to an endpoint of the relay's own."""

    __slots__ = ("_endpoint", "_message", "_visitor", "_work")

    def __init__(
        self, visitor: Visitor, endpoint: Endpoint, message: RawRequestMessage
    ) -> None:
        self._visitor = visitor
        self._endpoint = endpoint
        self._message = message
        self._work: asyncio.Task[bytes] | None = None

    def start(self, body: StreamReader) -> bool:
        """Ask the endpoint; the body is all there."""
        answering = self._answer(body.read_nowait())
        self._work = asyncio.get_running_loop().create_task(answering)
        self._work.add_done_callback(self._complete)
        return True

    def cancel(self) -> None:
        """Stop: nobody waits for the answer any more."""
        if self._work is not None:
            self._work.cancel()

    async def _answer(self, body: bytes) -> bytes:
        """Give the whole answer, head and body, as aiohttp would write it."""
        message = self._message
        try:
            response = await self._endpoint(message, self._visitor.peer, body)
        except Exception as error:  # noqa: BLE001 - the border: told, logged, answered
            response = told(error, message.path)
        return _written(response, close=message.should_close)

    def _complete(self, work: asyncio.Task[bytes]) -> None:
        if not work.cancelled():
            self._visitor.complete(work.result(), close=self._message.should_close)


def _written(response: web.Response, *, close: bool) -> bytes:
    content = response.body
    assert isinstance(content, bytes)  # noqa: S101 - our endpoints' answers are
    lines = [f"HTTP/1.1 {response.status} {response.reason}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    lines += (
        f"Content-Length: {len(content)}",
        f"Date: {rfc822_formatted_time()}",
        f"Server: {SERVER_SOFTWARE}",
    )
    if close:
        lines.append("Connection: close")
    return "\r\n".join((*lines, "\r\n")).encode() + content
