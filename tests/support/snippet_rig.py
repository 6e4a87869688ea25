"""A site whose pages carry the built snippet, and the Dub behind it, all in one.

It serves every host; what browsers post is kept in ``calls``. Beside the snippet
lies ``/old/``, which behaves as Dub's own script does where tests compare.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from aiohttp import StreamReader, web
from multidict import CIMultiDictProxy
from playwright.async_api import BrowserContext, Page

from relay.capture.page_endpoints import CookieEndpoint
from relay.capture.snippet import Snippet
from relay.core.http.cookies import Attribution
from relay.http.callers import Trusted
from relay.http.responses import speaking_json
from tests.support.proxy_rig import landing
from tests.support.snippet_nothing import NOTHING, PATIENCE

AS_DUB_DOES = Path(__file__).parents[1] / "browser" / "as_dub_does.js"

ALL = "script.site-visit.outbound-domains.conversion-tracking.js"

CLICK = "hQWlM2kPzX9aBcDe"
OTHER = "anotherClick1234"
TRACKED = "trackedClick0001"
DAY = 86_400

REFER = {"data-domains": '{"refer": "go.acme.test"}'}
"""The attribute that names the short domain, for ?via= and trackClick."""

PARTNER = {
    "id": "pn_1",
    "name": "Zoë & O'Neil; Ltd=",
    "image": "https://img.test/zoë?a=1;b=2",
    "groupId": "grp_1",
    "tenantId": None,
}
DISCOUNT = {"id": "dis_1", "amount": 20, "type": "percentage", "maxDuration": None}
WITH_PARTNER = {"clickId": TRACKED, "partner": PARTNER, "discount": DISCOUNT}

STUB = """
!(function (w, da) {
  w[da] = w[da] || function () { (w[da].q = w[da].q || []).push(arguments); };
  ["trackClick", "trackLead", "trackSale"].forEach(function (m) {
    w[da][m] = function () {
      (w[da].q = w[da].q || []).push([m, ...Array.from(arguments)]);
    };
  });
})(window, "dubAnalytics");
"""

CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, OPTIONS",
    "Access-Control-Allow-Headers": "Content-Type, Authorization",
}


@dataclass(frozen=True)
class Call:
    """One request that a page's script made."""

    path: str
    body: Any
    """JSON; as bytes what is posted to the cookie endpoint."""

    headers: CIMultiDictProxy[str]


Answer = tuple[int, Any]
"""A status and JSON; a text goes out as it is."""


@dataclass
class Site:
    """Pages on every host of one port, and what they posted.

    ``answers`` holds, for a path's end (``click``, ``lead/client``), what is
    answered in turn, the last for ever; ``held`` lets calls wait.
    """

    port: int = 0
    head: str = ""
    body: str = "Welcome"
    headers: dict[str, str] = field(default_factory=dict)
    attribution: Attribution = "last-click"
    domain: str | None = None
    days: int = 90
    fixed: dict[str, str] = field(default_factory=dict)
    pages: dict[str, str] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    held: dict[str, asyncio.Event] = field(default_factory=dict)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    def url(self, path: str = "/", host: str = "www.acme.test") -> str:
        return f"http://{host}:{self.port}{path}"

    def carries(
        self,
        attributes: Mapping[str, str] | None = None,
        *,
        script: str = "/_dub/script.js",
        before: str = "",
        extra: str = "",
    ) -> None:
        """Put the tag on all pages, calls going to this site unless it says where."""
        named = {"data-api-host": "/api", **(attributes or {})}
        quoted = " ".join(
            f'{name}="{html.escape(value)}"' for name, value in named.items()
        )
        stub = f"<script>{before}</script>" if before else ""
        self.head = f'{stub}<script src="{script}" {quoted} {extra}></script>'

    def posted(self, end: str) -> list[Any]:
        """The bodies of all calls to a path that ends so."""
        return [call.body for call in self.calls if call.path.endswith(f"/{end}")]

    async def called(self, end: str, count: int = 1) -> list[Any]:
        """Wait for so many calls; give their bodies."""
        async with asyncio.timeout(PATIENCE.seconds), self.news:
            await self.news.wait_for(lambda: len(self.posted(end)) >= count)
        return self.posted(end)

    # What is served

    async def page(self, request: web.Request) -> web.Response:
        body = self.pages.get(request.path, self.body)
        text = (
            f"<!doctype html><html><head>{self.head}</head><body>{body}</body></html>"
        )
        return web.Response(text=text, content_type="text/html", headers=self.headers)

    async def old_script(self, _: web.Request) -> web.Response:
        text = AS_DUB_DOES.read_text(encoding="utf-8")
        return web.Response(text=text, content_type="text/javascript")

    async def script(self, request: web.Request) -> web.StreamResponse:
        if NOTHING:
            PATIENCE.ends()
            return web.Response(content_type="text/javascript")
        fixed = tuple(self.fixed.items())
        chosen = snippet(self.attribution, self.domain, self.days, fixed)
        return await chosen.handle(request)

    async def track(self, request: web.Request) -> web.Response:
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=CORS)
        path = request.path.rpartition("/track/")[2]
        body = json.loads(await request.text())
        async with self.news:
            self.calls.append(Call(request.path, body, request.headers))
            self.news.notify_all()
        if path in self.held:
            await self.held[path].wait()
        status, answer = self._next(path)
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return web.Response(
            status=status, text=text, content_type="application/json", headers=CORS
        )

    def _next(self, path: str) -> Answer:
        waiting = self.answers.get(path) or [(200, {"clickId": TRACKED})]
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    async def cookie(self, request: web.Request) -> web.StreamResponse:
        body = await request._payload.read()
        self.calls.append(Call(request.path, body, request.headers))
        # The endpoint reads for itself, and what it reads has been read.
        again = StreamReader(request.protocol, 2**16)
        again.feed_data(body)
        again.feed_eof()
        request._payload = again
        kept = landing(self.attribution, self.domain, round(time.time() * 1000))
        return await speaking_json(CookieEndpoint(kept, Trusted()).keep)(request)


@lru_cache
def snippet(
    attribution: Attribution,
    domain: str | None,
    days: int,
    fixed: tuple[tuple[str, str], ...] = (),
) -> Snippet:
    return Snippet(
        cookie_domain=domain,
        cookie_days=days,
        attribution=attribution,
        fixed=dict(fixed),
    )


@contextlib.asynccontextmanager
async def running(
    more: Callable[[web.Application], object] | None = None,
) -> AsyncIterator[Site]:
    """Run a site on a free port."""
    site = Site()
    app = web.Application()
    if more is not None:
        more(app)
    app.router.add_get("/old/script.js", site.old_script)
    for mount in ("/_dub", "/_proxy/dub", "/deep/er"):
        app.router.add_get(f"{mount}/{{name}}", site.script)
        app.router.add_post(f"{mount}/cookie", site.cookie)
    app.router.add_route("*", "/{mount:.*}track/{end:.*}", site.track)
    app.router.add_get("/{path:.*}", site.page)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    site.port = runner.addresses[0][1]
    site.carries()
    yield site
    for event in site.held.values():
        event.set()
    await runner.cleanup()


async def kept(context: BrowserContext, url: str | None = None) -> list[Any]:
    """All cookies, or those of an address; Firefox lists those that have ended, too."""
    held = await context.cookies(url)
    return [it for it in held if it["expires"] == -1 or it["expires"] > time.time()]


async def cookies_of(context: BrowserContext, name: str = "dub_id") -> list[Any]:
    """All cookies of a name, whatever their Domain."""
    return [each for each in await kept(context) if each["name"] == name]


async def click_of(page: Page) -> str | None:
    """The click that the page's own scripts and its server would read."""
    held = await kept(page.context, page.url)
    return next((each["value"] for each in held if each["name"] == "dub_id"), None)


async def clicked(page: Page, click: str | None) -> None:
    """Wait until the page's click is this one."""
    held: str | None = "?"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE.seconds):
            while (held := await click_of(page)) != click:
                await page.wait_for_timeout(10)
    assert held == click


async def back(page: Page, url: str) -> None:
    """Go back to an address: a page that Firefox has kept is not loaded again."""
    await page.evaluate("history.back()")
    await page.wait_for_function("url => location.href == url", arg=url)


async def settled(page: Page) -> None:
    """Wait until the landing is dealt with."""
    await given(page, "new Promise(done => dubAnalytics('ready', done))")


async def given(page: Page, expression: str) -> Any:
    """What an expression's promise gives: by itself it would be waited for for ever."""
    async with asyncio.timeout(PATIENCE.seconds):
        return await page.evaluate(expression)


async def a_while(page: Page, milliseconds: int = 700) -> None:
    """Let the page's timers run for so long, at once; needs ``page.clock.install()``.

    What they send is here when this returns: a call of its own comes after them.
    """
    await page.clock.run_for(milliseconds)
    await page.evaluate("fetch('/', {method: 'HEAD'}).catch(() => {})")


def watched(page: Page) -> list[str]:
    """What goes wrong on the page, from now on."""
    errors: list[str] = []

    def note(error: object) -> None:
        # Firefox says as an error of the page's which cookie it refuses, and why.
        if not str(error).startswith("Cookie “"):
            errors.append(str(error))

    page.on("pageerror", note)
    return errors
