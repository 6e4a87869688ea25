"""Script and server write one and the same cookie, and the server needs no script."""

from __future__ import annotations

import time

import pytest
from playwright.async_api import Browser, Page

from tests.support.proxy_rig import proxied
from tests.support.snippet_rig import CLICK, Site, cookies_of, settled

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


def now() -> int:
    """The browser's own time: cookies that ended in the past would not be kept."""
    return round(time.time() * 1000)


async def test_a_landing_through_the_proxy_needs_no_javascript(
    site: Site, shared_browser: Browser
) -> None:
    context = await shared_browser.new_context(java_script_enabled=False)
    async with proxied(f"http://127.0.0.1:{site.port}", now=now()) as port:
        page = await context.new_page()
        await page.goto(f"http://www.acme.test:{port}/?dub_id={CLICK}")
        (click,) = await cookies_of(context)
        (signed_cookie,) = await cookies_of(context, "dub_relay")
    await context.close()

    assert (click["value"], click["domain"]) == (CLICK, ".acme.test")
    assert (click["httpOnly"], click["sameSite"]) == (False, "Lax")
    assert signed_cookie["httpOnly"] is True


async def test_script_and_server_write_one_and_the_same_cookie(
    site: Site, visitor: Page
) -> None:
    async with proxied(f"http://127.0.0.1:{site.port}", now=now()) as port:
        for host in ("www.acme.test", "app.acme.test", "a.localhost", "127.0.0.1"):
            await visitor.context.clear_cookies()
            await visitor.goto(f"http://{host}:{port}/?dub_id={CLICK}")
            await settled(visitor)
            # Two would mean that one was host-only and the other was not.
            assert len(await cookies_of(visitor.context)) == 1, host


async def test_an_image_plants_no_click(site: Site, visitor: Page) -> None:
    """On a foreign site SameSite=Lax forbids it too; in the site's own forum not."""
    async with proxied(f"http://127.0.0.1:{site.port}", now=now()) as port:
        await visitor.goto(site.url("/", "forum.acme.test"))
        picture = f"http://www.acme.test:{port}/?dub_id={CLICK}"
        await visitor.evaluate(
            "src => new Promise(done => {"
            " const image = new Image();"
            " image.onload = image.onerror = done; image.src = src; })",
            picture,
        )
        assert await cookies_of(visitor.context) == []
        await visitor.goto(picture)
        assert len(await cookies_of(visitor.context)) == 1
