"""uBlock Origin with its own lists, in Firefox: it lets the relay's names pass."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Page, async_playwright

from tests.support.browsers import BLOCKER, firefox
from tests.support.engines import ENGINE
from tests.support.snippet_rig import CLICK, REFER, Site, clicked, settled

EXTENSIONS = Path("/usr/share/mozilla/extensions")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(
        ENGINE != "firefox" or not any(EXTENSIONS.glob("*/uBlock0@*")),
        reason="NO UBLOCK ORIGIN HERE: no content blocker saw the relay's names",
    ),
]

VARIANTS = [
    f"script{visit}{outbound}{conversion}.js"
    for visit in ("", ".site-visit")
    for outbound in ("", ".outbound-domains")
    for conversion in ("", ".conversion-tracking")
]

REFUSED = """
new Promise(answer => document.head.append(Object.assign(
  document.createElement('script'),
  {src: '/beacon.js', onload: () => answer(false), onerror: () => answer(true)})))
"""
"""Whether a name that is on the lists is blocked."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def blocking() -> AsyncIterator[Page]:
    async with async_playwright() as playwright, firefox(playwright, BLOCKER) as it:
        yield await (await it.new_context()).new_page()


@pytest_asyncio.fixture(loop_scope="session")
async def reader(site: Site, blocking: Page) -> Page:
    """A page in which the blocker is at work: its lists are read after the start."""
    async with asyncio.timeout(30):
        await blocking.goto(site.url("/before"))
        while not await blocking.evaluate(REFUSED):
            await blocking.goto(site.url("/before"))
    await blocking.context.clear_cookies()
    return blocking


@pytest.mark.parametrize("mount", ["/_dub", "/_proxy/dub"])
@pytest.mark.parametrize("name", VARIANTS)
async def test_no_name_of_ours_is_blocked(
    site: Site, reader: Page, mount: str, name: str
) -> None:
    site.carries({**REFER, "data-api-host": mount}, script=f"{mount}/{name}")
    await reader.goto(site.url("/?via=derek"))
    await clicked(reader, "trackedClick0001")
    await settled(reader)

    posted = {call.path for call in site.calls}
    assert {f"{mount}/track/click", f"{mount}/cookie"} <= posted


async def test_nor_are_the_parts_that_load_later(site: Site, reader: Page) -> None:
    site.carries({"data-clean-url": ""})
    await reader.goto(site.url(f"/?dub_id={CLICK}"))
    await reader.wait_for_url(site.url())
