"""Landings: the click cookie, set by the server.

Dub's script sets ``dub_id`` in the browser. Set by the site's own server the
cookie also works without JavaScript, and Safari keeps it for its full time.
Beside it goes the signed click cookie, out of scripts' reach, from which a lost
``dub_id`` is restored.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from relay.core.clock import Clock
from relay.core.http import cookies
from relay.core.http.consent import ConsentCookie
from relay.core.http.cookies import Attribution, SignedCookie
from relay.core.http.headers import Headers
from relay.http.callers import Visit
from relay.http.public_suffix import is_public_suffix
from relay.http.request_guard import every
from relay.observability.logging import get_logger
from relay.observability.metrics import Metrics

log = get_logger()

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


PREPARING: Final = (b"sec-purpose", b"purpose", b"x-purpose", b"x-moz")
"""Headers by which browsers say that nobody has gone to this address yet."""


MAX_UNCLEARED: Final = 10_000
"""Used clicks that are remembered because their answer could not clear them."""


@dataclass(frozen=True, slots=True)
class VisitorsClick:
    """A click id and where it came from; "" is the customer's earlier click.

    ``seen`` is what the relay signed of it, None if it has not.
    """

    id: str | None
    source: str
    seen: SignedCookie | None = None


NO_CLICK: Final = VisitorsClick(None, "none")


@dataclass(frozen=True, slots=True)
class StoringTerms:
    """When the server may store a click at a landing.

    ``consent`` is the cookie that says so, ``gpc`` whether a browser's Global Privacy
    Control is a no.
    """

    landing: cookies.Storing = "always"
    consent: ConsentCookie | None = None
    gpc: bool = False


ALWAYS: Final = StoringTerms()


class Landing:
    """Decides which click cookies go out with an answer."""

    def __init__(
        self,
        secrets: Sequence[str],
        *,
        days: int,
        attribution: Attribution,
        domain: str | None,
        clock: Clock,
        metrics: Metrics,
        storing: StoringTerms = ALWAYS,
    ) -> None:
        self._storing = storing
        self._secrets = tuple(secrets)
        self._days = days
        self._attribution = attribution
        self._domain = domain
        self._clock = clock
        self._metrics = metrics
        self._consent_told = False
        self._uncleared: OrderedDict[tuple[str, int], None] = OrderedDict()

    @property
    def attribution(self) -> Attribution:
        """Which of two clicks counts by the settings."""
        return self._attribution

    def may_clear(self) -> bool:
        """Whether an answer may take away the one click that a browser has.

        A visitor must say yes before anything is kept, or a sign-up's own answer
        could not clear it.
        """
        return self._storing.landing == "consent" or bool(self._uncleared)

    def comes_too_early(self, visit: Visit) -> bool:
        """Whether a landing is fetched ahead of its visit, to be shown unasked later.

        Nothing is stored for what may never be seen. A browser that is refused here
        asks again when the person goes there, and that is the landing.
        """
        return (
            visit.method == "GET"
            and self._storing.landing != "never"
            and cookies.landing_click(visit.target) is not None
            and any(b"prefetch" in it for it in _said(visit, b"sec-purpose"))
        )

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
        consent = self._consent(visit)
        if consent is False:
            self._look_at_refusal(visit)
            return self._refused(visit)
        return self._arrived(visit) if consent else []

    def _arrived(self, visit: Visit) -> list[bytes]:
        arrived = cookies.landing_click(visit.target)
        if arrived is None:
            return self._restored(visit)
        if not is_navigation(visit):
            return []
        self._metrics.landings.inc()
        previous = self.signed_cookie(visit)
        if previous is not None and previous.used and previous.click_id == arrived:
            # Back, history or a bookmark: a sign-up has taken this click.
            return self.without_used(visit)
        if self._attribution == "first-click" and self.click(visit).id is not None:
            return self._restored(visit)
        return self._write(
            visit,
            cookies.landed(
                previous, arrived, self._clock(), visit.target, self._attribution
            ),
        )

    def _consent(self, visit: Visit) -> bool | None:
        """Return whether the server may store something by itself now.

        None: it may not, but the page's script may have heard a yes.
        """
        terms = self._storing
        if terms.gpc and _said(visit, b"sec-gpc") == [b"1"]:
            return None
        if terms.landing == "always":
            return True
        if terms.landing == "never" or terms.consent is None:
            return None
        return terms.consent.verdict(visit.pairs)

    def _look_at_refusal(self, visit: Visit) -> None:
        """Count a landing whose visitor may have said yes, in words of another form."""
        consent = self._storing.consent
        if consent is None or cookies.landing_click(visit.target) is None:
            return
        if not is_navigation(visit) or consent.is_readable(visit.pairs):
            return
        if not self._consent_told:
            self._consent_told = True
            log.warning("consent.unreadable", cookie=consent.name)
        self._metrics.unread_consent.inc()

    def _refused(self, visit: Visit) -> list[bytes]:
        """Remove what is still kept of a visitor who says no."""
        kept = visit.clicks or visit.sealed
        return self.forgotten(visit) if kept and is_page_view(visit) else []

    def reported(
        self,
        visit: Visit,
        click_id: str,
        page: str,
        model: Attribution | None = None,
    ) -> list[bytes]:
        """Return the cookies for a click that the page's script has in its hands.

        ``page`` is the path it runs on, ``model`` what its tag says of two clicks. The
        script has mostly written its own cookie already, so a cookie is an earlier
        click only if it differs.
        """
        signed_cookie = self.signed_cookie(visit)
        known = self.click(visit).id
        if model == "first-click" and signed_cookie is not None:
            first = cookies.first_of(signed_cookie, self._clock())
            if first is not signed_cookie:
                return self._write(visit, first)
        if known is not None and "first-click" in (self._attribution, model):
            click_id = known
        if (
            signed_cookie is not None
            and signed_cookie.used
            and signed_cookie.click_id == click_id
        ):
            return self.used(visit)
        return self._write(
            visit,
            cookies.landed(
                signed_cookie,
                click_id,
                self._clock(),
                page,
                model or self._attribution,
            ),
        )

    def restored(self, visit: Visit) -> list[bytes]:
        """Return the cookies that bring a lost click back; none if none is lost.

        Where a browser holds several clicks, only the one that counts is left.
        """
        if len(set(visit.clicks)) == 1:
            return self.without_used(visit)
        click = self.click(visit)
        if click.id is None:
            return self.without_used(visit)
        if click.seen is None:
            return []
        return self._write(visit, replace(click.seen, last_seen=self._clock()))

    def forgotten(self, visit: Visit) -> list[bytes]:
        """Return the Set-Cookie values that leave nothing of a click behind."""
        domains = self._domains_of(visit)
        lines = cookies.clear_click(*domains) + cookies.clear_signed_cookie(*domains)
        return _encoded(lines)

    def click(self, visit: Visit) -> VisitorsClick:
        """Return the click that a sign-up of this visitor counts for."""
        signed_cookie = self.signed_cookie(visit)
        chosen = cookies.newest_click(visit.clicks, signed_cookie)
        if chosen is not None:
            same = signed_cookie is not None and signed_cookie.click_id == chosen
            return VisitorsClick(chosen, "cookie", signed_cookie if same else None)
        if signed_cookie is not None and not signed_cookie.used:
            return VisitorsClick(signed_cookie.click_id, "companion", signed_cookie)
        return NO_CLICK

    def signed_cookie(self, visit: Visit) -> SignedCookie | None:
        """Return the visitor's newest signed click cookie, None without a genuine one.

        It is looked for once a request.
        """
        if not visit.sealed:
            return None
        if not visit.unsealed:
            now, max_age = self._clock(), self._days * DAY_S
            newest = cookies.newest_signed(visit.sealed, self._secrets, now, max_age)
            if newest is not None and _of_browser(newest) in self._uncleared:
                newest = cookies.use(newest, now)
            visit.unsealed.append(newest)
        return visit.unsealed[0]

    def used(self, visit: Visit) -> list[bytes]:
        """Clear the click cookie in every form; nothing may restore it."""
        lines = list(cookies.clear_click(*self._domains_of(visit)))
        signed_cookie = self.signed_cookie(visit)
        if signed_cookie is not None:
            self._uncleared.pop(_of_browser(signed_cookie), None)
            used = cookies.use(signed_cookie, self._clock())
            lines.append(self._seal(visit, used))
        return _encoded(lines)

    def used_unseen(self, visit: Visit) -> None:
        """Have the visitor's next answer clear the click: this one's head is out.

        What has no signed click cookie cannot be told from another browser's.
        """
        signed_cookie = self.signed_cookie(visit)
        if signed_cookie is not None:
            self._uncleared[_of_browser(signed_cookie)] = None
            if len(self._uncleared) > MAX_UNCLEARED:
                self._uncleared.popitem(last=False)

    def without_used(self, visit: Visit) -> list[bytes]:
        """Clear a click that a sign-up has taken, where the browser still has it."""
        signed = self.signed_cookie(visit)
        if signed is not None and _of_browser(signed) in self._uncleared:
            return self.used(visit)
        if not visit.clicks or self.click(visit).id is not None:
            return []
        return _encoded(cookies.clear_click(*self._domains_of(visit)))

    def _restored(self, visit: Visit) -> list[bytes]:
        # Most visitors have no signed click cookie; nothing more is done for them.
        if not visit.sealed:
            return []
        return self.restored(visit) if is_page_view(visit) else []

    def _write(self, visit: Visit, signed_cookie: SignedCookie) -> list[bytes]:
        click = cookies.write_click(
            signed_cookie.click_id,
            domain=self._domain_of(visit),
            days=self._days,
            now=self._clock(),
        )
        lines = [*self._others(visit, signed_cookie.click_id), click]
        return _encoded([*lines, self._seal(visit, signed_cookie)])

    def _others(self, visit: Visit, click_id: str) -> Sequence[str]:
        """Clear older clicks under other Domains: they would be read in its place."""
        if set(visit.clicks) <= {click_id}:
            return ()
        own = cookies.clear_click(self._domain_of(visit))[0]
        return [
            line
            for line in cookies.clear_click(*self._domains_of(visit))
            if line != own
        ]

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
        domain = cookies.cookie_domain(visit.host, self._domain)
        # www.gov.uk: for what is left without "www." browsers refuse a cookie.
        named = self._domain is None and visit.host[:4].lower() == "www."
        return None if named and domain and is_public_suffix(domain[1:]) else domain

    def _domains_of(self, visit: Visit) -> tuple[str | None, ...]:
        return cookies.cookie_domains(visit.host, self._domain)


def _of_browser(signed_cookie: SignedCookie) -> tuple[str, int]:
    """Tell one browser's click from the same one in a colleague's."""
    return signed_cookie.click_id, signed_cookie.first_seen


def _encoded(lines: Iterable[str]) -> list[bytes]:
    return [line.encode("ascii") for line in lines]


def is_navigation(visit: Visit) -> bool:
    """Whether a person went to this address, as far as can be known.

    An image or a frame in a foreign page must not plant a click (cookie
    stuffing), and what is prefetched may never be seen. Browsers say what a request
    is for, but old ones do not, and none does on plain http; images are then known by
    what they accept.
    """
    if _is_preparing(visit):
        return False
    wanted = _said(visit, b"sec-fetch-dest")
    if wanted:
        return all(_is_shown(visit, dest) for dest in wanted)
    return accepts(visit, b"text/html") or not accepts(visit, b"image/")


def _is_shown(visit: Visit, dest: bytes) -> bool:
    """Whether a destination (Fetch, 2.2.7) is a page that a person went to."""
    if dest == b"document":
        return True
    if dest == b"empty":
        # A service worker fetched it in the navigation's place.
        return _said(visit, b"sec-fetch-mode") == [b"navigate"]
    sites = _said(visit, b"sec-fetch-site")
    own = bool(sites) and set(sites) <= {b"same-origin", b"same-site"}
    return own and dest in {b"iframe", b"frame"}


def _is_preparing(visit: Visit) -> bool:
    """Whether a browser fetches it for later: a prefetch, a prerender, a preview."""
    said = b" ".join(value for name in PREPARING for value in _said(visit, name))
    return any(word in said for word in (b"prefetch", b"prerender", b"preview"))


def _said(visit: Visit, name: bytes) -> list[bytes]:
    return [value.strip().lower() for value in every(visit.headers, name)]


def is_page_view(visit: Visit) -> bool:
    """Whether the answer will be shown as a page; stricter than a landing.

    Restoring keeps an answer out of caches, which no script or style needs.
    """
    if every(visit.headers, b"sec-fetch-dest"):
        return is_navigation(visit)
    return accepts(visit, b"text/html") and not _is_preparing(visit)


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
