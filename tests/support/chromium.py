"""A real Chromium, in which every host below .test is this machine."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

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

LIFE = 40
"""Seconds that a test may take with its page; the slowest takes four."""


def chromium(own: str) -> str:
    """The system's Chromium, else Playwright's own; else the test is skipped."""
    path = shutil.which("chromium") or own
    if not Path(path).exists():
        pytest.skip("NO CHROMIUM HERE: what a browser does was not tested")
    return path


@contextlib.asynccontextmanager
async def launched() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        path = chromium(playwright.chromium.executable_path)
        started = await playwright.chromium.launch(
            executable_path=path, headless=True, args=ARGUMENTS
        )
        yield started
        await started.close()


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


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_browser() -> AsyncIterator[Browser]:
    async with launched() as started:
        yield started


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_context(shared_browser: Browser) -> AsyncIterator[BrowserContext]:
    opened = await shared_browser.new_context()
    yield opened
    await opened.close()


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(shared_context: BrowserContext) -> AsyncIterator[Page]:
    """A new tab without cookies. What an origin stores is the origin's: use ports."""
    await shared_context.clear_cookies()
    page = await shared_context.new_page()
    watchdog = asyncio.create_task(closed_after(LIFE, page))
    yield page
    watchdog.cancel()
    for opened in shared_context.pages:
        await opened.close()


async def closed_after(seconds: float, page: Page) -> None:
    """Close a page, so that what waits for it fails: scripts have no time limit."""
    await asyncio.sleep(seconds)
    await page.close()
