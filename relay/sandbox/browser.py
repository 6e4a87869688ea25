"""The API's endpoints that any page may call: click, visit and open.

They take no key, but hold to the workspace's allowed hostnames. A bot gets a
click id from them as from a short link: one that was never recorded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from relay.core.dub import errors
from relay.sandbox.api import Api
from relay.sandbox.faults import Conditions
from relay.sandbox.model import Click, Link, RefusalError
from relay.sandbox.shortlinks import Visitor, visit
from relay.sandbox.wire import Incoming, Reply, refused, with_cors

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
            no_track="dub-no-track" in call.headers,
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
        """``POST /track/visit``: a page of the site itself was seen."""
        return _open_to_all(self._visit, call)

    def track_open(self, call: Incoming, _: Conditions) -> Reply:
        """``POST /track/open``: an app was opened, perhaps by a deep link."""
        return _open_to_all(self._open, call)

    def _click(self, call: Incoming) -> Any:
        domain, key = _required(call, "domain"), _required(call, "key")
        link = self._dub.link_at(key) if self._is_ours(domain, call) else None
        if link is None or link.gone:
            message = f"Link not found for domain: {domain} and key: {key}."
            raise RefusalError("not_found", message)
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
        try:
            self._api.require_hostname(call)
        except RefusalError:
            # Dub answers before it looks: the id is never recorded.
            return {"clickId": self._dub.phantom()}
        return {"clickId": self.visit(self._site_link(url), self.visitor(call))}

    def _site_link(self, url: str) -> Link:
        """Return the link that stands for a page of the site."""
        key = f"visit:{_parts(url).path or '/'}"
        link = Link(id=f"link_{key}", key=key, path=key, url=url)
        return self._dub.links.setdefault(key, link)

    def _open(self, call: Incoming) -> Any:
        deep_link, domain = _text(call, "deepLink"), _text(call, "dubDomain")
        if not deep_link and not domain:
            text = "custom: : Either deepLink or dubDomain must be provided."
            raise RefusalError(errors.UNPROCESSABLE, text)
        if not deep_link:
            return self._recent(call)
        link = self._dub.link_at(_parts(deep_link).path.lstrip("/"))
        if link is None or link.gone:
            raise RefusalError("not_found", f"Deep link not found: {deep_link}")
        return self._opened(link, self.visit(link, self.visitor(call)))

    def _recent(self, call: Incoming) -> Any:
        click = self._by_address.get(call.address)
        known = click is not None and click.id in self._dub.clicks
        if click is None or not known or call.now - click.at >= OPEN_MS:
            return {"clickId": None, "link": None}
        return self._opened(self._dub.links[click.link_key], click.id)

    def _opened(self, link: Link, click_id: str) -> Any:
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
