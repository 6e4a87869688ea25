"""`ticket`: this browser's click, signed, for the site's own pages alone."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from relay.capture.page_endpoints import TicketEndpoint
from relay.core.http import cookies
from relay.core.http.tickets import Opener
from relay.http.callers import OwnPages, Trusted
from tests.support.pages_rig import Pages
from tests.support.proxy_rig import NOW, SECRETS, landing
from tests.support.recording_site import Message, ask, request

CLICK = "hQWlM2kPzX9aBcDe"
OTHER = "anotherClick1234"
HOST = "www.shop.test"
OWN = "Origin: http://www.shop.test"
SAME = "Sec-Fetch-Site: same-origin"
OPENER = Opener(SECRETS)


@pytest.fixture
async def port(pages: Pages) -> int:
    endpoint = TicketEndpoint(landing(), OwnPages(Trusted()), OPENER, lambda: NOW)
    endpoints = [(method, "ticket", endpoint.issue) for method in ("GET", "POST")]
    return await pages(endpoints)


async def call(port: int, method: str, headers: Sequence[str]) -> Message:
    length = () if method == "GET" else ("Content-Length: 0",)
    first = f"{method} /_dub/ticket"
    return await ask(port, request(first, *headers, *length, host=HOST))


def signed_cookie(click: str, *, used: bool = False) -> str:
    kept = cookies.landed(None, click, NOW, "/")
    kept = cookies.use(kept, NOW) if used else kept
    return f"dub_relay={cookies.seal(kept, SECRETS, NOW)}"


def told(answer: Message) -> str | None:
    assert answer.status == 200
    assert answer.one("Cache-Control") == b"no-store"
    document = json.loads(answer.body or b"")
    ticket = document["ticket"]
    if ticket is None:
        assert document == {"ticket": None}
        return None
    assert document["expiresIn"] == OPENER.life_s
    return OPENER.open(ticket, NOW)


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", (OWN,)),
        ("POST", (OWN, SAME)),
        ("GET", (OWN,)),
        ("GET", (SAME,)),
        ("GET", (OWN, SAME)),
    ],
)
async def test_an_own_page_gets_the_click_of_its_visitor(
    port: int, method: str, headers: tuple[str, ...]
) -> None:
    answer = await call(port, method, (*headers, f"Cookie: a=1; dub_id={CLICK}"))

    assert told(answer) == CLICK


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", ()),
        ("POST", ()),
        ("POST", (SAME,)),
        ("GET", ("Sec-Fetch-Site: none",)),
        ("GET", ("Sec-Fetch-Site: same-site",)),
        ("GET", ("Sec-Fetch-Site: cross-site",)),
        ("GET", (SAME, "Sec-Fetch-Site: cross-site")),
        ("GET", ("Origin: null", SAME)),
        ("POST", ("Origin: http://evil.test", SAME)),
        ("GET", ("Origin: http://evil.test", SAME)),
        ("POST", (OWN, "Sec-Fetch-Site: cross-site")),
        ("POST", (OWN, OWN)),
    ],
)
async def test_nobody_else_gets_anything(
    port: int, method: str, headers: tuple[str, ...]
) -> None:
    answer = await call(port, method, (*headers, f"Cookie: dub_id={CLICK}"))

    assert answer.status == 403
    assert b"ticket" not in answer.raw_body


@pytest.mark.parametrize(
    ("cookie", "click"),
    [
        ("", None),
        ("dub_id=test", None),
        (signed_cookie(OTHER), OTHER),
        (signed_cookie(OTHER, used=True), None),
        (f"dub_id={CLICK}; {signed_cookie(OTHER)}", CLICK),
        ("dub_relay=forged.by.me", None),
    ],
    ids=["none", "no click id", "companion", "used", "both", "forged"],
)
async def test_the_cookie_counts_and_else_the_signed_cookie(
    port: int, cookie: str, click: str | None
) -> None:
    assert told(await call(port, "POST", (OWN, f"Cookie: {cookie}"))) == click
