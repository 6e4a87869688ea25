"""The fast path to the site: ordinary requests, without a request object or a response.

Most of what passes a site is a GET, or the POST of a small form, with ordinary
headers, and the answer comes whole. Here such a request goes from one
protocol's callback to the other's. Whatever turns out not to be ordinary, at
whichever point, goes on in the slow path (``forward``) from where it stands,
and the visitor and the site see the same bytes either way.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from aiohttp import HttpVersion11, StreamReader

from relay.core.http import cookies
from relay.core.http.forwarding import (
    Forwarding,
    Onward,
    Returned,
    ordinary_answer,
    ordinary_request,
    reason_phrase,
)
from relay.core.http.headers import Headers
from relay.core.rules.rule import Match, SignupRule, match
from relay.http.aiohttp_internals import RawRequestMessage
from relay.http.callers import Visit
from relay.http.fast_path import MAX_BODY, FastRequest, Visitor
from relay.http.raw_responses import chunk
from relay.proxy.sightings import Watcher
from relay.proxy.signup_exchange import Settled, close_answer
from relay.proxy.upstream import Sites, Upstream
from relay.proxy.upstream_connection import Connection

_COMPANION: Final = cookies.COMPANION_COOKIE.encode()
_CLICKS: Final = re.compile(cookies.CLICK_COOKIE.encode() + b"|" + _COMPANION)

Declines = Callable[[bytes], bool] | None
"""Says by Content-Type which answers are to be changed; None: none are."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that went out to an instance of the site, on this connection."""

    upstream: Upstream
    connection: Connection
    body: bytes = b""

    def abandon(self) -> None:
        """Show the site that nobody waits any more."""
        self.connection.abort()


@dataclass(frozen=True, slots=True)
class Settling:
    """A sign-up that is under way, or over; it goes on without its visitor."""

    work: asyncio.Task[Settled]

    def abandon(self) -> None:
        """Close the answer when it comes."""
        self.work.add_done_callback(close_answer)


class SignUp(Protocol):
    """Starts a sign-up whose body is all there."""

    def __call__(
        self,
        matches: Sequence[Match],
        visit: Visit,
        head: bytes,
        body: bytes,
    ) -> asyncio.Task[Settled]:
        """Start it, as work that goes on if the visitor leaves."""


Watch = Callable[[Visit], Watcher | None]
"""Says of a request that no rule matches what looks at it, None if nothing does."""


class FastProxy:
    """Takes ordinary requests, as long as there is a connection kept for them."""

    def __init__(
        self,
        sites: Sites,
        rules: Sequence[SignupRule],
        forwarding: Forwarding,
        sign_up: SignUp,
        watch: Watch,
        *,
        prefix: str = "",
        declines: Callable[[bytes], bool] | None = None,
        may_clear: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make the path.

        ``prefix`` is where the relay's own paths begin, "" without any;
        ``declines`` is asked by Content-Type whether an answer is to be changed;
        ``may_clear`` says whether an answer may take a click away.
        """
        self._may_clear = may_clear
        self._sites = sites
        self._rules = tuple(rules)
        self._forwarding = forwarding
        self._sign_up = sign_up
        self._watch = watch
        self._prefix = prefix
        self._declines = declines
        self.methods = frozenset({"GET", "POST"})
        """What is for this path; less where others must see a request."""

    def prepare(
        self, visitor: Visitor, message: RawRequestMessage
    ) -> FastRequest | None:
        """Make ready to forward a request; None if it is not an ordinary one."""
        method = message.method
        if method not in self.methods or message.version != HttpVersion11:
            return None
        path, _, query = message.path.partition("?")
        # An escape may hide the prefix: the router decodes, and knows.
        if self._prefix and ("%" in path or path.startswith(self._prefix)):
            return None
        onward = ordinary_request(
            method,
            message.path,
            message.raw_headers,
            peer=visitor.peer,
            scheme=visitor.scheme,
            forwarding=self._forwarding,
        )
        if onward is None:
            return None
        found = match(self._rules, method, path, query) if self._rules else ()
        if method == "GET":
            return None if found else self._get(visitor, message, onward)
        if onward.length is None or onward.length > MAX_BODY:
            return None
        return self._post(visitor, message, onward, found)

    def _get(
        self, visitor: Visitor, message: RawRequestMessage, onward: Onward
    ) -> FastRequest | None:
        bodied = onward.length is not None
        if bodied or self._may_get_cookies(message.path, onward.cookies):
            return None
        watcher = None
        if "code=" in message.path:
            watcher = self._watcher(visitor, message, onward)
        return _PlainRequest(
            visitor,
            ("GET", onward.head),
            self._sites,
            self._declines,
            watcher,
            close=message.should_close,
        )

    def _may_get_cookies(self, target: str, given: Sequence[bytes]) -> bool:
        if self._may_clear() and any(_CLICKS.search(value) for value in given):
            return True
        return _may_get_cookies(target, given)

    def _watcher(
        self, visitor: Visitor, message: RawRequestMessage, onward: Onward
    ) -> Watcher | None:
        """Return what looks at a request, if it may carry a click."""
        if not any(_CLICKS.search(value) for value in onward.cookies):
            return None
        return self._watch(_visit(visitor, message, onward))

    def _post(
        self,
        visitor: Visitor,
        message: RawRequestMessage,
        onward: Onward,
        found: Sequence[Match],
    ) -> FastRequest:
        close = message.should_close
        if not found:
            return _PlainRequest(
                visitor,
                ("POST", onward.head),
                self._sites,
                self._declines,
                self._watcher(visitor, message, onward),
                close=close,
            )
        visit = _visit(visitor, message, onward)

        def start(body: bytes) -> asyncio.Task[Settled]:
            return self._sign_up(found, visit, onward.head, body)

        return _SignupRequest(visitor, start, self._declines, close=close)


def _visit(visitor: Visitor, message: RawRequestMessage, onward: Onward) -> Visit:
    return Visit(
        message.method,
        message.path,
        message.raw_headers,
        onward.host,
        onward.scheme == "https",
        visitor.peer,
    )


def _may_get_cookies(target: str, given: Sequence[bytes]) -> bool:
    """Whether this may be a landing, or a visit that lost its click."""
    if cookies.landing_click(target) is not None:
        return True
    if not any(_COMPANION in value for value in given):
        return False
    texts = [value.decode("utf-8", "surrogateescape") for value in given]
    clicks = cookies.usable(texts, cookies.CLICK_COOKIE, cookies.is_click_id)
    return len(set(clicks)) != 1


class _PlainRequest:
    """A request that no rule matches."""

    __slots__ = (
        "_begun",
        "_close",
        "_declines",
        "_head",
        "_method",
        "_sites",
        "_visitor",
        "_watcher",
    )

    def __init__(
        self,
        visitor: Visitor,
        request: tuple[str, bytes],
        sites: Sites,
        declines: Declines,
        watcher: Watcher | None,
        *,
        close: bool,
    ) -> None:
        """Make ready; ``request`` is the method and the whole head."""
        self._visitor = visitor
        self._method, self._head = request
        self._sites = sites
        self._declines = declines
        self._watcher = watcher
        self._close = close
        self._begun: Sent | None = None

    def start(self, body: StreamReader) -> bool:
        """Send it on a kept connection, if there is one."""
        kept = self._sites.kept_for(self._method)
        if kept is None:
            return False
        sent = kept[1].begin(self._head, body, self._complete)
        if sent is None:
            return False
        self._begun = Sent(*kept, sent if self._watcher else b"")
        return True

    def cancel(self) -> None:
        """Show the site that nobody waits any more."""
        if self._begun is not None:
            self._begun.abandon()

    def _complete(self) -> None:
        """Forward the answer if it is whole and ordinary, else divert."""
        begun = self._begun
        assert begun is not None  # noqa: S101 - set before any answer can come
        answer = self._answer(begun.connection)
        if answer is None:
            self._visitor.divert(begun)
            return
        begun.connection.protocol.take_head()
        begun.connection.release()
        self._visitor.complete(answer, close=self._close)

    def _answer(self, connection: Connection) -> bytes | None:
        head = connection.protocol.head()
        if head is None:
            return None
        message, payload = head
        if not payload.is_eof() or payload.exception() is not None:
            return None
        headers = self._sites.returned(message.raw_headers)
        returned = _ordinary(message.code, headers, self._declines)
        if returned is None:
            return None
        reason = reason_phrase(message.reason)
        status = b"HTTP/1.1 %d %s\r\n" % (message.code, reason)
        body = payload.read_nowait()
        if self._watcher is not None and self._begun is not None:
            self._watcher(self._begun.body, message.code, headers, body)
        return _written(status, returned, body, close=self._close)


class _SignupRequest:
    """A sign-up: a task of its own, which outlives the visitor."""

    __slots__ = ("_close", "_declines", "_left", "_sign_up", "_visitor", "_work")

    def __init__(
        self,
        visitor: Visitor,
        sign_up: Callable[[bytes], asyncio.Task[Settled]],
        declines: Declines,
        *,
        close: bool,
    ) -> None:
        self._visitor = visitor
        self._sign_up = sign_up
        self._declines = declines
        self._close = close
        self._left = False
        self._work: asyncio.Task[Settled] | None = None

    def start(self, body: StreamReader) -> bool:
        """Start the work; it opens a connection if none is kept."""
        self._work = self._sign_up(body.read_nowait())
        self._work.add_done_callback(self._complete)
        return True

    def cancel(self) -> None:
        """Let the sign-up go on alone."""
        self._left = True
        if self._work is not None:
            Settling(self._work).abandon()

    def _complete(self, work: asyncio.Task[Settled]) -> None:
        if self._left:
            return
        failed = work.cancelled() or work.exception() is not None
        answer = None if failed else self._answer(work.result())
        if answer is None:
            self._visitor.divert(Settling(work))
            return
        work.result().answer.close()
        self._visitor.complete(answer, close=self._close)

    def _answer(self, settled: Settled) -> bytes | None:
        answer, copied, cookies, tail = settled
        if copied.cut is not None or tail is not None or not answer.whole:
            return None
        returned = _ordinary(answer.status, answer.headers, self._declines)
        if returned is None:
            return None
        body = b"".join((*copied.pieces, answer.read_nowait()))
        status = b"HTTP/1.1 %d %s\r\n" % (answer.status, answer.reason)
        return _written(status, returned, body, cookies, close=self._close)


def _ordinary(status: int, headers: Headers, declines: Declines) -> Returned | None:
    if status < 200 or status in {204, 304}:
        return None  # these have rules of their own
    returned = ordinary_answer(headers)
    if returned is None or (declines is not None and declines(returned.kind)):
        return None
    return returned


def _written(
    status: bytes,
    returned: Returned,
    body: bytes,
    cookies: Sequence[bytes] = (),
    *,
    close: bool,
) -> bytes:
    """Write an answer as the slow path does."""
    lines = [status, *returned.lines]
    lines += [b"Set-Cookie: %s\r\n" % cookie for cookie in cookies]
    if returned.length is None:
        lines.append(b"Transfer-Encoding: chunked\r\n")
        body = chunk(body) + b"0\r\n\r\n"
    if close:
        lines.append(b"Connection: close\r\n")
    return b"".join((*lines, b"\r\n", body))
