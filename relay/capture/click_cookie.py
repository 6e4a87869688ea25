"""Landings: the click cookie, set by the server.

Dub's script sets ``dub_id`` in the browser. Set by the site's own server the
cookie also works without JavaScript, and Safari keeps it for its full time.
Beside it goes the signed click cookie, out of scripts' reach, from which a lost
``dub_id`` is restored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import parse_qsl

from relay.core.clock import Clock
from relay.core.http import cookies
from relay.core.http.cookies import SignedCookie
from relay.core.http.headers import Headers
from relay.http.callers import Visit
from relay.http.request_guard import every
from relay.observability.logging import get_logger
from relay.observability.metrics import Metrics

log = get_logger()

PARAMETER: Final = "dub_id"
DAY_S: Final = 86_400

SHARED_CACHE_FIELDS: Final = frozenset(
    {
        b"cache-control",
        b"expires",
        b"pragma",
        b"surrogate-control",
        b"edge-control",
        b"x-accel-expires",
        b"cdn-cache-control",
        b"cloudflare-cdn-cache-control",
        b"vercel-cdn-cache-control",
        b"netlify-cdn-cache-control",
    }
)
"""What makes a cache, the visitor's or a CDN, keep an answer (RFC 9111, RFC
9213, and the CDNs' own). One visitor's click must never be handed to another."""

PRIVATE: Final = (b"Cache-Control", b"private, no-store")


class Landing:
    """Decides which click cookies go out with an answer."""

    def __init__(
        self,
        secrets: Sequence[str],
        *,
        days: int,
        attribution: cookies.Attribution,
        domain: str | None,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._secrets = tuple(secrets)
        self._days = days
        self._attribution = attribution
        self._domain = domain
        self._clock = clock
        self._metrics = metrics

    def cookies(self, visit: Visit) -> list[bytes]:
        """Return the Set-Cookie values to go out with the answer; mostly none.

        There are some for a landing, and for a visit that lost its click. A
        mistake of ours is logged, and the answer goes out without.
        """
        try:
            return self._cookies(visit)
        except Exception as error:  # noqa: BLE001 - ours; the page must come
            log.error("landing.failed", error=type(error).__name__)
            return []

    def _cookies(self, visit: Visit) -> list[bytes]:
        if visit.method != "GET":
            return []
        arrived = clicked(visit.target)
        if arrived is None:
            return self._restored(visit)
        if not is_navigation(visit):
            return []
        self._metrics.landings.inc()
        previous = self.signed_cookie(visit)
        if self._attribution == "first-click" and _has_earlier(visit, previous):
            return self._restored(visit)
        return self._write(
            visit,
            cookies.landed(
                previous, arrived, self._clock(), visit.target, self._attribution
            ),
        )

    def reported(self, visit: Visit, click_id: str, page: str) -> list[bytes]:
        """Return the cookies for a click that the page's script has in its hands.

        ``page`` is the path it runs on. The script has mostly written its own
        cookie already, so a cookie is an earlier click only if it differs.
        """
        known = visit.click_id()
        if known is not None and self._attribution == "first-click":
            click_id = known
        return self._write(
            visit,
            cookies.landed(
                self.signed_cookie(visit),
                click_id,
                self._clock(),
                page,
                self._attribution,
            ),
        )

    def restored(self, visit: Visit) -> list[bytes]:
        """Return the cookies that bring a lost click back; none if none is lost."""
        if visit.click_id() is not None:
            return []
        signed_cookie = self.signed_cookie(visit)
        if signed_cookie is None or signed_cookie.used:
            return []
        return self._write(visit, replace(signed_cookie, last_seen=self._clock()))

    def forgotten(self, visit: Visit) -> list[bytes]:
        """Return the Set-Cookie values that leave nothing of a click behind."""
        domain = self._domain_of(visit)
        lines = cookies.clear_click(domain) + cookies.clear_signed_cookie(domain)
        return [line.encode("ascii") for line in lines]

    def signed_cookie(self, visit: Visit) -> SignedCookie | None:
        """Return the visitor's signed click cookie, None without a genuine one."""
        values = visit.given(cookies.COMPANION_COOKIE)
        now, max_age = self._clock(), self._days * DAY_S
        for value in values:
            signed_cookie = cookies.unseal(value, self._secrets, now, max_age)
            if signed_cookie is not None:
                return signed_cookie
        return None

    def click_id(self, visit: Visit) -> str | None:
        """Return the click of the cookie, or of the signed one if that was lost."""
        click_id = visit.click_id()
        if click_id is not None:
            return click_id
        signed_cookie = self.signed_cookie(visit)
        return (
            None
            if signed_cookie is None or signed_cookie.used
            else signed_cookie.click_id
        )

    def used(self, visit: Visit) -> list[bytes]:
        """Clear the click cookie in both its forms; nothing may restore it."""
        lines = list(cookies.clear_click(self._domain_of(visit)))
        signed_cookie = self.signed_cookie(visit)
        if signed_cookie is not None:
            used = cookies.use(signed_cookie, self._clock())
            lines.append(self._seal(visit, used))
        return [line.encode("ascii") for line in lines]

    def _restored(self, visit: Visit) -> list[bytes]:
        # Most visitors have no signed click cookie; nothing more is done for them.
        if not visit.given(cookies.COMPANION_COOKIE):
            return []
        return self.restored(visit) if is_page_view(visit) else []

    def _write(self, visit: Visit, signed_cookie: SignedCookie) -> list[bytes]:
        click = cookies.write_click(
            signed_cookie.click_id,
            domain=self._domain_of(visit),
            days=self._days,
            now=self._clock(),
        )
        return [click.encode("ascii"), self._seal(visit, signed_cookie).encode("ascii")]

    def _seal(self, visit: Visit, signed_cookie: SignedCookie) -> str:
        now = self._clock()
        return cookies.write_signed_cookie(
            cookies.seal(signed_cookie, self._secrets, now),
            domain=self._domain_of(visit),
            days=self._days,
            now=now,
            secure=visit.secure,
        )

    def _domain_of(self, visit: Visit) -> str | None:
        return cookies.cookie_domain(visit.host, self._domain)


def _has_earlier(visit: Visit, signed_cookie: SignedCookie | None) -> bool:
    if visit.click_id() is not None:
        return True
    return signed_cookie is not None and not signed_cookie.used


def clicked(target: str) -> str | None:
    """Return the first valid click id of a target's query, decoded."""
    query = target.partition("?")[2]
    if PARAMETER not in query:
        return None
    pairs = parse_qsl(query, errors="replace")
    return next(
        (v for name, v in pairs if name == PARAMETER and cookies.is_click_id(v)), None
    )


def is_navigation(visit: Visit) -> bool:
    """Whether a person went to this address, as far as can be known.

    An image or a frame in a foreign page must not plant a click (cookie
    stuffing). Browsers say what a request is for, but old ones do not, and
    none does on plain http; images are then known by what they accept.
    """
    wanted = every(visit.headers, b"sec-fetch-dest")
    if wanted:
        return all(value.strip().lower() == b"document" for value in wanted)
    return accepts(visit, b"text/html") or not accepts(visit, b"image/")


def is_page_view(visit: Visit) -> bool:
    """Whether the answer will be shown as a page; stricter than a landing.

    Restoring keeps an answer out of caches, which no script or style needs.
    """
    if every(visit.headers, b"sec-fetch-dest"):
        return is_navigation(visit)
    return accepts(visit, b"text/html")


def accepts(visit: Visit, kind: bytes) -> bool:
    """Whether Accept names a kind of content."""
    return kind in b",".join(every(visit.headers, b"accept")).lower()


def with_cookies(headers: Headers, lines: Sequence[bytes], method: str) -> Headers:
    """Add Set-Cookie lines to an answer's headers.

    Caches keep answers to GET, so such an answer is kept out of them.
    """
    if not lines:
        return headers
    added = [(b"Set-Cookie", line) for line in lines]
    if method != "GET":
        return [*headers, *added]
    kept = [field for field in headers if field[0].lower() not in SHARED_CACHE_FIELDS]
    return [*kept, PRIVATE, *added]
