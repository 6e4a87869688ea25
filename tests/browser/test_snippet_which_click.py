"""Which of several clicks counts, and which one no more."""

from __future__ import annotations

import time
from typing import Any

import pytest
from playwright.async_api import Page

from tests.support.proxy_rig import proxied
from tests.support.snippet_rig import (
    ALL,
    CLICK,
    OTHER,
    REFER,
    TRACKED,
    WITH_PARTNER,
    Site,
    back,
    cookies_of,
    given,
    settled,
)

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

USED = """fetch('/_dub/cookie', {method: 'POST', body: '{"used": true}',
  headers: {'Content-Type': 'application/json'}}).then(answer => answer.status)"""
FIRST = {"data-attribution-model": "first-click"}


async def test_a_placeholder_in_a_cookie_is_no_click(site: Site, visitor: Page) -> None:
    site.carries({"data-publishable-key": "dub_pk_1"}, script=f"/_dub/{ALL}")
    for host, value in (("www.acme.test", CLICK), (".acme.test", "undefined")):
        await visitor.context.add_cookies(
            [{"name": "dub_id", "value": value, "domain": host, "path": "/"}]
        )
    await visitor.goto(site.url())
    await given(visitor, "dubAnalytics.trackLead({eventName: 'x'})")

    assert site.posted("lead/client")[0]["clickId"] == CLICK


@pytest.mark.parametrize("script_host", ["www.app.acme.test", "cdn.acme.test"])
async def test_a_landing_leaves_one_cookie_of_all_that_there_were(
    site: Site, visitor: Page, script_host: str
) -> None:
    for number, domain in enumerate(
        (".acme.test", ".app.acme.test", "www.app.acme.test", ".www.app.acme.test")
    ):
        value = f"olderClick{number}"
        await visitor.context.add_cookies(
            [{"name": "dub_id", "value": value, "domain": domain, "path": "/"}]
        )
    site.carries(script=site.url("/_dub/script.js", script_host))
    await visitor.goto(site.url(f"/?dub_id={CLICK}", "www.app.acme.test"))
    await settled(visitor)

    assert [each["value"] for each in await cookies_of(visitor.context)] == [CLICK]


async def test_a_used_click_does_not_come_back(site: Site, visitor: Page) -> None:
    landing = site.url(f"/?dub_id={CLICK}")
    await visitor.goto(landing)
    await settled(visitor)
    assert await visitor.evaluate(USED) == 204
    assert await cookies_of(visitor.context) == []

    await visitor.goto(site.url("/welcome"))
    await back(visitor, landing)
    await settled(visitor)
    assert await cookies_of(visitor.context) == []
    bookmark = await visitor.context.new_page()
    await bookmark.goto(landing)
    await settled(bookmark)
    assert await cookies_of(visitor.context) == []

    await bookmark.goto(site.url(f"/?dub_id={OTHER}"))
    await settled(bookmark)
    assert [each["value"] for each in await cookies_of(visitor.context)] == [OTHER]


@pytest.mark.parametrize(
    ("host", "counts"), [("shop.acme.test", True), ("evil.test", False)]
)
async def test_a_frame_counts_in_a_page_of_the_same_site_alone(
    site: Site, visitor: Page, host: str, counts: bool
) -> None:
    site.carries(REFER)
    site.answers["click"] = [(200, WITH_PARTNER)]
    site.pages["/around"] = f"<iframe src='{site.url('/?via=derek')}'></iframe>"
    await visitor.goto(site.url("/around", host))
    (frame,) = visitor.main_frame.child_frames
    await frame.evaluate("new Promise(done => dubAnalytics('ready', done))")

    assert len(site.posted("click")) == counts
    held = [each["value"] for each in await cookies_of(visitor.context)]
    assert held == ([TRACKED] if counts else [])


async def test_first_click_of_the_tag_is_honoured_in_front_of_the_site(
    site: Site, visitor: Page
) -> None:
    for tag, kept in ((FIRST, CLICK), ({}, OTHER)):
        site.carries(tag)
        await visitor.context.clear_cookies()
        async with proxied(
            f"http://127.0.0.1:{site.port}", now=round(time.time() * 1000)
        ) as port:
            for click in (CLICK, OTHER):
                url = f"http://www.acme.test:{port}/?dub_id={click}"
                await visitor.goto(url)
                await settled(visitor)
        held: list[Any] = await cookies_of(visitor.context)
        assert [each["value"] for each in held] == [kept]
