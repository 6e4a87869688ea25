"""Posts to the relay itself that are answered without a request object.

Most hooks come whole, in one packet, with nothing unusual about them. Such a one
goes from the connection straight to its endpoint; any other goes through aiohttp's
router, to the same endpoint. The caller gets the same bytes either way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import StreamReader, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE, HttpVersion11, RawRequestMessage

from relay.capture.answers import told

Endpoint = Callable[[Mapping[str, str], bytes], Awaitable[web.Response]]
"""Answers a request by its headers and its body; may raise RefusedError."""

Shortcuts = Mapping[str, Endpoint]
"""Endpoints by their path."""

SHORTCUTS: Final = web.AppKey("shortcuts", Mapping[str, Endpoint])

MOST: Final = 64 * 1024
"""Bytes of a body that may come whole; aiohttp stops reading there for a while."""


def endpoint_of(
    shortcuts: Shortcuts, message: RawRequestMessage, body: StreamReader
) -> Endpoint | None:
    """Give the endpoint of a request that is ordinary and there as a whole."""
    endpoint = shortcuts.get(message.path)
    if endpoint is None or message.method != "POST":
        return None
    if message.version != HttpVersion11 or message.chunked or message.upgrade:
        return None
    if not body.is_eof() or body.total_bytes > MOST or body.exception() is not None:
        return None
    return None if "Expect" in message.headers else endpoint


async def answer_of(
    endpoint: Endpoint, message: RawRequestMessage, body: StreamReader
) -> bytes:
    """Give the whole answer, head and body, as aiohttp would write it."""
    try:
        response = await endpoint(message.headers, body.read_nowait())
    except Exception as error:  # noqa: BLE001 - the border: told, logged, answered
        response = told(error, message.path)
    return _written(response, close=message.should_close)


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
