"""Pages that a browser has kept, prepares, or asks its own worker for."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Page, async_playwright

from tests.support.browsers import ARGUMENTS, chromium, found
from tests.support.engines import ENGINE
from tests.support.proxy_rig import proxied
from tests.support.snippet_rig import (
    ALL,
    CLICK,
    OTHER,
    Site,
    back,
    clicked,
    cookies_of,
    running,
    settled,
)

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

PERSISTED = """<script>
addEventListener('pageshow', event => { self.persisted = event.persisted; });
</script>"""
"""Notes whether the page was kept as it was."""

SEND_TO_LISTED = {
    "data-domains": '{"outbound": "other.test"}',
    "data-publishable-key": "dub_pk_x",
}


if ENGINE == "chromium":

    @pytest_asyncio.fixture(name="returning", loop_scope="session")
    async def with_its_cache() -> AsyncIterator[Page]:
        """Playwright turns it off, unless it is told not to."""
        off = ["--disable-back-forward-cache"]
        async with (
            async_playwright() as playwright,
            chromium(playwright, without=off) as browser,
        ):
            yield await browser.new_page()

else:

    @pytest.fixture(name="returning")
    def with_another(visitor: Page) -> Page:
        return visitor


async def test_a_page_gone_back_to_has_the_click_of_now(
    site: Site, returning: Page
) -> None:
    site.carries(SEND_TO_LISTED, script=f"/_dub/{ALL}")
    site.body = f"<a id='it' href='http://other.test/'>It</a>{PERSISTED}"
    await returning.goto(site.url(f"/?dub_id={OTHER}"))
    await settled(returning)
    await returning.goto(site.url(f"/later?dub_id={CLICK}"))
    await settled(returning)
    await back(returning, site.url(f"/?dub_id={OTHER}"))

    assert await returning.evaluate("self.persisted")
    await returning.evaluate("dubAnalytics.trackLead({eventName: 'x'})")
    assert site.posted("lead/client")[0]["clickId"] == CLICK
    assert (await returning.evaluate("it.href")) == f"http://other.test/?dub_id={CLICK}"


RULES = """<script type="speculationrules">
{"prerender": [{"urls": ["/?dub_id=%(click)s"], "eagerness": "immediate"}]}
</script>
<a id="it" href="/?dub_id=%(click)s">It</a>
<script>
fetch('/api/track/go', {method: 'POST', body: '{}'}).then(() => it.click());
</script>"""
"""Has a page prepared, and goes there once the site answers."""

TELLS = """<script>
const tell = () => fetch('/api/track/told', {method: 'POST', body: JSON.stringify({
  prepared: document.prerendering,
  shown: performance.getEntriesByType('navigation')[0].activationStart > 0,
  cookies: document.cookie,
})});
tell();
dubAnalytics('ready', tell);
</script>"""


@contextlib.asynccontextmanager
async def undriven(url: str) -> AsyncIterator[None]:
    """Have a page open in Chromium: one that is driven prepares none."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            *(found("chromium"), *ARGUMENTS, "--headless"),
            *(f"--user-data-dir={folder}", url),
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            process.terminate()
            await process.wait()


@pytest.mark.skipif(ENGINE != "chromium", reason="Chromium alone has it")
async def test_a_page_that_is_prepared_keeps_its_click_once_it_is_shown(
    site: Site,
) -> None:
    site.held["go"] = asyncio.Event()
    site.pages["/start"], site.body = RULES % {"click": CLICK}, TELLS
    async with undriven(site.url("/start")):
        (prepared,) = await site.called("told")
        assert prepared == {"prepared": True, "shown": False, "cookies": ""}
        site.held["go"].set()
        *_, shown = await site.called("told", 2)
    assert shown == {"prepared": False, "shown": True, "cookies": f"dub_id={CLICK}"}


ASKS = "self.onfetch = event => event.respondWith(fetch(event.request));"
REMEMBERS = """
self.onfetch = event => {
  if (event.request.mode == 'navigate') event.respondWith(caches.match('/'));
};
self.oninstall = event => event.waitUntil(
  caches.open('v1').then(kept => kept.add('/')));
"""
CLAIMS = "self.onactivate = event => event.waitUntil(clients.claim());"
AT_WORK = """
navigator.serviceWorker.register('/worker.js')
  .then(() => navigator.serviceWorker.ready).then(() => 'at work')
"""


@pytest_asyncio.fixture(
    params=[ASKS, REMEMBERS], ids=["asks", "remembers"], loop_scope="session"
)
async def shop(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """A site with a service worker."""

    async def worker(_: web.Request) -> web.Response:
        return web.Response(text=request.param + CLAIMS, content_type="text/javascript")

    async with running(lambda app: app.router.add_get("/worker.js", worker)) as site:
        yield site


async def test_a_service_worker_between_page_and_server_costs_no_click(
    shop: Site, visitor: Page
) -> None:
    """One that has the page by itself leaves the script to tell the server."""
    # On plain http only this host may have one.
    await visitor.goto(shop.url("/", "localhost"))
    assert await visitor.evaluate(AT_WORK) == "at work"
    await visitor.goto(shop.url(f"/?dub_id={CLICK}", "localhost"))
    await settled(visitor)
    assert await visitor.evaluate("!!navigator.serviceWorker.controller")
    await clicked(visitor, CLICK)
    assert len(await cookies_of(visitor.context, "dub_relay")) == 1


async def test_where_data_is_to_be_saved_the_click_is_kept_all_the_same(
    site: Site, visitor: Page
) -> None:
    await visitor.set_extra_http_headers({"Save-Data": "on"})
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await settled(visitor)
    assert site.calls[0].headers["Save-Data"] == "on"
    await clicked(visitor, CLICK)
    assert len(await cookies_of(visitor.context, "dub_relay")) == 1


PREFETCHES = """<script type="speculationrules">
{"prefetch": [{"urls": ["/?dub_id=%(click)s"], "eagerness": "immediate"}]}
</script>
<a id="it" href="/?dub_id=%(click)s">It</a>"""


@pytest.mark.skipif(ENGINE != "chromium", reason="Chromium alone has it")
async def test_in_front_of_the_site_what_is_fetched_ahead_costs_no_click(
    site: Site, visitor: Page
) -> None:
    """A prefetched landing stores nothing, so the visit must ask again."""
    prefetched = asyncio.Event()

    @web.middleware
    async def noting(request: web.Request, handler: Any) -> Any:
        answer = await handler(request)
        if "Sec-Purpose" in request.headers:
            prefetched.set()
        return answer

    site.head, site.pages["/start"] = "", PREFETCHES % {"click": CLICK}
    upstream, now = f"http://127.0.0.1:{site.port}", round(time.time() * 1000)
    async with proxied(upstream, now=now, middlewares=[noting], fast=False) as port:
        await visitor.goto(f"http://localhost:{port}/start")
        await asyncio.wait_for(prefetched.wait(), 5)
        assert await cookies_of(visitor.context) == []
        await visitor.click("#it")
        await visitor.wait_for_url(f"**/?dub_id={CLICK}")
        await clicked(visitor, CLICK)
