"""Which set-up keeps the click for how long: docs/browsers.md holds what is seen here.

WebKit runs with its protection from tracking (ITP), as Safari does.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, Page, async_playwright

from tests.support import webkit
from tests.support.browsers import (
    PARTITIONED,
    PRIVATE,
    THIRD_PARTY_BLOCKED,
    Preferences,
    chromium,
    firefox,
)
from tests.support.engines import ENGINE
from tests.support.lifetimes import SET_UPS, Seen
from tests.support.proxy_rig import proxied
from tests.support.snippet_rig import CLICK, DAY, OTHER, Site

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

IN_WEBKIT = pytest.mark.skipif(ENGINE != "webkit", reason="WebKit's protection alone")

LANDED = """<script>
addEventListener('load', () => {
  let own;
  try { own = localStorage.own; } catch { own = 'refused'; }
  const landed = script => fetch('/api/track/landed', {
    method: 'POST', body: JSON.stringify({script, cookies: document.cookie, own})});
  window.dubAnalytics ? dubAnalytics('ready', () => landed(true)) : landed(false);
});
</script>"""
"""Says, after the landing, whether a script ran, and what the page sees as kept."""

ON = """<script>
addEventListener('load', () => dubAnalytics('ready', () => location = '/signup'));
</script>"""
"""Leads on once the landing is dealt with."""


class Person(Protocol):
    """A browser, and what it keeps: see ``webkit.Person``."""

    def opened(self, url: str) -> AbstractAsyncContextManager[None]: ...
    def without_scripts(self, url: str) -> AbstractAsyncContextManager[None]: ...
    def in_private(self, url: str) -> AbstractAsyncContextManager[None]: ...
    async def keeps(self, *wanted: str) -> dict[str, float]: ...
    async def loses(self, name: str) -> None: ...
    async def version(self) -> str: ...


@dataclass
class Driven:
    """A person whose browser Playwright drives."""

    context: BrowserContext

    @contextlib.asynccontextmanager
    async def opened(self, url: str) -> AsyncIterator[None]:
        page = await self.context.new_page()
        await page.goto(url)
        yield
        await page.close()

    @contextlib.asynccontextmanager
    async def without_scripts(self, url: str) -> AsyncIterator[None]:
        assert self.context.browser is not None
        before = self.context
        self.context = await self.context.browser.new_context(java_script_enabled=False)
        async with self.opened(url):
            yield
        await self.context.close()
        self.context = before

    @contextlib.asynccontextmanager
    async def in_private(self, url: str) -> AsyncIterator[None]:
        """All that Playwright opens in Chromium is private; Firefox starts as such."""
        async with strict(PRIVATE, []) as private, private.opened(url):
            yield

    async def keeps(self, *wanted: str) -> dict[str, float]:
        held = await self.context.cookies()
        days = {it["name"]: (it["expires"] - time.time()) / DAY for it in held}
        assert set(wanted) <= set(days)
        return days

    async def loses(self, name: str) -> None:
        await self.context.clear_cookies(name=name)

    async def version(self) -> str:
        assert self.context.browser is not None
        return f"{ENGINE.capitalize()} {self.context.browser.version}"


@contextlib.asynccontextmanager
async def strict(
    in_firefox: Preferences, in_chromium: Sequence[str]
) -> AsyncIterator[Driven]:
    """A person with a browser of their own, and with such settings in it."""
    async with async_playwright() as playwright:
        starting = (
            firefox(playwright, in_firefox)
            if ENGINE == "firefox"
            else chromium(playwright, in_chromium)
        )
        async with starting as browser:
            yield Driven(await browser.new_context())


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def screen() -> AsyncIterator[str]:
    webkit.mini_browser()
    async with webkit.display() as screen:
        yield screen


if ENGINE == "webkit":

    @pytest_asyncio.fixture(name="person", loop_scope="session")
    async def with_webkit(screen: str, tmp_path: Path) -> AsyncIterator[Person]:
        async with webkit.names() as resolver:
            yield webkit.Person(tmp_path, screen, resolver)

    @pytest.fixture(name="guarded")
    def with_webkits_own(person: Person) -> Person:
        return person

else:

    @pytest_asyncio.fixture(name="guarded", loop_scope="session")
    async def with_third_parties_apart() -> AsyncIterator[Person]:
        async with strict(PARTITIONED, THIRD_PARTY_BLOCKED) as person:
            yield person

    @pytest.fixture(name="person")
    def with_another(visitor: Page) -> Person:
        return Driven(visitor.context)


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    """What is measured, kept for the docs once the module's tests are over."""
    seen = Seen(ENGINE, "", datetime.now(UTC).date().isoformat())
    yield seen
    seen.save()


@contextlib.asynccontextmanager
async def dubs_own(site: Site) -> AsyncIterator[str]:
    site.carries(script="/old/script.js")
    yield site.url()


@contextlib.asynccontextmanager
async def on_a_subdomain(site: Site) -> AsyncIterator[str]:
    site.carries(script=site.url("/_dub/script.js", "relay.acme.test"))
    yield site.url()


@contextlib.asynccontextmanager
async def beside(site: Site) -> AsyncIterator[str]:
    yield site.url()


@contextlib.asynccontextmanager
async def in_front(site: Site) -> AsyncIterator[str]:
    site.head = ""
    upstream, now = f"http://127.0.0.1:{site.port}", round(time.time() * 1000)
    async with proxied(upstream, now=now) as port:
        yield f"http://www.acme.test:{port}/"


HOW = {
    "dub": (dubs_own, ("dub_id",)),
    "subdomain": (on_a_subdomain, ("dub_id",)),
    "beside": (beside, ("dub_id", "dub_relay")),
    "front": (in_front, ("dub_id", "dub_relay")),
}
"""How a set-up is made, and the cookies that it leaves behind."""


async def judged(
    seen: Seen, name: str, column: str, person: Person, cookies: tuple[str, ...]
) -> None:
    days = await person.keeps(*cookies)
    seen.version = seen.version or await person.version()
    seen.days.setdefault(name, {})[column] = days["dub_id"]
    assert abs(days["dub_id"] - SET_UPS[name].days[column]) < 0.01
    assert days.get("dub_relay", 90) > 89.9


@pytest.mark.parametrize("name", HOW)
async def test_a_click_is_kept_as_the_docs_say(
    site: Site, person: Person, seen: Seen, name: str
) -> None:
    how, cookies = HOW[name]
    site.body = LANDED
    async with how(site) as url, person.opened(f"{url}?dub_id={CLICK}"):
        (held,) = await site.called("landed")
        await judged(seen, name, ENGINE, person, cookies)
    assert f"dub_id={CLICK}" in held["cookies"]


async def test_a_click_that_was_lost_comes_back_for_its_full_time(
    site: Site, person: Person, seen: Seen
) -> None:
    site.body = LANDED
    async with person.opened(site.url(f"/?dub_id={CLICK}")):
        await site.called("landed")
        await person.keeps("dub_relay")
    await person.loses("dub_id")
    async with person.opened(site.url("/signup")):
        *_, held = await site.called("landed", 2)
        await judged(seen, "restored", ENGINE, person, ("dub_id",))
    assert f"dub_id={CLICK}" in held["cookies"]


async def test_in_front_of_the_site_no_script_is_needed(
    site: Site, person: Person, seen: Seen
) -> None:
    async with (
        in_front(site) as url,
        person.without_scripts(f"{url}?dub_id={CLICK}"),
    ):
        await judged(seen, "no script", ENGINE, person, ("dub_id", "dub_relay"))


async def test_in_a_private_window_the_click_lasts_until_it_closes(
    site: Site, person: Person
) -> None:
    site.pages["/"], site.body = ON, LANDED
    async with person.in_private(site.url(f"/?dub_id={CLICK}")):
        (held,) = await site.called("landed")
    async with person.in_private(site.url("/signup")):
        *_, later = await site.called("landed", 2)
    assert f"dub_id={CLICK}" in held["cookies"]
    assert later == {**held, "cookies": ""}


async def test_in_another_sites_frame_nothing_is_kept_and_nothing_breaks(
    site: Site, guarded: Person
) -> None:
    """Storage of a frame is not the page's: a click kept there would mislead."""
    around = f'<iframe src="{site.url(f"/in?dub_id={OTHER}")}"></iframe>'
    site.pages["/around"], site.body = around, LANDED
    site.pages["/"] = f"<script>localStorage.own = 1</script>{LANDED}"
    async with guarded.opened(site.url(f"/?dub_id={CLICK}")):
        (own,) = await site.called("landed")
    async with guarded.opened(site.url("/around", "blog.test")):
        *_, framed = await site.called("landed", 2)
    async with guarded.opened(site.url("/later")):
        *_, later = await site.called("landed", 3)
    # It is the same site, and sees nothing of what that has kept.
    assert framed.pop("own", "refused") == "refused"
    assert framed == {"script": True, "cookies": ""}
    assert own["own"] == "1"
    assert f"dub_id={CLICK}" in later["cookies"]
    assert later == own


# What WebKit alone has


@pytest_asyncio.fixture(loop_scope="session")
async def tracked(site: Site, person: Person) -> str:
    """An address whose page leads to another, and whose domain is a known tracker's."""
    assert isinstance(person, webkit.Person)
    async with person.opened("about:blank"):
        pass  # it has made the file by then
    person.takes_for_a_tracker("tracker.test")
    return site.url("/go", "tracker.test")


@IN_WEBKIT
@pytest.mark.parametrize("name", HOW)
async def test_a_click_by_a_trackers_link_is_kept_as_the_docs_say(
    site: Site, person: Person, seen: Seen, tracked: str, name: str
) -> None:
    how, cookies = HOW[name]
    site.body = LANDED
    async with how(site) as url:
        site.pages["/go"] = f"<script>location = '{url}?dub_id={CLICK}'</script>"
        async with person.opened(tracked):
            await site.called("landed")
            await judged(seen, name, "tracked", person, cookies)
