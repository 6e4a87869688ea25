"""The corners of Dub's attributes and parameters, and each file with its extensions."""

from __future__ import annotations

import json

import pytest
from playwright.async_api import Page

from relay.capture.snippet import NAMES
from tests.support.snippet_rig import (
    ALL,
    CLICK,
    OTHER,
    PARTNER,
    REFER,
    TRACKED,
    WITH_PARTNER,
    Site,
    click_of,
    clicked,
    cookies_of,
    settled,
    watched,
)

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

FIRST = {"data-attribution-model": "first-click"}
KEY = {"data-publishable-key": "dub_pk_x"}
LEAD = "dubAnalytics.trackLead({eventName: 'Sign Up'})"
LINK = "https://example.test/"


@pytest.mark.parametrize("name", NAMES)
async def test_each_file_has_exactly_the_extensions_of_its_name(
    site: Site, visitor: Page, name: str
) -> None:
    site.answers["visit"] = [(404, {"error": {"code": "not_found"}})]
    domains = {"site": "s.acme.test", "outbound": ["example.test"]}
    site.carries({**KEY, "data-domains": json.dumps(domains)}, script=f"/_dub/{name}")
    site.body = f'<a href="{LINK}">It</a>'
    await visitor.goto(site.url())
    await settled(visitor)
    assert len(site.posted("visit")) == ("site-visit" in name)

    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await settled(visitor)
    added = f"?dub_id={CLICK}" if "outbound-domains" in name else ""
    assert await visitor.evaluate("document.links[0].href") == LINK + added

    methods = "[dubAnalytics.trackLead, dubAnalytics.trackSale].map(it => typeof it)"
    there = "conversion-tracking" in name
    expected = ["function" if there else "undefined"] * 2
    assert await visitor.evaluate(methods) == expected
    await visitor.evaluate("dubAnalytics('trackLead', {eventName: 'A'})")
    await visitor.evaluate("dubAnalytics('trackSale', {amount: 1})")
    assert site.posted("lead/client") == [{"clickId": CLICK, "eventName": "A"}] * there
    assert site.posted("sale/client") == [{"clickId": CLICK, "amount": 1}] * there
    assert await visitor.evaluate("typeof dubAnalytics.trackClick") == "function"


async def test_an_empty_api_host_is_dubs(site: Site, visitor: Page) -> None:
    site.carries({"data-api-host": ""})
    await visitor.goto(site.url())

    assert await visitor.evaluate("_dubAnalytics.a") == "https://api.dub.co"


async def test_a_slash_at_the_api_hosts_end_is_doubled(
    site: Site, visitor: Page
) -> None:
    site.carries({**REFER, "data-api-host": "/api/"})
    await visitor.goto(site.url("/?via=derek"))
    await clicked(visitor, TRACKED)

    paths = [call.path for call in site.calls if call.path.endswith("click")]
    assert paths == ["/api//track/click"]


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        (f"dub_id={CLICK}&dub_id={OTHER}", CLICK),
        ("dub_id=", None),
        (f"dub_id=&dub_id={OTHER}", OTHER),
        (f"DUB_ID={CLICK}", None),
        (f"Dub_Id={CLICK}&dub_id={OTHER}", OTHER),
        (f"xdub_id={CLICK}", None),
    ],
)
async def test_the_first_dub_id_counts_and_its_letters_case(
    site: Site, visitor: Page, query: str, kept: str | None
) -> None:
    await visitor.goto(site.url(f"/?{query}"))
    await settled(visitor)

    assert await click_of(visitor) == kept


async def test_an_empty_dub_id_takes_no_click_away(site: Site, visitor: Page) -> None:
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await visitor.goto(site.url("/?dub_id="))
    await settled(visitor)

    assert await click_of(visitor) == CLICK


async def test_a_click_that_the_page_tracks_replaces_the_first(
    site: Site, visitor: Page
) -> None:
    """The model is for what addresses bring: the page knows what it does."""
    site.carries({**REFER, **FIRST}, script=site.url("/_dub/script.js", "cdn.test"))
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await visitor.goto(site.url("/"))
    await visitor.evaluate("dubAnalytics.trackClick({key: 'derek'})")

    assert await click_of(visitor) == TRACKED


@pytest.mark.parametrize(
    ("attributes", "held", "kept", "posts"),
    [
        ({}, None, TRACKED, 1),
        ({}, OTHER, TRACKED, 1),
        (FIRST, None, TRACKED, 1),
        (FIRST, OTHER, OTHER, 0),
    ],
    ids=["last", "last, held", "first", "first, held"],
)
async def test_which_click_is_kept_of_dub_id_and_via(
    site: Site,
    visitor: Page,
    attributes: dict[str, str],
    held: str | None,
    kept: str,
    posts: int,
) -> None:
    site.answers["click"] = [(200, WITH_PARTNER)]
    site.carries({**REFER, **attributes})
    if held:
        await visitor.context.add_cookies(
            [{"name": "dub_id", "value": held, "domain": ".acme.test", "path": "/"}]
        )
    await visitor.goto(site.url(f"/?dub_id={CLICK}&via=derek"))
    await settled(visitor)

    assert len(site.posted("click")) == posts
    assert await click_of(visitor) == kept
    partner = await visitor.evaluate("DubAnalytics.partner")
    assert partner == (PARTNER if posts else None)


async def test_dub_id_is_kept_if_via_is_of_no_link(site: Site, visitor: Page) -> None:
    site.answers["click"] = [(404, {"error": {"code": "not_found"}})]
    site.carries(REFER)
    await visitor.goto(site.url(f"/?dub_id={CLICK}&via=nobody"))
    await settled(visitor)

    assert len(site.posted("click")) == 1
    assert await click_of(visitor) == CLICK


async def test_via_tracks_nothing_under_first_click_where_a_click_is_known(
    site: Site, visitor: Page
) -> None:
    site.carries({**REFER, **FIRST})
    await visitor.goto(site.url("/?via=first"))
    await clicked(visitor, TRACKED)
    await visitor.goto(site.url("/?via=second"))
    await settled(visitor)

    assert [each["key"] for each in site.posted("click")] == ["first"]


@pytest.mark.parametrize("image", [None, ""])
async def test_a_partner_without_an_image_has_none(
    site: Site, visitor: Page, image: str | None
) -> None:
    partner = {**PARTNER, "image": image}
    site.answers["click"] = [(200, {**WITH_PARTNER, "partner": partner})]
    site.carries(REFER)
    await visitor.goto(site.url("/?via=derek"))
    await settled(visitor)
    (cookie,) = await cookies_of(visitor.context, "dub_partner_data")
    assert json.loads(cookie["value"])["partner"]["image"] == image
    assert await visitor.evaluate("DubAnalytics.partner") == partner

    await visitor.goto(site.url())
    assert await visitor.evaluate("DubAnalytics.partner") == partner


@pytest.mark.parametrize(
    ("options", "host", "secure"),
    [
        ({"secure": True}, "localhost", True),
        ({"secure": False}, "localhost", False),
        ({"secure": True, "sameSite": "none"}, "localhost", True),
        ({"secure": True}, "www.acme.test", None),
        ({"sameSite": "none"}, "www.acme.test", None),
        # A Domain that it refuses is left out.
        ({"domain": ".other.test"}, "www.acme.test", False),
    ],
)
async def test_what_a_browser_refuses_is_no_cookie_and_no_fault(
    site: Site,
    visitor: Page,
    options: dict[str, object],
    host: str,
    secure: bool | None,
) -> None:
    """Secure needs https, or localhost; Domain the page's own site."""
    errors = watched(visitor)
    attributes = {**KEY, "data-cookie-options": json.dumps(options)}
    site.carries(attributes, script=f"/_dub/{ALL}")
    await visitor.goto(site.url(f"/?dub_id={CLICK}", host))
    await settled(visitor)
    await visitor.evaluate(LEAD)

    kept = [each["secure"] for each in await cookies_of(visitor.context)]
    assert kept == ([] if secure is None else [secure])
    (lead,) = site.posted("lead/client")
    assert lead["clickId"] == (CLICK if kept else "")
    assert errors == []


async def test_a_visit_counts_beside_a_via_that_means_nothing(
    site: Site, visitor: Page
) -> None:
    """Without a refer domain there is no other click to wait for."""
    site.carries(
        {"data-domains": '{"site": "s.acme.test"}'}, script="/_dub/script.site-visit.js"
    )
    await visitor.goto(site.url("/?via=derek"))
    await clicked(visitor, TRACKED)

    assert (await site.called("visit"))[0]["url"] == site.url("/?via=derek")
    assert site.posted("click") == []


async def test_of_two_cookies_the_newest_counts(site: Site, visitor: Page) -> None:
    """A page of a subdomain may have one of its own beside that of the whole site."""
    site.carries(KEY, script=f"/_dub/{ALL}")
    for host, click in (("app.acme.test", CLICK), ("acme.test", OTHER)):
        await visitor.context.add_cookies(
            [{"name": "dub_id", "value": click, "domain": f".{host}", "path": "/"}]
        )
    await visitor.goto(site.url("/", "app.acme.test"))
    held = await visitor.evaluate("document.cookie")
    assert held == f"dub_id={CLICK}; dub_id={OTHER}"
    await visitor.evaluate(LEAD)

    assert site.posted("lead/client")[0]["clickId"] == OTHER


async def test_a_click_that_the_page_tracks_replaces_that_of_the_address(
    site: Site, visitor: Page
) -> None:
    """Dub's 0.0.32 keeps the address's, and forgets the partner of the other."""
    site.answers["click"] = [(200, WITH_PARTNER)]
    site.carries(REFER)
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await settled(visitor)
    assert await click_of(visitor) == CLICK
    await visitor.evaluate("dubAnalytics.trackClick({key: 'derek'})")

    assert await click_of(visitor) == TRACKED
    assert await visitor.evaluate("DubAnalytics.partner") == PARTNER
