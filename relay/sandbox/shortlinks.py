"""Short links: who counts as a visitor, which click id, where it leads.

The rules are Dub's, the surprising ones too: a bot, a HEAD request and a
visitor who asked not to be tracked get a click id that was never recorded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from relay.sandbox.dub import Dub
from relay.sandbox.model import Link

_BOT: Final = re.compile(
    r"bot|http|curl|python|node|fetch|headlesschrome|google|wget|spider|crawl",
    re.IGNORECASE,
)
"""A part of Dub's list; a headless browser and an HTTP library are bots to it."""

_NOT_FORWARDED: Final = frozenset({"redir_url", "qr"})
"""The short link's own parameters; every other one goes to the destination."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """A request for a short link, as far as the click depends on it."""

    address: str
    agent: str
    method: str
    query: tuple[tuple[str, str], ...] = ()
    no_track: bool = False
    fresh: bool = False
    count_bots: bool = False
    referrer: str = ""

    @property
    def counted(self) -> bool:
        """Whether the click is recorded; if not, its id is a phantom."""
        names = {name for name, _ in self.query}
        if self.method == "HEAD" or self.no_track or "dub-no-track" in names:
            return False
        bot = "bot" in names or bool(_BOT.search(self.agent))
        return self.count_bots or not bot

    @property
    def identity(self) -> str | None:
        """Address and browser; None where every click shall be a new one."""
        if self.fresh:
            return None
        return hashlib.sha256(f"{self.address}-{self.agent}".encode()).hexdigest()


def visit(dub: Dub, link: Link, visitor: Visitor) -> str:
    """Count a visit to a link and give the click id to hand on."""
    if not visitor.counted:
        return dub.phantom()
    return dub.click(link, visitor.identity, referrer=visitor.referrer).id


def final_url(link: Link, click_id: str, query: Iterable[tuple[str, str]]) -> str:
    """Return the address that the short link redirects to.

    The visitor's own parameters go along and win, ``dub_id`` included.
    """
    parts = urlsplit(link.url)
    parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
    if link.hands_on:
        parameters.update(_handed_on(link, click_id, parameters))
    own = {name: value for name, value in query if name not in _NOT_FORWARDED}
    parameters.update(own)
    return urlunsplit(parts._replace(query=urlencode(parameters)))


def _handed_on(
    link: Link, click_id: str, parameters: Mapping[str, str]
) -> dict[str, str]:
    if parameters.get("dub_client_reference_id") == "1":
        # Stripe's payment links take no other parameter through.
        return {"client_reference_id": f"dub_id_{click_id}"}
    via = {"via": link.key} if link.partner else {}
    return {"dub_id": click_id, **via}
