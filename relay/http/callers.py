"""Who calls: by which address, from which page, and how often.

Address and host are those that the proxies in front report, if they are trusted. A
call counts as one of the relay's own origin by its Origin header, which no page can
forge: a page elsewhere that can make a visitor's browser call could plant a click or
use one up.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from ipaddress import ip_address, ip_network
from itertools import islice
from typing import Final

from aiohttp import web

from relay.core.http import cookies
from relay.core.http.headers import (
    Headers,
    Network,
    client,
    is_believed,
    is_host,
    visitor_scheme_host,
)
from relay.http.limits import tally
from relay.http.request_guard import every
from relay.http.responses import Handler, RefusedError
from relay.observability.logging import get_logger

log = get_logger()

NOT_SAME_ORIGIN: Final = (
    "Only pages of this very origin may ask for this. If they do, a proxy in front "
    "of the relay hides scheme or host: name its address in RELAY_TRUSTED_PROXIES, "
    "and let it send X-Forwarded-Proto and X-Forwarded-Host."
)

_USUAL_PORTS: Final = {"http": ":80", "https": ":443"}

MAX_BUCKETS: Final = 10_000
"""Addresses remembered; some 3 MB. After a minute without calls a bucket is full again
and needs no memory."""

LOOKED_AT: Final = 16
"""Of so many that were away longest, the one with most calls left is forgotten: nobody
gets a new bucket for an empty one by calling from many other addresses."""

SITE_PREFIX: Final = 64
"""Bits of an IPv6 address that name one customer's network (RFC 6177): the
rest is theirs to choose from."""

REFUSALS_PER_MINUTE: Final = 120
"""Refusals of one address in one process: a provider whose secret is being changed
stays below it, and nobody guesses a secret at this speed."""

COUNTED: Final = frozenset({401, 413})
"""What a stranger gets: a signature that does not fit, a body that is too long."""


@dataclass(frozen=True)
class Visit:
    """One request, as far as cookies go.

    ``host`` is the host the visitor sees (it may carry a port), ``secure``
    whether the visitor came by https, ``peer`` the connection's other end.
    """

    method: str
    target: str
    headers: Headers
    host: str
    secure: bool
    peer: str | None = None
    unsealed: list[cookies.SignedCookie | None] = field(
        default_factory=list, compare=False, repr=False
    )
    """What its signed click cookies were found to be; empty until they were read."""

    @cached_property
    def _cookie_lines(self) -> list[str]:
        lines = every(self.headers, b"cookie")
        return [line.decode("utf-8", "surrogateescape") for line in lines]

    @cached_property
    def clicks(self) -> list[str]:
        """All usable click ids of the cookies, in the browser's order."""
        return cookies.usable(
            self._cookie_lines, cookies.CLICK_COOKIE, cookies.is_click_id
        )

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """All cookies, each a name and a value."""
        return list(cookies.pairs(self._cookie_lines))

    @cached_property
    def sealed(self) -> list[str]:
        """What may be signed click cookies, in the browser's order."""
        return cookies.usable(
            self._cookie_lines, cookies.COMPANION_COOKIE, cookies.is_sealed
        )


@dataclass(frozen=True, slots=True)
class Trusted:
    """The proxies in front, whose X-Forwarded-* are believed; nobody else's are.

    ``unix``: what reaches the relay by its unix socket is one of them.
    """

    networks: Sequence[Network] = ()
    unix: bool = False

    def includes(self, peer: str | None) -> bool:
        """Whether a connection comes from one of them, with many visitors behind."""
        return is_believed(peer, self.networks, unix_trusted=self.unix)

    def address(self, request: web.BaseRequest) -> str:
        """Return the visitor's address, "unknown" if there is none."""
        return self.address_of(request.raw_headers, request.remote)

    def address_of(self, headers: Headers, peer: str | None) -> str:
        """Return it by a request's headers and its connection's other end."""
        return client(headers, peer or None, self.networks, unix_trusted=self.unix)

    def scheme_host(self, request: web.BaseRequest) -> tuple[str, str]:
        """Return scheme and host as they stand in the visitor's address bar."""
        return visitor_scheme_host(
            request.raw_headers,
            peer=request.remote or None,
            scheme=request.scheme,
            host=request.headers.get("Host", ""),
            trusted=self.networks,
            unix_trusted=self.unix,
        )


class OwnPages:
    """Distinguishes the site's own pages from all others."""

    def __init__(self, trusted: Trusted) -> None:
        self._trusted = trusted
        self._warned = False

    def visit(self, request: web.Request) -> Visit:
        """Return the visit behind a call of an own page; refuse others with 403."""
        headers = request.raw_headers
        scheme, host = self._trusted.scheme_host(request)
        origins = every(headers, b"origin")
        sites = [each.strip().lower() for each in every(headers, b"sec-fetch-site")]
        # Browsers send no Origin with a GET of their own origin, but say this.
        own_get = request.method == "GET" and not origins and bool(sites)
        if not is_host(host) or not (own_get or origins == [_origin(scheme, host)]):
            self._hint(origins, host)
            raise RefusedError(403, NOT_SAME_ORIGIN)
        if any(site != b"same-origin" for site in sites):
            raise RefusedError(403, NOT_SAME_ORIGIN)
        return Visit(request.method, request.path, headers, host, scheme == "https")

    def _hint(self, origins: Sequence[bytes], host: str) -> None:
        """Warn once of a proxy that ends TLS and is not believed."""
        if not self._warned and origins == [_origin("https", host)]:
            self._warned = True
            log.warning("cookie.https_not_known", help=NOT_SAME_ORIGIN)


def _origin(scheme: str, host: str) -> bytes:
    """Write an origin as browsers do: lower case, without the usual port."""
    name = host.lower().removesuffix(_USUAL_PORTS[scheme])
    return f"{scheme}://{name}".encode("latin-1")


class Keys:
    """Bearer keys that are right; the time of a comparison reveals none of them."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    def __contains__(self, given: str) -> bool:
        digest = _digest(given)
        # Added up: any() would stop at the first that fits.
        return sum(hmac.compare_digest(digest, key) for key in self._digests) > 0


def _digest(key: str) -> bytes:
    """Make keys equally long, so that not even a length can be measured."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class VisitorRate:
    """Lets each address call so many times a minute, all at once if it likes.

    ``span``: so many times in so many seconds instead.
    """

    def __init__(
        self, calls: int, *, span: float = 60.0, most: int = MAX_BUCKETS
    ) -> None:
        self._burst = float(calls)
        self._per_second = calls / span
        self._most = most
        # How many calls were left, and when that was, in seconds.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str, now: float) -> float:
        """Count a call; return 0 if it may pass, else the seconds until one may.

        ``now`` is a monotonic time in seconds. A call that may not pass costs
        nothing.
        """
        key = _customer(address)
        left = self._left(key, now)
        passes = left >= 1
        self._keep(key, left - passes, now)
        return 0.0 if passes else (1 - left) / self._per_second

    def turn(self, address: str, now: float, most: float) -> float:
        """Count a call that passes in any case; return the seconds until its turn.

        Calls that come too fast have their turns one after the other, at the rate,
        and none later than after ``most`` seconds.
        """
        key = _customer(address)
        left = max(self._left(key, now) - 1, -most * self._per_second)
        self._keep(key, left, now)
        return max(0.0, -left / self._per_second)

    def _left(self, key: str, now: float) -> float:
        left, at = self._buckets.pop(key, (self._burst, now))
        return min(self._burst, left + max(0.0, now - at) * self._per_second)

    def _keep(self, key: str, left: float, now: float) -> None:
        self._buckets[key] = (left, now)
        if len(self._buckets) > self._most:
            oldest = islice(self._buckets.items(), LOOKED_AT)
            del self._buckets[max(oldest, key=lambda item: item[1])[0]]


def _customer(address: str) -> str:
    """Return the part of an address that one customer cannot change."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ip_network(f"{address}/{SITE_PREFIX}", strict=False))


class RefusalRate:
    """Turns a stranger's refusals into 429 once there are too many in a minute.

    A caller that signs rightly is never limited, wherever the call comes from: a
    provider calls from few addresses, in bursts, and behind a proxy that is not trusted
    all the world has one. So only refusals are counted.
    """

    def __init__(
        self,
        trusted: Trusted,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rate = VisitorRate(REFUSALS_PER_MINUTE)
        self._trusted = trusted
        self._monotonic = monotonic

    def guard(self, handler: Handler) -> Handler:
        """Wrap a handler: what it refuses too often is answered 429."""
        return partial(self._handle, handler)

    async def _handle(
        self, handler: Handler, request: web.Request
    ) -> web.StreamResponse:
        try:
            return await handler(request)
        except (RefusedError, web.HTTPRequestEntityTooLarge) as refused:
            self.count(refused.status, request.raw_headers, request.remote)
            raise

    def count(self, status: int, headers: Headers, peer: str | None) -> None:
        """Count a refusal if it is COUNTED; raise RefusedError when it is one too many.

        Takes the headers of the request and its connection's other end: a caller of
        the fast path has no request object.
        """
        if status not in COUNTED:
            return
        address = self._trusted.address_of(headers, peer)
        wait = self._rate.take(address, self._monotonic())
        if wait:
            tally.note("hook.throttled", address)
            raise RefusedError(
                429,
                "Too many calls from this address were refused.",
                {"Retry-After": str(math.ceil(wait))},
            ) from None
