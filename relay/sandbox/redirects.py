"""Serves the short links: the redirect, its click id, and the link's cookie."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from relay.sandbox.browser import BrowserApi
from relay.sandbox.dub import Dub
from relay.sandbox.model import Link
from relay.sandbox.serving import incoming
from relay.sandbox.shortlinks import Visitor, final_url

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
