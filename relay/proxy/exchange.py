"""What the proxy and its upstream client say to each other."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiohttp import StreamReader
from aiohttp.web import HTTPRequestTimeout


class UpstreamError(Exception):
    """The site gave no usable answer. The message is a plain sentence.

    ``status`` is what the visitor is told (502, or 504 when time ran out);
    ``sent`` is False only if the site cannot have seen any of the request.
    """

    def __init__(self, reason: str, *, status: int = 502, sent: bool = True) -> None:
        super().__init__(reason)
        self.status = status
        self.sent = sent


class RequestBodyError(Exception):
    """The visitor's body broke off, was malformed (400), or did not come (408)."""

    def __init__(self, reason: str, *, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


async def read_visitor(stream: StreamReader, patience: float) -> bytes:
    """Give the next bytes of a visitor's body, b"" at its end.

    Raises RequestBodyError also when nothing has come for so many seconds.
    aiohttp's server tells a reader of a body nothing of a malformed chunk in
    its middle; this is what ends such a request, too.
    """
    try:
        async with asyncio.timeout(patience):
            return await stream.readany()
    except TimeoutError as error:
        raise RequestBodyError("the request's body stopped", status=408) from error
    except HTTPRequestTimeout as error:
        raise RequestBodyError("the request's body is too slow", status=408) from error
    except Exception as error:
        raise RequestBodyError("the request's body broke off") from error


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body on its way to the site.

    ``length`` in bytes, None for a chunked one; ``start`` is what was read
    already, ``rest`` the stream of what follows (None: nothing does).
    """

    length: int | None
    start: bytes = b""
    rest: StreamReader | None = None

    def framed_start(self, *, last: bool) -> bytes:
        """Give the start as it goes on the wire, ended if it is all there is."""
        if self.length is not None:
            return self.start
        end = b"0\r\n\r\n" if last else b""
        return chunk(self.start) + end


def chunk(data: bytes) -> bytes:
    """Frame data as one chunk (RFC 9112, 7.1); nothing for no data."""
    return b"%x\r\n%s\r\n" % (len(data), data) if data else b""
