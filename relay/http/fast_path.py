"""The fast path: requests that are answered without a request object.

Most requests are small and have nothing unusual about them. Such a one goes from the
connection straight to what answers it; any other goes through aiohttp's router, to the
same code. The caller gets the same bytes either way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

from aiohttp import HttpVersion11, StreamReader, web

from relay.http.aiohttp_internals import SERVER_SOFTWARE, RawRequestMessage
from relay.http.raw_responses import http_date
from relay.http.responses import error_response

Endpoint = Callable[[RawRequestMessage, str | None, bytes], Awaitable[web.Response]]
"""Answers a request by its head, who is at the other end of the connection, and its
body; may raise RefusedError."""

MAX_BODY: Final = 32_768
"""Bytes of a body that is waited for: half of what aiohttp's reader holds before it
pauses the caller. A hook has 300, a form a few thousand."""


class Begun(Protocol):
    """What the slow path goes on with: a request that is sent already."""

    def abandon(self) -> None:
        """Do without the answer: the visitor has left."""


class Visitor(Protocol):
    """A visitor's connection, as far as the fast path needs it."""

    @property
    def peer(self) -> str | None:
        """The address at the other end, None on a unix socket."""

    @property
    def scheme(self) -> str:
        """How the visitor's request came in: http or https."""

    def complete(self, answer: bytes, *, close: bool) -> None:
        """Write a whole answer; the request is over."""

    def divert(self, begun: Begun) -> None:
        """Go on in the slow path with a request that is sent already."""


class FastRequest(Protocol):
    """One request of the fast path."""

    def start(self, body: StreamReader) -> bool:
        """Start to answer the request, whose body is all there.

        False if that is not possible; then nothing is sent, nor read.
        """

    def cancel(self) -> None:
        """Go on without the visitor, who has left."""


class FastPath(Protocol):
    """Makes ordinary requests ready; the others are the slow path's."""

    def prepare(
        self, visitor: Visitor, message: RawRequestMessage
    ) -> FastRequest | None:
        """Make ready to answer a request; None if it is not an ordinary one."""


FAST_PATHS: Final = web.AppKey("fast_paths", list[FastPath])
"""Where a listener finds the fast paths of its application, in their order."""


class FastEndpoints:
    """The relay's own endpoints that have a fast path, by their path."""

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self.endpoints = endpoints

    def prepare(
        self, visitor: Visitor, message: RawRequestMessage
    ) -> FastRequest | None:
        """Make ready to answer an ordinary POST to one of them; None for any other."""
        endpoint = self.endpoints.get(message.path)
        if endpoint is None or message.method != "POST":
            return None
        if message.version != HttpVersion11 or message.chunked or message.upgrade:
            return None
        if message.compression is not None or "Expect" in message.headers:
            return None
        length = message.headers.get("Content-Length", "")
        # The parser has refused what is not a number.
        if not length or int(length) > MAX_BODY:
            return None
        return _EndpointRequest(visitor, endpoint, message)


class _EndpointRequest:
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
        """Return the whole answer, head and body, as aiohttp would write it."""
        message = self._message
        try:
            response = await self._endpoint(message, self._visitor.peer, body)
        except Exception as error:  # noqa: BLE001 - the border: logged, answered
            response = error_response(error, message.path)
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
        f"Date: {http_date().decode('ascii')}",
        f"Server: {SERVER_SOFTWARE}",
    )
    if close:
        lines.append("Connection: close")
    return "\r\n".join((*lines, "\r\n")).encode() + content
