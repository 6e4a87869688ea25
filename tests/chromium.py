"""A real Chromium, in which every host below .test is this machine."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
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


def chromium(own: str) -> str:
    """The system's Chromium, else Playwright's own; else the test is skipped."""
    path = shutil.which("chromium") or own
    if not Path(path).exists():
        pytest.skip("NO CHROMIUM HERE: what a browser does was not tested")
    return path


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        path = chromium(playwright.chromium.executable_path)
        started = await playwright.chromium.launch(
            executable_path=path, headless=True, args=ARGUMENTS
        )
        yield started
        await started.close()


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """A browser without any past."""
    opened = await browser.new_context()
    yield opened
    await opened.close()


@pytest.fixture
async def page(context: BrowserContext) -> Page:
    return await context.new_page()
