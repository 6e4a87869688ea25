"""What the proxy and its client of the site pass to each other."""

from __future__ import annotations

from dataclasses import dataclass

from relay.core.http.codings import MAX_BODY
from relay.http.raw_responses import chunk
from relay.http.request_body import Readable


class UpstreamError(Exception):
    """The site gave no usable answer. The message is a plain sentence.

    ``status`` is what the visitor gets (502, or 504 when time ran out);
    ``sent`` is False only if the site cannot have seen any of the request.
    """

    def __init__(self, reason: str, *, status: int = 502, sent: bool = True) -> None:
        super().__init__(reason)
        self.status = status
        self.sent = sent


class GoneError(UpstreamError):
    """The connection ended before any answer: a safe request may go again."""


@dataclass(frozen=True, slots=True)
class UpstreamLimits:
    """How long the site and the visitor may take, in seconds.

    ``connect`` until the connection stands, ``answer`` from the end of the
    request to the answer's head, ``stall`` without a byte moving between the
    relay and the site in a body. Server-sent events are exempt from the last:
    they may be silent. ``visitor``: without a byte of the visitor's body.
    ``copy`` is how many bytes of a sign-up's body, and of its answer's, are
    copied for the rules.
    """

    connect: float = 10.0
    answer: float = 60.0
    stall: float = 300.0
    visitor: float = 60.0
    copy: int = MAX_BODY


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body on its way to the site.

    ``length`` in bytes, None for a chunked one; ``start`` is what was read
    already, ``rest`` the stream of what follows (None: nothing does).
    """

    length: int | None
    start: bytes = b""
    rest: Readable | None = None

    def framed_start(self, *, last: bool) -> bytes:
        """Return the start as it goes on the wire, ended if it is all there is."""
        if self.length is not None:
            return self.start
        end = b"0\r\n\r\n" if last else b""
        return chunk(self.start) + end
