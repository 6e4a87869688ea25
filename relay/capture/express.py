"""The express lane: ordinary GETs, without a task or an object too many.

Most of what passes a site is a GET with ordinary headers whose answer comes
whole. Here such a request goes from one protocol's callback to the other's.
Whatever turns out not to be ordinary, at whichever point, goes on in the
general lane (``proxy``) from where it stands, and the visitor and the site see
the same bytes either way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from aiohttp.http import HttpVersion11, RawRequestMessage

from relay.capture.balance import Sites
from relay.capture.connection import Connection
from relay.capture.exchange import chunk
from relay.capture.landing import PARAMETER
from relay.capture.upstream import Upstream
from relay.core import cookies
from relay.core.onward import Forwarding, ordinary_answer, ordinary_request
from relay.core.rules import SignupRule, match

Begun = tuple[Upstream, Connection]
"""An instance of the site and the connection on which a request went out."""

_COMPANION = cookies.COMPANION_COOKIE.encode()


class Visitor(Protocol):
    """The visitor's connection, as far as a flight needs it."""

    @property
    def peer(self) -> str | None:
        """The address at the other end, None on a unix socket."""

    @property
    def scheme(self) -> str:
        """How the visitor's request came in: http or https."""

    def landed(self, answer: bytes, *, close: bool) -> None:
        """Write a whole answer; the request is over."""

    def diverted(self, begun: Begun) -> None:
        """Go on in the general lane with a request that is sent already."""


class Express:
    """Takes ordinary requests, as long as there is a connection kept for them."""

    def __init__(
        self,
        sites: Sites,
        rules: Sequence[SignupRule],
        forwarding: Forwarding,
        *,
        prefix: str = "",
        declines: Callable[[bytes], bool] | None = None,
    ) -> None:
        """Open the lane.

        ``prefix`` is where the relay's own paths begin, "" without any;
        ``declines`` is asked by Content-Type whether an answer is to be changed.
        """
        self._sites = sites
        self._rules = tuple(rule for rule in rules if rule.method == "GET")
        self._forwarding = forwarding
        self._prefix = prefix
        self._declines = declines
        self.flights = 0
        """How many requests this lane took."""

    def believes(self, peer: str | None) -> bool:
        """Whether a peer is a trusted proxy, behind which many visitors stand."""
        return self._forwarding.believes(peer)

    def start(self, visitor: Visitor, message: RawRequestMessage) -> Flight | None:
        """Send a request on its way; None if it is not for this lane."""
        if message.method != "GET" or message.version != HttpVersion11:
            return None
        target = message.path
        if not self._is_the_sites(target):
            return None
        onward = ordinary_request(
            target,
            message.raw_headers,
            peer=visitor.peer,
            scheme=visitor.scheme,
            forwarding=self._forwarding,
        )
        if onward is None or _may_get_cookies(target, onward.cookies):
            return None
        kept = self._sites.kept_for("GET")
        if kept is None:
            return None
        connection = kept[1]
        flight = Flight(visitor, kept, self._declines, close=message.should_close)
        if not connection.begin(onward.head, flight.land):
            return None
        self.flights += 1
        return flight

    def _is_the_sites(self, target: str) -> bool:
        """Whether a path is plainly no path of the relay's, and no sign-up."""
        path = target.partition("?")[0]
        # An escape may hide the prefix: the router decodes, and knows.
        if self._prefix and ("%" in path or path.startswith(self._prefix)):
            return False
        return not self._rules or match(self._rules, "GET", path) is None


def _may_get_cookies(target: str, given: Sequence[bytes]) -> bool:
    """Whether this may be a landing, or a visit that lost its click."""
    if PARAMETER in target:
        return True
    if not any(_COMPANION in value for value in given):
        return False
    texts = [value.decode("utf-8", "surrogateescape") for value in given]
    return cookies.click_id(texts) is None


class Flight:
    """One request that is under way to the site."""

    __slots__ = ("_begun", "_close", "_declines", "connection", "visitor")

    def __init__(
        self,
        visitor: Visitor,
        begun: Begun,
        declines: Callable[[bytes], bool] | None,
        *,
        close: bool,
    ) -> None:
        self.visitor = visitor
        self._begun = begun
        self.connection = begun[1]
        self._declines = declines
        self._close = close

    def land(self) -> None:
        """Pass the answer on if it is whole and ordinary, else divert."""
        answer = self._answer()
        if answer is None:
            self.visitor.diverted(self._begun)
            return
        self.connection.protocol.take_head()
        self.connection.release()
        self.visitor.landed(answer, close=self._close)

    def cancel(self) -> None:
        """Tell the site that nobody waits any more."""
        self.connection.abort()

    def _answer(self) -> bytes | None:
        head = self.connection.protocol.head()
        if head is None:
            return None
        message, payload = head
        if message.code < 200 or message.code in {204, 304}:
            return None  # these have rules of their own
        if not payload.is_eof() or payload.exception() is not None:
            return None
        returned = ordinary_answer(message.raw_headers)
        if returned is None or (self._declines and self._declines(returned.kind)):
            return None
        reason = message.reason.encode("utf-8", "surrogateescape")
        body = payload.read_nowait()
        lines = [b"HTTP/1.1 %d %s\r\n" % (message.code, reason), *returned.lines]
        if returned.length is None:
            lines.append(b"Transfer-Encoding: chunked\r\n")
            body = chunk(body) + b"0\r\n\r\n"
        if self._close:
            lines.append(b"Connection: close\r\n")
        return b"".join((*lines, b"\r\n", body))
