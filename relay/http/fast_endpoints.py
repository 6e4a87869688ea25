"""Posts to the relay itself that are answered without a request object.

Most hooks are small and have nothing unusual about them. Such a one goes from the
connection straight to its endpoint; any other goes through aiohttp's
router, to the same endpoint. The caller gets the same bytes either way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import StreamReader, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE, HttpVersion11, RawRequestMessage

from relay.http.responses import told
from relay.proxy.fast_exchange import Visitor

Endpoint = Callable[[RawRequestMessage, str | None, bytes], Awaitable[web.Response]]
"""Answers a request by its head, who is at the other end of the connection, and its
body; may raise RefusedError."""

Shortcuts = Mapping[str, Endpoint]
"""Endpoints by their path."""

SHORTCUTS: Final = web.AppKey("shortcuts", Mapping[str, Endpoint])

MOST: Final = 32_768
"""Bytes of a body that is waited for: half of what aiohttp's reader holds before it
pauses the caller. A hook has 300."""


def book(
    shortcuts: Shortcuts, visitor: Visitor, message: RawRequestMessage
) -> Errand | None:
    """Make ready to answer an ordinary request; None for any other."""
    endpoint = shortcuts.get(message.path)
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
    return Errand(visitor, endpoint, message)


class Errand:
    """A request to an endpoint of the relay's own, as a flight."""

    __slots__ = ("_endpoint", "_message", "_visitor", "_work")

    def __init__(
        self, visitor: Visitor, endpoint: Endpoint, message: RawRequestMessage
    ) -> None:
        self._visitor = visitor
        self._endpoint = endpoint
        self._message = message
        self._work: asyncio.Task[bytes] | None = None

    def take_off(self, body: StreamReader) -> bool:
        """Ask the endpoint; the body is all there."""
        answering = self._answer(body.read_nowait())
        self._work = asyncio.get_running_loop().create_task(answering)
        self._work.add_done_callback(self._land)
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

    def _land(self, work: asyncio.Task[bytes]) -> None:
        if not work.cancelled():
            self._visitor.landed(work.result(), close=self._message.should_close)


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
