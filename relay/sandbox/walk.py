"""The demo's own visitor: clicks, lands and signs up in each of the three ways.

It speaks HTTP as a browser does, with a cookie jar of its own for each way, but
it runs no JavaScript: where the page's script would set the cookie, the walk
does what the script does, and says so.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode, urljoin

import aiohttp
from yarl import URL

AGENT: Final = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/140.0.0.0 Safari/537.36"
)
"""A browser's: Dub records no click of an HTTP library."""

COOKIE: Final = "dub_id"

LEAD_WAIT_S: Final = 20.0
"""How long a lead may take to arrive; on a good day it is a tenth of a second."""

POLL_S: Final = 0.05
REQUEST_S: Final = 10.0

_SCRIPT: Final = re.compile(r'<script src="([^"]+/script\.js)"')


class StepFailedError(Exception):
    """A step of a way did not come out as it must; one sentence."""


@dataclass(frozen=True, slots=True)
class Town:
    """Where everything is, as the visitor's browser would name it.

    ``site`` is the copy of the site with the script tag; the other copy is
    behind the relay. ``user_id`` looks a user's id up by e-mail address;
    ``patience`` is how long to wait for a lead, in seconds.
    """

    sandbox: str
    relay: str
    site: str
    user_id: Callable[[str], str]
    patience: float = LEAD_WAIT_S


@dataclass(frozen=True, slots=True)
class Visitor:
    """One visitor on one way: a cookie jar, and a line for each step."""

    way: str
    town: Town
    session: aiohttp.ClientSession
    say: Callable[[str], None]

    def step(self, name: str, line: str) -> None:
        """Print a step that went well."""
        self.say(f"{self.way:<8}{name:<9}{line}")

    async def click(self, path: str) -> tuple[str, str]:
        """Open a short link; its click id and where it leads."""
        address = urljoin(self.town.sandbox, path)
        async with self.session.get(address, allow_redirects=False) as answer:
            _expect(answer, 302)
            target = URL(answer.headers["Location"])
        click_id = target.query.get(COOKIE, "")
        if not click_id:
            raise StepFailedError(f"{address} redirects without {COOKIE}")
        self.step("click", f"{address} → {target}")
        return click_id, str(target)

    async def land(self, address: str) -> str:
        """Open the page where the link leads, and give its text."""
        async with self.session.get(address) as answer:
            _expect(answer, 200)
            return await answer.text()

    def cookie(self, address: str) -> str | None:
        """Return the click cookie that would be sent to an address."""
        held = self.session.cookie_jar.filter_cookies(URL(address)).get(COOKIE)
        return held.value if held else None

    def require_cookie(self, click_id: str, address: str) -> None:
        """Fail unless the jar holds exactly this click for an address."""
        held = self.cookie(address)
        if held != click_id:
            found = f"holds {held}" if held else "holds none"
            raise StepFailedError(f"the click cookie should be {click_id}; it {found}")

    async def sign_up(self, address: str, name: str, email: str) -> None:
        """Send an HTML form, and follow to the welcome page."""
        form = urlencode({"name": name, "email": email})
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        async with self.session.post(address, data=form, headers=headers) as answer:
            _expect(answer, 200)
            if answer.url.path != "/welcome":
                raise StepFailedError(f"{address} led to {answer.url}, not to /welcome")

    async def lead(self, customer: str, click_id: str) -> None:
        """Wait until the sandbox holds the customer's lead; check its click."""
        async with asyncio.timeout(self.town.patience):
            leads = await self._leads_of(customer)
            while not leads:
                await asyncio.sleep(POLL_S)
                leads = await self._leads_of(customer)
        if [lead["clickId"] for lead in leads] != [click_id]:
            found = ", ".join(lead["clickId"] for lead in leads)
            raise StepFailedError(f"the lead should have click {click_id}; has {found}")
        lead = leads[0]
        self.step(
            "lead",
            f"recorded by the sandbox: “{lead['eventName']}” of {customer}, "
            f"click {click_id}, partner {lead['partner']}, signed: {lead['signed']}",
        )

    async def _leads_of(self, customer: str) -> list[dict[str, Any]]:
        address = urljoin(self.town.sandbox, "/sandbox/state")
        async with self.session.get(address) as answer:
            _expect(answer, 200)
            state = await answer.json()
        return [it for it in state["leads"] if it["customerExternalId"] == customer]


async def by_script(visitor: Visitor) -> None:
    """Land on the site itself; its page's script keeps the click."""
    town = visitor.town
    click_id, target = await visitor.click("/partner-ada")
    found = _SCRIPT.search(await visitor.land(target))
    if found is None:
        raise StepFailedError(f"{target} has no script tag")
    script = urljoin(target, found[1])
    if COOKIE not in await visitor.land(script):
        raise StepFailedError(f"{script} is not the snippet")
    visitor.session.cookie_jar.update_cookies({COOKIE: click_id}, URL(town.site))
    visitor.require_cookie(click_id, town.site)
    visitor.step(
        "cookie", f"{script} served; {COOKIE} set as the script does (no browser here)"
    )
    address, email = urljoin(town.site, "/api/signup"), "ada.visitor@example.com"
    person = {"name": "Sam Script", "email": email}
    async with visitor.session.post(address, json=person) as answer:
        _expect(answer, 201)
        customer = (await answer.json())["user"]["id"]
    visitor.step("sign-up", f"POST {address} → 201; the site's code called the hook")
    await visitor.lead(customer, click_id)


async def by_proxy(visitor: Visitor) -> None:
    """Land through the relay; the site behind it knows nothing of Dub."""
    relay, email = visitor.town.relay, "grace.visitor@example.com"
    click_id, target = await visitor.click("/partner-grace")
    await visitor.land(target)
    visitor.require_cookie(click_id, relay)
    visitor.step("cookie", f"{COOKIE} set by the relay, from the server")
    address = urljoin(relay, "/signup")
    await visitor.sign_up(address, "Pat Proxy", email)
    visitor.step("sign-up", f"POST {address} → 303; the relay saw it pass")
    await visitor.lead(email, click_id)


async def by_hook(visitor: Visitor) -> None:
    """Land through the relay; the site's own code reports the sign-up to it."""
    town, email = visitor.town, "alan.visitor@example.com"
    click_id, target = await visitor.click("/partner-alan")
    await visitor.land(target)
    visitor.require_cookie(click_id, town.relay)
    visitor.step("cookie", f"{COOKIE} set by the relay, from the server")
    address = urljoin(town.relay, "/register")
    await visitor.sign_up(address, "Harper Hook", email)
    visitor.step("sign-up", f"POST {address} → 303; the site's code called the hook")
    await visitor.lead(town.user_id(email), click_id)


WAYS: Final[tuple[tuple[str, Callable[[Visitor], Awaitable[None]]], ...]] = (
    ("script", by_script),
    ("proxy", by_proxy),
    ("hook", by_hook),
)


async def walk(town: Town, say: Callable[[str], None]) -> bool:
    """Go all three ways; True when every lead arrived with exactly its click."""
    arrived = 0
    for way, go in WAYS:
        arrived += await _go(way, go, town, say)
    say(f"{arrived} of {len(WAYS)} leads arrived, each with exactly its click.")
    return arrived == len(WAYS)


async def _go(
    way: str,
    go: Callable[[Visitor], Awaitable[None]],
    town: Town,
    say: Callable[[str], None],
) -> bool:
    timeout = aiohttp.ClientTimeout(total=REQUEST_S)
    headers = {"User-Agent": AGENT}
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        visitor = Visitor(way, town, session, say)
        try:
            await go(visitor)
        except TimeoutError:
            # Also what aiohttp raises when a server does not answer in time.
            visitor.step("FAILED", f"no lead within {town.patience:g} s")
        except (StepFailedError, aiohttp.ClientError) as error:
            visitor.step("FAILED", str(error) or type(error).__name__)
        else:
            return True
        return False


def _expect(answer: aiohttp.ClientResponse, status: int) -> None:
    if answer.status != status:
        asked = f"{answer.method} {answer.url}"
        raise StepFailedError(f"{asked} answered {answer.status}, not {status}")
