"""What the proxy and its upstream client say to each other."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import StreamReader

from relay.core.http.forwarding import chunk


class UpstreamError(Exception):
    """The site gave no usable answer. The message is a plain sentence.

    ``status`` is what the visitor is told (502, or 504 when time ran out);
    ``sent`` is False only if the site cannot have seen any of the request.
    """

    def __init__(self, reason: str, *, status: int = 502, sent: bool = True) -> None:
        super().__init__(reason)
        self.status = status
        self.sent = sent


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
