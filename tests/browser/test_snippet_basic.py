"""The click cookie in a real browser: by the script, and without JavaScript."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser, BrowserContext, Page
from proxy_rig import proxied

from relay.capture.script import Snippet

pytestmark = pytest.mark.browser

CLICK = "hQWlM2kPzX9aBcDe"
OTHER = "anotherClick1234"
DAY = 86_400

STUB = """
!(function (c, n) {
  c[n] = c[n] || function () { (c[n].q = c[n].q || []).push(arguments); };
  ["trackClick", "trackLead", "trackSale"].forEach(
    (t) => (c[n][t] = (...a) => c[n](t, ...a)));
})(window, "dubAnalytics");
"""


@dataclass
class Shop:
    """A site whose pages carry the script tag with ``attributes``."""

    port: int
    attributes: str = ""
    before: str = ""

    def url(self, path: str = "/", host: str = "www.acme.test") -> str:
        return f"http://{host}:{self.port}{path}"


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async def page(_: web.Request) -> web.Response:
        html = (
            f"<!doctype html><title>Shop</title><script>{served.before}</script>"
            f"<script src=/_dub/script.js {served.attributes}></script>Welcome"
        )
        return web.Response(text=html, content_type="text/html")

    app = web.Application()
    app.router.add_get("/_dub/{name}", Snippet().handle)
    app.router.add_get("/{path:.*}", page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    served = Shop(runner.addresses[0][1])
    yield served
    await runner.cleanup()


async def click_cookies(context: BrowserContext) -> list[dict[str, Any]]:
    return [dict(each) for each in await context.cookies() if each["name"] == "dub_id"]


async def click_cookie(context: BrowserContext) -> dict[str, Any]:
    (cookie,) = await click_cookies(context)
    return cookie


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("www.acme.test", ".acme.test"),
        ("app.acme.test", ".app.acme.test"),
        ("localhost", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
async def test_the_script_writes_the_cookie_as_dubs_does(
    shop: Shop, context: BrowserContext, page: Page, host: str, domain: str
) -> None:
    await page.goto(shop.url(f"/pricing?a=1&dub_id={CLICK}", host))

    cookie = await click_cookie(context)
    assert (cookie["value"], cookie["domain"], cookie["path"]) == (CLICK, domain, "/")
    assert (cookie["sameSite"], cookie["secure"]) == ("Lax", False)
    assert cookie["httpOnly"] is False
    assert abs(cookie["expires"] - time.time() - 90 * DAY) < 300
    assert await page.evaluate("document.cookie") == f"dub_id={CLICK}"


@pytest.mark.parametrize(
    "query",
    [
        "dub_id=test",
        "dub_id=",
        "dub_id=x;max-age=0",
        "dub_id=abcdefgh%3B%20max-age%3D60",
        "dub_id=abcdefgh%3B%20domain%3Dtest",
        "dub_id=h%C3%A9llo12345",
        "other=1",
    ],
)
async def test_the_script_writes_nothing_for_what_is_no_click(
    shop: Shop, context: BrowserContext, page: Page, query: str
) -> None:
    await page.goto(shop.url(f"/?dub_id={CLICK}"))
    await page.goto(shop.url(f"/?{query}"))

    cookie = await click_cookie(context)
    assert cookie["value"] == CLICK
    assert abs(cookie["expires"] - time.time() - 90 * DAY) < 300


@pytest.mark.parametrize(
    ("attributes", "kept"),
    [
        ("", OTHER),
        ("data-attribution-model=last-click", OTHER),
        ("data-attribution-model=first-click", CLICK),
    ],
)
async def test_the_attribution_model_decides_between_two_clicks(
    shop: Shop, context: BrowserContext, page: Page, attributes: str, kept: str
) -> None:
    shop.attributes = attributes
    await page.goto(shop.url(f"/?dub_id={CLICK}"))
    await page.goto(shop.url(f"/?dub_id={OTHER}"))

    assert (await click_cookie(context))["value"] == kept


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ('{"expiresInDays": 30}', {"days": 30}),
        ("{'expiresInDays': 30}", {"days": 30}),
        ('{"expires": "nonsense"}', {"days": 90}),
        ('{"domain": ".app.acme.test"}', {"domain": ".app.acme.test"}),
        ('{"domain": ""}', {"domain": "www.app.acme.test"}),
        ('{"path": "/shop"}', {"path": "/shop"}),
        ('{"sameSite": "Strict"}', {"sameSite": "Strict"}),
        ('{"httpOnly": true}', {"httpOnly": False}),
        ("{broken", {"days": 90}),
    ],
)
async def test_cookie_options_are_followed_and_never_end_the_script(
    shop: Shop,
    context: BrowserContext,
    page: Page,
    options: str,
    expected: dict[str, Any],
) -> None:
    quoted = options.replace('"', "&quot;")
    shop.attributes = f'data-cookie-options="{quoted}"'
    url = shop.url(f"/shop/?dub_id={CLICK}", "www.app.acme.test")

    await page.goto(url)

    cookie = await click_cookie(context)
    days = expected.pop("days", None)
    assert {name: cookie[name] for name in expected} == expected
    if days is not None:
        assert abs(cookie["expires"] - time.time() - days * DAY) < 300


async def test_calls_made_before_the_script_came_are_kept_and_ready_is_answered(
    shop: Shop, page: Page
) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    shop.before = STUB + (
        "window.seen = [];"
        "dubAnalytics('ready', () => { throw Error('a page mistake'); });"
        "dubAnalytics('ready', () => seen.push('queued'));"
        "dubAnalytics.trackClick({key: 'x'});"
    )
    await page.goto(shop.url())

    await page.evaluate("dubAnalytics('ready', () => seen.push('live'))")
    await page.evaluate("dubAnalytics.trackLead({})")

    assert await page.evaluate("seen") == ["queued", "live"]
    assert errors == ["a page mistake"]
    waiting = "_dubAnalytics.qm.handle('trackClick', (call) => seen.push(call.key))"
    await page.evaluate(waiting)
    assert await page.evaluate("seen") == ["queued", "live", "x"]


async def test_the_globals_are_there_without_a_stub(shop: Shop, page: Page) -> None:
    await page.goto(shop.url())

    assert await page.evaluate("_dubAnalytics.i") == "dub_id"
    assert await page.evaluate("_dubAnalytics.h") == "www.acme.test"
    assert await page.evaluate("DubAnalytics") == {"partner": None, "discount": None}
    assert await page.evaluate("typeof dubAnalytics") == "function"


async def test_the_script_leaks_nothing_else_into_the_page(
    shop: Shop, page: Page
) -> None:
    names = "Object.getOwnPropertyNames(window)"
    await page.goto("about:blank")
    before = set(await page.evaluate(names))
    await page.goto(shop.url())
    after = set(await page.evaluate(names))

    assert after - before == {"dubAnalytics", "DubAnalytics", "_dubAnalytics"}


async def test_a_landing_through_the_proxy_needs_no_javascript(
    shop: Shop, browser: Browser
) -> None:
    context = await browser.new_context(java_script_enabled=False)
    async with proxied(f"http://127.0.0.1:{shop.port}", now=round_now()) as port:
        page = await context.new_page()
        await page.goto(f"http://www.acme.test:{port}/?dub_id={CLICK}")
        cookie = await click_cookie(context)
        names = {each["name"]: each for each in await context.cookies()}
    await context.close()

    assert (cookie["value"], cookie["domain"]) == (CLICK, ".acme.test")
    assert (cookie["httpOnly"], cookie["sameSite"]) == (False, "Lax")
    assert names["dub_relay"]["httpOnly"] is True


async def test_script_and_server_write_one_and_the_same_cookie(
    shop: Shop, context: BrowserContext, page: Page
) -> None:
    async with proxied(f"http://127.0.0.1:{shop.port}", now=round_now()) as port:
        for host in ("www.acme.test", "app.acme.test", "localhost", "127.0.0.1"):
            await context.clear_cookies()
            await page.goto(f"http://{host}:{port}/?dub_id={CLICK}")
            # Two would mean that one was host-only and the other was not.
            assert len(await click_cookies(context)) == 1


async def test_an_image_plants_no_click(
    shop: Shop, context: BrowserContext, page: Page
) -> None:
    """On a foreign site SameSite=Lax forbids it too; in the site's own forum not."""
    async with proxied(f"http://127.0.0.1:{shop.port}", now=round_now()) as port:
        await page.goto(shop.url("/", "forum.acme.test"))
        picture = f"http://www.acme.test:{port}/?dub_id={CLICK}"
        await page.evaluate(
            "src => new Promise(done => {"
            " const image = new Image();"
            " image.onload = image.onerror = done; image.src = src; })",
            picture,
        )
        assert await click_cookies(context) == []
        await page.goto(picture)
        assert len(await click_cookies(context)) == 1


def round_now() -> int:
    """The browser's own time: cookies that ended in the past would not be kept."""
    return round(time.time() * 1000)
