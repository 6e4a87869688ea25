"""A real browser, in which every host below .test is this machine.

Chromium, unless ``ENGINE`` says otherwise in the environment: ``firefox`` (Debian's
ESR). What an engine cannot do is listed in ``engines.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import (
    Browser,
    BrowserContext,
    Page,
    Playwright,
    async_playwright,
)
from playwright.async_api import Error as PlaywrightError

from tests.support import firefox_bridge
from tests.support.engines import ENGINE
from tests.support.webkit_driver import Room, WebKitPage, new_page, room

log = logging.getLogger(__name__)

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP *.test 127.0.0.1",
]

Preferences = dict[str, str | float | bool]

PREFERENCES: Preferences = {
    "network.dns.native-is-localhost": True,
    # A page is asked for by https first, else.
    "dom.security.https_first": False,
}

BLOCKER: Preferences = {
    "extensions.autoDisableScopes": 0,
    "extensions.enabledScopes": 15,
    "extensions.startupScanScopes": 15,
}
"""With the extensions that Debian's packages bring: uBlock Origin."""

PRIVATE: Preferences = {"browser.privatebrowsing.autostart": True}
PARTITIONED: Preferences = {"network.cookie.cookieBehavior": 5}
"""Total Cookie Protection, which is on unless somebody turns it off."""

THIRD_PARTY_BLOCKED = ["--test-third-party-cookie-phaseout"]

LIFE = 40
"""Seconds that a test may take with its page; the slowest takes four."""


def found(program: str, *others: str) -> str:
    """The first of these programs that is here; else the test is skipped."""
    for each in (program, *others):
        if path := shutil.which(each):
            return path
    pytest.skip(f"NO {program.upper()} HERE: what a browser does was not tested")


@contextlib.asynccontextmanager
async def launched() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright, LAUNCHING[ENGINE](playwright) as it:
        yield it


@contextlib.asynccontextmanager
async def chromium(
    playwright: Playwright, more: Sequence[str] = (), *, without: Sequence[str] = ()
) -> AsyncIterator[Browser]:
    """Run Chromium with ``more`` arguments, and ``without`` some of Playwright's."""
    path = found("chromium", playwright.chromium.executable_path)
    started = await playwright.chromium.launch(
        executable_path=path,
        headless=True,
        args=[*ARGUMENTS, *more],
        ignore_default_args=without,
    )
    yield started
    await started.close()


@contextlib.asynccontextmanager
async def firefox(
    playwright: Playwright, more: Preferences | None = None
) -> AsyncIterator[Browser]:
    found(firefox_bridge.PROGRAM)
    with tempfile.TemporaryDirectory() as folder:
        started = await playwright.firefox.launch(
            channel="moz-firefox",
            executable_path=firefox_bridge.stand_in(Path(folder)),
            headless=True,
            firefox_user_prefs=PREFERENCES | (more or {}),
        )
        yield started
        await started.close()


LAUNCHING: Mapping[
    str, Callable[[Playwright], contextlib.AbstractAsyncContextManager[Browser]]
] = {"chromium": chromium, "firefox": firefox}


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with launched() as started:
        yield started


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A browser without any past."""
    opened = await browser.new_context()
    yield opened
    await opened.close()


@pytest.fixture
async def page(context: BrowserContext) -> Page:
    return await context.new_page()


# One process, and one context in it, for all tests that are marked with
# asyncio(loop_scope="session"): to make them takes longer than most of the tests.


class SharedBrowser:
    """A browser and a context in it that live on; one that has died is followed."""

    def __init__(self) -> None:
        self._running = contextlib.AsyncExitStack()
        self._context: BrowserContext | None = None

    async def new_page(self) -> Page:
        """A new tab in the one context, which has no cookies."""
        try:
            return await self._new_page()
        except PlaywrightError:
            log.warning("the browser has died; another is started", exc_info=True)
            await self.close()
            return await self._new_page()

    async def _new_page(self) -> Page:
        if self._context is None:
            browser = await self._running.enter_async_context(launched())
            self._context = await browser.new_context()
        await self._context.clear_cookies()
        return await self._context.new_page()

    async def close(self) -> None:
        """End the browser; one that has died has nothing left to close."""
        self._context = None
        with contextlib.suppress(PlaywrightError):
            await self._running.aclose()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared() -> AsyncIterator[SharedBrowser]:
    it = SharedBrowser()
    yield it
    await it.close()


if ENGINE == "webkit":

    @pytest_asyncio.fixture(scope="session", loop_scope="session")
    async def webkit_room() -> AsyncIterator[Room]:
        async with room() as prepared:
            yield prepared

    @pytest_asyncio.fixture(name="visitor", loop_scope="session")
    async def webkit_visitor(webkit_room: Room) -> AsyncIterator[WebKitPage]:
        async with new_page(webkit_room) as page:
            yield page

else:

    @pytest_asyncio.fixture(loop_scope="session")
    async def visitor(shared: SharedBrowser) -> AsyncIterator[Page]:
        """A new tab without cookies. What an origin stores it keeps: use ports."""
        page = await shared.new_page()
        watchdog = asyncio.create_task(closed_after(LIFE, page))
        yield page
        watchdog.cancel()
        for opened in page.context.pages:
            await opened.close()


@pytest_asyncio.fixture(loop_scope="session")
async def shared_browser(visitor: Page) -> Browser:
    browser = visitor.context.browser
    assert browser is not None
    return browser


async def closed_after(seconds: float, page: Page) -> None:
    """Close a page, so that what waits for it fails: scripts have no time limit."""
    await asyncio.sleep(seconds)
    await page.close()
