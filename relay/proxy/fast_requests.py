"""The fast path: ordinary requests, without a request object or a response.

Most of what passes a site is a GET, or the POST of a small form, with ordinary
headers, and the answer comes whole. Here such a request goes from one
protocol's callback to the other's. Whatever turns out not to be ordinary, at
whichever point, goes on in the slow path (``proxy``) from where it stands,
and the visitor and the site see the same bytes either way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from aiohttp.http import HttpVersion11, RawRequestMessage

from relay.capture.click_cookie import PARAMETER
from relay.core.http import cookies
from relay.core.http.cookies import Visit
from relay.core.http.forwarding import (
    Forwarding,
    Onward,
    ordinary_request,
)
from relay.core.rules.rule import (
    SignupRule,
    match,
)
from relay.http.fast_path import FastRequest, Visitor
from relay.proxy.balancing import Sites
from relay.proxy.fast_exchange import PlainRequest, SignupRequest
from relay.proxy.settling import Settled

MAX_BODY: Final = 32_768
"""Bytes of a body that is waited for: a form, and half of what aiohttp's reader
holds before it pauses the visitor."""

_COMPANION = cookies.COMPANION_COOKIE.encode()


class SiteFastPath:
    """Takes ordinary requests, as long as there is a connection kept for them."""

    def __init__(
        self,
        sites: Sites,
        rules: Sequence[SignupRule],
        forwarding: Forwarding,
        sign_up: SignUp,
        *,
        prefix: str = "",
        declines: Callable[[bytes], bool] | None = None,
    ) -> None:
        """Open the fast path.

        ``prefix`` is where the relay's own paths begin, "" without any;
        ``declines`` is asked by Content-Type whether an answer is to be changed.
        """
        self._sites = sites
        self._rules = tuple(rules)
        self._forwarding = forwarding
        self._sign_up = sign_up
        self._prefix = prefix
        self._declines = declines
        self.methods = frozenset({"GET", "POST"})
        """What is for the fast path; less where others must see a request."""
        self.requests = 0
        """How many requests the fast path took."""

    def believes(self, peer: str | None) -> bool:
        """Whether a peer is a trusted proxy, behind which many visitors stand."""
        return self._forwarding.believes(peer)

    def accept(
        self, visitor: Visitor, message: RawRequestMessage
    ) -> FastRequest | None:
        """Make ready to pass a request on; None if it is not for the fast path."""
        method = message.method
        if method not in self.methods or message.version != HttpVersion11:
            return None
        path = message.path.partition("?")[0]
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
        found = match(self._rules, method, path) if self._rules else None
        if method == "GET":
            return None if found else self._get(visitor, message, onward)
        if onward.length is None or onward.length > MAX_BODY:
            return None
        return self._post(visitor, message, onward, found)

    def started(self) -> None:
        """Count a request that is on its way."""
        self.requests += 1

    def _get(
        self, visitor: Visitor, message: RawRequestMessage, onward: Onward
    ) -> FastRequest | None:
        bodied = onward.length is not None
        if bodied or _may_get_cookies(message.path, onward.cookies):
            return None
        close = message.should_close
        return PlainRequest(
            visitor, ("GET", onward.head), self._sites, self._declines, close=close
        )

    def _post(
        self,
        visitor: Visitor,
        message: RawRequestMessage,
        onward: Onward,
        found: tuple[SignupRule, Mapping[str, str]] | None,
    ) -> FastRequest:
        close = message.should_close
        if found is None:
            return PlainRequest(
                visitor, ("POST", onward.head), self._sites, self._declines, close=close
            )
        secure = onward.scheme == "https"
        visit = Visit("POST", message.path, message.raw_headers, onward.host, secure)

        def start(body: bytes) -> asyncio.Task[Settled]:
            return self._sign_up(*found, visit, onward.head, body)

        return SignupRequest(visitor, start, self._declines, close=close)


class SignUp(Protocol):
    """Starts a sign-up whose body is all there."""

    def __call__(
        self,
        rule: SignupRule,
        path_params: Mapping[str, str],
        visit: Visit,
        head: bytes,
        body: bytes,
    ) -> asyncio.Task[Settled]:
        """Start it, as work that goes on if the visitor leaves."""


def _may_get_cookies(target: str, given: Sequence[bytes]) -> bool:
    """Whether this may be a landing, or a visit that lost its click."""
    if PARAMETER in target:
        return True
    if not any(_COMPANION in value for value in given):
        return False
    texts = [value.decode("utf-8", "surrogateescape") for value in given]
    return cookies.click_id(texts) is None
