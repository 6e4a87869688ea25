"""A person in a real Chromium, from a partner's link to a recorded lead."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Browser, Page, expect

from tests.support.axe import SIDEWAYS, needs_axe, violations
from tests.support.harness import clean_environment

pytestmark = pytest.mark.browser

PERSON = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/140.0.0.0 Safari/537.36"
)
"""Dub takes a headless browser for a bot and records no click of it."""


@dataclass
class Demo:
    """The addresses that `dub-relay demo` printed."""

    sandbox: str
    relay: str
    acme: str

    async def lead(self, click: str) -> dict[str, Any]:
        """Wait for the one lead of a click."""
        deadline = time.monotonic() + 20
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < deadline:
                async with session.get(f"{self.sandbox}sandbox/state") as answer:
                    leads = (await answer.json())["leads"]
                found = [lead for lead in leads if lead["clickId"] == click]
                if found:
                    [lead] = found
                    return dict(lead)
                await asyncio.sleep(0.05)
        raise AssertionError("no lead arrived")


@pytest.fixture
async def demo() -> AsyncIterator[Demo]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relay", "demo"),
        stdout=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    assert process.stdout is not None
    text = ""
    async with asyncio.timeout(60):
        while "Ctrl-C" not in text:
            line = (await process.stdout.readline()).decode()
            assert line, f"the demo ended by itself: {text}"
            text += line
    found = dict(re.findall(r"^(Sandbox|Relay|Acme) +(\S+)", text, re.MULTILINE))
    yield Demo(found["Sandbox"], found["Relay"], found["Acme"])
    process.terminate()
    await process.communicate()


async def follow(page: Page, address: str) -> str:
    """Open a partner's link; the click id that it minted."""
    await page.goto(address)
    found = re.search(r"[?&]dub_id=(\w{16})", page.url)
    assert found, page.url
    return found[1]


async def sign_up(page: Page, address: str, email: str) -> None:
    await page.goto(address)
    await page.get_by_label("Name").fill("Ada Lovelace")
    await page.get_by_label("E-mail").fill(email)
    await page.get_by_role("button").click()
    await expect(page.get_by_role("heading", name="Welcome, Ada")).to_be_visible()


async def cookie(page: Page, address: str) -> str | None:
    held = await page.context.cookies(address)
    return next((it["value"] for it in held if it["name"] == "dub_id"), None)


async def test_by_script_the_pages_script_keeps_the_click(
    browser: Browser, demo: Demo
) -> None:
    page = await browser.new_page(user_agent=PERSON)
    click = await follow(page, f"{demo.sandbox}partner-ada")
    assert await cookie(page, demo.acme) == click

    await sign_up(page, f"{demo.acme}signup-json", "script@example.com")

    lead = await demo.lead(click)
    assert (lead["partner"], lead["signed"]) == ("Ada", "yes")


@pytest.mark.parametrize("javascript", [True, False], ids=["js", "no js"])
async def test_by_proxy_the_site_knows_nothing_and_the_cookie_is_used_up(
    browser: Browser, demo: Demo, javascript: bool
) -> None:
    page = await browser.new_page(user_agent=PERSON, java_script_enabled=javascript)
    click = await follow(page, f"{demo.sandbox}partner-grace")
    assert await cookie(page, demo.relay) == click

    await sign_up(page, f"{demo.relay}signup", "proxy@example.com")

    lead = await demo.lead(click)
    assert (lead["partner"], lead["customerExternalId"]) == (
        "Grace",
        "proxy@example.com",
    )
    assert await cookie(page, demo.relay) is None


async def test_by_hook_the_sites_own_code_tells_the_relay(
    browser: Browser, demo: Demo
) -> None:
    page = await browser.new_page(user_agent=PERSON)
    click = await follow(page, f"{demo.sandbox}partner-alan")
    assert await cookie(page, demo.relay) == click

    await sign_up(page, f"{demo.relay}register", "hook@example.com")

    lead = await demo.lead(click)
    assert (lead["partner"], lead["signed"]) == ("Alan", "yes")


async def test_a_sign_up_that_the_site_refuses_makes_no_lead(
    browser: Browser, demo: Demo
) -> None:
    page = await browser.new_page(user_agent=PERSON)
    await follow(page, f"{demo.sandbox}partner-grace")
    await sign_up(page, f"{demo.relay}signup", "taken@example.com")
    other = await browser.new_page(user_agent=PERSON + " other")
    click = await follow(other, f"{demo.sandbox}partner-grace")

    await other.goto(f"{demo.relay}signup")
    await other.get_by_label("Name").fill("Eve")
    await other.get_by_label("E-mail").fill("taken@example.com")
    await other.get_by_role("button").click()

    await expect(other.get_by_role("alert")).to_contain_text("already signed up")
    assert await cookie(other, demo.relay) == click
    await sign_up(other, f"{demo.relay}signup", "eve@example.com")
    lead = await demo.lead(click)
    assert lead["customerExternalId"] == "eve@example.com"


@pytest.mark.slow
@needs_axe
async def test_no_page_of_the_demo_has_a_violation_or_scrolls_sideways(
    browser: Browser, demo: Demo
) -> None:
    site = [f"{demo.relay}{path}" for path in ("", "signup", "signup-json", "register")]
    for scheme in ("light", "dark"):
        opened = await browser.new_context(
            color_scheme=scheme, bypass_csp=True, viewport={"width": 360, "height": 740}
        )
        page = await opened.new_page()
        found = []
        for address in (demo.sandbox, *site):
            await page.goto(address)
            found.append((address, scheme, await violations(page)))
            assert await page.evaluate(SIDEWAYS) <= 0, address
        assert [each for each in found if each[2]] == []
        await opened.close()
