"""The dashboard in a real Chromium: live, drawn, by keyboard, on a phone, judged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Browser, Page, expect

from tests.support.axe import SIDEWAYS, needs_axe, violations
from tests.support.browsers import browser, context, page
from tests.support.harness import RelayProcess, SandboxDub, post_hook

pytestmark = pytest.mark.browser

PASSWORD = "correct horse"
PAGES = ("/", "/leads", "/rules", "/reconciliation", "/health", "/audit")

__all__ = ["browser", "context", "page"]


@pytest.fixture
async def relay(tmp_path: Path, dub: SandboxDub) -> AsyncIterator[RelayProcess]:
    settings = {"RELAY_ADMIN_PASSWORD": PASSWORD, "DUB_API_URL": dub.url}
    relay = await RelayProcess(tmp_path, settings).start()
    yield relay
    await relay.stop()


@pytest.fixture
def home(relay: RelayProcess) -> str:
    return f"{relay.url}/_dub/dashboard"


@pytest.fixture
async def admin(page: Page, home: str) -> Page:
    """Signed in, by the keyboard alone."""
    await page.goto(f"{home}/")
    await page.keyboard.type(PASSWORD)
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#live")
    return page


async def sign_up(relay: RelayProcess, click: str, customer: str = "u_1") -> str:
    body = {"clickId": click, "eventName": "Sign Up", "customerExternalId": customer}
    async with aiohttp.ClientSession() as session:
        _, answer = await post_hook(session, relay.url, body, f"msg_{len(customer)}")
    return str(answer["id"])


async def test_the_overview_follows_by_itself(
    admin: Page, relay: RelayProcess, dub: SandboxDub
) -> None:
    await expect(admin.locator(".headline")).to_contain_text("No lead has come yet")
    await sign_up(relay, await dub.click())

    delivered = admin.locator(".tiles li", has_text="delivered")
    await expect(delivered.locator("b")).to_have_text("1", timeout=20_000)
    await expect(admin.locator(".headline")).to_contain_text("Leads flow")


async def test_plots_are_drawn_from_the_relays_own_samples(admin: Page) -> None:
    await expect(admin.locator(".plot canvas")).to_have_count(6, timeout=20_000)


async def test_filters_change_the_list_in_place(
    admin: Page, home: str, relay: RelayProcess
) -> None:
    for customer in ("ada", "grace"):
        await sign_up(relay, "hQWlM0a9Zk3xY7bT", customer)
    await admin.goto(f"{home}/leads")
    rows = admin.locator("#rows tbody tr")
    await expect(rows).to_have_count(2)

    await admin.locator("#customer").press_sequentially("ada")
    await admin.keyboard.press("Tab")

    await expect(rows).to_have_count(1)
    await expect(rows).to_contain_text("ada")
    assert "customer=ada" in admin.url


@pytest.mark.slow
@needs_axe
async def test_no_page_has_a_violation(
    browser: Browser, home: str, relay: RelayProcess, dub: SandboxDub
) -> None:
    delivered = await sign_up(relay, await dub.click(), "ada")
    await sign_up(relay, "hQWlM0a9Zk3xY7bT", "grace")
    for scheme in ("light", "dark"):
        opened = await browser.new_context(color_scheme=scheme, bypass_csp=True)
        page = await opened.new_page()
        await page.goto(f"{home}/sign-in")
        found = [("sign-in", scheme, await violations(page))]
        await page.fill("#password", PASSWORD)
        await page.keyboard.press("Enter")
        await page.wait_for_selector("#live")
        for path in (*PAGES, f"/leads/{delivered}"):
            await page.goto(home + path)
            found.append((path, scheme, await violations(page)))
        assert [each for each in found if each[2]] == []
        await opened.close()


async def test_nothing_scrolls_sideways_on_a_phone(
    browser: Browser, home: str, relay: RelayProcess
) -> None:
    await sign_up(relay, "hQWlM0a9Zk3xY7bT", "somebody.with.a.long.name@example.com")
    opened = await browser.new_context(viewport={"width": 360, "height": 740})
    page = await opened.new_page()
    await page.goto(f"{home}/")
    await page.fill("#password", PASSWORD)
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#live")
    for path in PAGES:
        await page.goto(home + path)
        assert await page.evaluate(SIDEWAYS) <= 0, path
    # What a cell is called stands beside what it says.
    await page.goto(f"{home}/leads")
    cell = page.locator("td[data-label=Customer]")
    await expect(cell).to_have_css("padding-left", "104px")
    await opened.close()


async def test_a_long_reason_does_not_widen_the_list(
    admin: Page, home: str, relay: RelayProcess
) -> None:
    await sign_up(relay, "hQWlM0a9Zk3xY7bT")
    await admin.set_viewport_size({"width": 1000, "height": 700})
    news = admin.locator("td[data-label=News]", has_text="does not know")
    async with asyncio.timeout(20):
        while not await news.count():
            await admin.goto(f"{home}/leads")
    assert await admin.evaluate(SIDEWAYS) <= 0


async def test_reading_needs_no_script(
    browser: Browser, home: str, relay: RelayProcess
) -> None:
    lead = await sign_up(relay, "hQWlM0a9Zk3xY7bT")
    opened = await browser.new_context(java_script_enabled=False)
    page = await opened.new_page()
    await page.goto(f"{home}/leads/{lead}")
    await page.fill("#password", PASSWORD)
    await page.keyboard.press("Enter")
    await expect(page.locator("h1")).to_contain_text("Sign Up of u_1")
    await page.click("text=Overview")
    await expect(page.locator(".headline")).to_be_visible()
    await opened.close()
