"""What browsers call: short links, and the API's keyless click, visit and open.

Who counts as a visitor is Dub's rule, the surprising parts too: a bot, a HEAD
request and a visitor who asked not to be tracked get a click id that was never
recorded. The API's keyless endpoints hold to the workspace's allowed hostnames.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

from aiohttp import web

from relay.core.dub import errors
from relay.sandbox.api import Api
from relay.sandbox.dub import Dub
from relay.sandbox.faults import Conditions
from relay.sandbox.model import Click, Link, RefusalError
from relay.sandbox.serving import incoming
from relay.sandbox.wire import Incoming, Reply, refused, with_cors

_BOT: Final = re.compile(
    r"bot|http|curl|python|node|fetch|headlesschrome|google|wget|spider|crawl",
    re.IGNORECASE,
)
"""A part of Dub's list; a headless browser and an HTTP library are bots to it."""

_NO_TRACK: Final = "dub-no-track"

_NOT_FORWARDED: Final = frozenset({"redir_url", _NO_TRACK})
"""The short link's own parameters; every other one goes to the destination."""

_FLAGS: Final = frozenset({"qr", "skip_deeplink_preview"})
"""Parameters that are the short link's own if they are 1."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """A request for a short link, as far as the click depends on it.

    ``in_app``: a deep link opened an app, which no bot does.
    """

    address: str
    agent: str
    method: str
    query: tuple[tuple[str, str], ...] = ()
    no_track: bool = False
    fresh: bool = False
    count_bots: bool = False
    in_app: bool = False
    referrer: str = ""

    @property
    def counted(self) -> bool:
        """Whether the click is recorded; if not, its id is a phantom."""
        names = {name for name, _ in self.query}
        if self.method == "HEAD" or self.no_track or _NO_TRACK in names:
            return False
        bot = "bot" in names or bool(_BOT.search(self.agent))
        return self.count_bots or self.in_app or not bot

    @property
    def identity(self) -> str | None:
        """Address and browser; None where every click shall be a new one."""
        if self.fresh:
            return None
        return hashlib.sha256(f"{self.address}-{self.agent}".encode()).hexdigest()


def visit(dub: Dub, link: Link, visitor: Visitor) -> str:
    """Count a visit to a link; return the click id of the redirect."""
    if not visitor.counted:
        return dub.phantom()
    return dub.click(link, visitor.identity, referrer=visitor.referrer).id


def final_url(link: Link, click_id: str, query: Iterable[tuple[str, str]]) -> str:
    """Return the address that the short link redirects to.

    The visitor's own parameters go along and win, ``dub_id`` included.
    """
    parts = urlsplit(link.url)
    own = dict(query)
    parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
    if link.hands_on:
        _hand_on(link, click_id, parameters, tracked=_NO_TRACK not in own)
    parameters |= {k: v for k, v in own.items() if k not in _NOT_FORWARDED}
    shown = {k: v for k, v in parameters.items() if k not in _FLAGS or v != "1"}
    return urlunsplit(parts._replace(query=urlencode(shown)))


def _hand_on(
    link: Link, click_id: str, parameters: dict[str, str], *, tracked: bool
) -> None:
    if parameters.get("dub_client_reference_id") == "1":
        # Stripe's payment links take no other parameter through.
        del parameters["dub_client_reference_id"]
        parameters["client_reference_id"] = f"dub_id_{click_id}"
    elif tracked:
        parameters["dub_id"] = click_id
    if link.partner:
        parameters["via"] = link.key


OPEN_MS: Final = 3600 * 1000
"""How long an app that was just installed finds the click by its address."""


class BrowserApi:
    """The keyless endpoints; they count clicks on the same Dub as the links."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._dub = api.dub
        self._by_address: dict[str, Click] = {}

    def visitor(self, call: Incoming) -> Visitor:
        """Read from a request who visits."""
        return Visitor(
            address=call.address,
            agent=call.headers.get("User-Agent", ""),
            method=call.method,
            query=tuple(call.query.items()),
            no_track=_NO_TRACK in call.headers,
            fresh=self._api.options.fresh,
            count_bots=self._api.options.count_bots,
            referrer=call.headers.get("Referer", ""),
        )

    def visit(self, link: Link, visitor: Visitor) -> str:
        """Count a visit and remember it for an app that opens within the hour."""
        click_id = visit(self._dub, link, visitor)
        click = self._dub.clicks.get(click_id)
        if click is not None:
            self._by_address[visitor.address] = click
        return click_id

    def track_click(self, call: Incoming, _: Conditions) -> Reply:
        """``POST /track/click``: a visit to a link by its name (``?via=``)."""
        return _open_to_all(self._click, call)

    def track_visit(self, call: Incoming, _: Conditions) -> Reply:
        """``POST /track/visit``: a page of the site that a link has the path of."""
        return _open_to_all(self._visit, call)

    def track_open(self, call: Incoming, _: Conditions) -> Reply:
        """``POST /track/open``: an app was opened, perhaps by a deep link."""
        return _open_to_all(self._open, call)

    def _click(self, call: Incoming) -> Any:
        link = self._link(_required(call, "domain"), _required(call, "key"), call)
        self._api.require_hostname(call)
        visitor = replace(self.visitor(call), referrer=_text(call, "referrer") or "")
        answer: dict[str, Any] = {"clickId": self.visit(link, visitor)}
        if link.partner:
            answer["partner"] = _partner(link)
            answer["discount"] = None
        return answer

    def _is_ours(self, domain: str, call: Incoming) -> bool:
        """Return whether a domain, or an address on it, is this sandbox's."""
        host = _parts(domain if "//" in domain else f"//{domain}").netloc
        return host in (self._dub.domain, call.headers.get("Host"))

    def _visit(self, call: Incoming) -> Any:
        domain, url = _text(call, "domain"), _text(call, "url")
        if not domain or not url:
            raise RefusalError(errors.BAD_REQUEST, "Missing domain or url")
        link = self._link(domain, _parts(url).path.removeprefix("/") or "_root", call)
        try:
            self._api.require_hostname(call)
        except RefusalError:
            # Dub answers before it looks: the id is never recorded.
            return {"clickId": self._dub.phantom()}
        return {"clickId": self.visit(link, self.visitor(call))}

    def _link(self, domain: str, key: str, call: Incoming) -> Link:
        link = self._dub.link_at(key) if self._is_ours(domain, call) else None
        if link is None or link.gone:
            message = f"Link not found for domain: {domain} and key: {key}."
            raise RefusalError("not_found", message)
        return link

    def _open(self, call: Incoming) -> Any:
        deep_link, domain = _text(call, "deepLink"), _text(call, "dubDomain")
        if not deep_link and not domain:
            text = (
                "custom: : You need to provide either `deepLink` or `dubDomain` for"
                " deferred deep linking."
            )
            raise RefusalError(errors.UNPROCESSABLE, text)
        if not deep_link:
            return self._recent(domain or "", call)
        link = self._dub.link_at(_parts(deep_link).path.lstrip("/"))
        if link is None or link.gone:
            raise RefusalError("not_found", f"Deep link not found: {deep_link}")
        visitor = replace(self.visitor(call), in_app=True)
        return self._opened(
            link, self.visit(link, visitor) if visitor.counted else None
        )

    def _recent(self, domain: str, call: Incoming) -> Any:
        click = self._by_address.get(call.address)
        known = click is not None and click.id in self._dub.clicks
        ours = self._is_ours(domain, call)
        if click is None or not known or not ours or call.now - click.at >= OPEN_MS:
            return {"clickId": None, "link": None}
        return self._opened(self._dub.links[click.link_key], click.id)

    def _opened(self, link: Link, click_id: str | None) -> Any:
        domain = self._dub.domain
        shown = {"id": link.id, "domain": domain, "key": link.key, "url": link.url}
        return {"clickId": click_id, "link": shown}


def _parts(address: str) -> SplitResult:
    """Split an address; one that is none has no parts."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _open_to_all(work: Any, call: Incoming) -> Reply:
    try:
        reply = Reply(200, work(call))
    except RefusalError as refusal:
        reply = refused(refusal)
    return with_cors(reply)


def _text(call: Incoming, name: str) -> str | None:
    value = call.parsed.get(name) if isinstance(call.parsed, dict) else None
    return value if isinstance(value, str) else None


def _required(call: Incoming, name: str) -> str:
    value = _text(call, name)
    if not value:
        text = f"invalid_type: {name}: Invalid input: expected string"
        raise RefusalError(errors.UNPROCESSABLE, text)
    return value


def _partner(link: Link) -> dict[str, Any]:
    return {
        "id": link.partner_id,
        "name": link.partner,
        "image": None,
        "groupId": None,
        "tenantId": None,
    }


COOKIE_S: Final = 3600
"""The short domain remembers a visitor's click on a link for an hour."""


class ShortLinks:
    """Answers every path that is nothing else's."""

    def __init__(self, dub: Dub, browser: BrowserApi) -> None:
        self._dub = dub
        self._browser = browser

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Redirect to the link's destination, or say that there is no link."""
        link = self._dub.link_at(request.match_info["path"])
        if link is None or link.gone or link.disabled:
            return web.Response(status=404, text="There is no such short link here.\n")
        visitor = self._browser.visitor(await incoming(request, self._dub.clock()))
        cookie = f"dub_id_{self._dub.domain}_{link.key}"
        click_id = self._click_id(link, visitor, request.cookies.get(cookie))
        response = web.Response(
            status=302,
            headers={
                "Location": final_url(link, click_id, visitor.query),
                "Cache-Control": "no-store",
                "X-Robots-Tag": "noindex",
            },
        )
        response.set_cookie(cookie, click_id, max_age=COOKIE_S, path=request.path)
        return response

    def _click_id(self, link: Link, visitor: Visitor, known: str | None) -> str:
        """Return the earlier click that the link's own cookie names, or a new one."""
        click = self._dub.clicks.get(known or "")
        same = click is not None and click.link_key == link.key
        if click is not None and same and visitor.counted and not visitor.fresh:
            return click.id
        return self._browser.visit(link, visitor)
