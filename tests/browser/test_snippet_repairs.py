"""What Dub's script gets wrong with cookies, attributes and links, and the snippet not.

``/old/`` stands for Dub's way (see ``as_dub_does.js``): each test shows the fault
there first, so that it is known to be able to see it.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from urllib.parse import unquote

import pytest
from playwright.async_api import Page

from tests.support.snippet_rig import (
    CLICK,
    DAY,
    DISCOUNT,
    PARTNER,
    REFER,
    STUB,
    TRACKED,
    WITH_PARTNER,
    Site,
    a_while,
    click_of,
    clicked,
    cookies_of,
    settled,
    watched,
)

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

OLD = "/old/script.js"
NEW = "/_dub/script.js"


async def days(page: Page) -> float | None:
    """How long the click cookie lives; 0 for a session, None if there is none."""
    held = await cookies_of(page.context)
    if not held:
        return None
    (cookie,) = held
    left = (cookie["expires"] - time.time()) / DAY
    return round(left, 1) if cookie["expires"] > 0 else 0


async def test_nothing_that_is_no_click_is_stored(site: Site, visitor: Page) -> None:
    for query, old in (
        ("x;max-age=0", None),
        ("abcdefgh%3B%20max-age%3D60", 0),
        ("abcdefgh%3B%20path%3D/elsewhere%3Bx", 90),
        ("h%C3%A9llo12345", 90),
        ("test", 90),
        ("a%20b%20c%20d%20e", 90),
    ):
        await visitor.context.clear_cookies()
        site.carries(script=OLD)
        await visitor.goto(site.url(f"/?dub_id={query}"))
        assert await days(visitor) == old, query

        await visitor.context.clear_cookies()
        site.carries(script=NEW)
        await visitor.goto(site.url(f"/?dub_id={CLICK}"))
        await settled(visitor)
        await visitor.goto(site.url(f"/?dub_id={query}"))
        await settled(visitor)
        assert (await click_of(visitor), await days(visitor)) == (CLICK, 90), query


async def test_what_is_no_click_in_an_answer_is_not_stored_either(
    site: Site, visitor: Page
) -> None:
    site.carries(REFER)
    site.answers["click"] = [(200, {"clickId": "a; max-age=0"}), (200, {})]
    for _ in range(2):
        await visitor.goto(site.url("/?via=derek"))
        await settled(visitor)
    assert len(site.posted("click")) == 2
    assert await click_of(visitor) is None


async def test_a_cookies_life_is_what_the_options_say(
    site: Site, visitor: Page
) -> None:
    # As JSON.stringify writes the Date that the React component is given.
    in_twenty = time.strftime("%FT%T.000Z", time.gmtime(time.time() + 20 * DAY))
    for options, old, new in (
        ({"maxAge": 10 * DAY}, 90, 10),
        ({"max-age": 10 * DAY}, 10, 10),
        ({"expires": in_twenty}, 0, 20),
        ({"expires": "nonsense"}, 0, 90),
        ({"expires": None}, 0, 90),
        ({"maxAge": 5 * DAY, "expires": in_twenty}, 0, 5),
        ({"expires": "2099-12-31"}, 0, 400),  # the most that Chromium gives
        ({"expires": "2020-01-01"}, 0, None),
        ({"httpOnly": True}, None, 90),
        # Dub's script does these well; the stand-in leaves them out.
        ({"expiresInDays": 30}, ..., 30),
        ({"expiresInDays": "30"}, ..., 30),
        ({"expiresInDays": 0}, ..., 90),
        ({"expiresInDays": -1}, ..., None),
    ):
        attributes = {"data-cookie-options": json.dumps(options)}
        for script, expected in ((OLD, old), (NEW, new)):
            await visitor.context.clear_cookies()
            site.carries(attributes, script=script)
            await visitor.goto(site.url(f"/?dub_id={CLICK}"))
            if script == NEW:
                await settled(visitor)
            if expected is not ...:
                assert await days(visitor) == expected, (script, options)


async def test_cookie_options_mean_what_they_say(site: Site, visitor: Page) -> None:
    """Dub's writes all of these well but one: `sameSite=true` is no such value."""
    options: dict[str, Any]
    for options, name, expected in (
        ({"sameSite": True}, "sameSite", "Strict"),
        ({"sameSite": "strict"}, "sameSite", "Strict"),
        ({"sameSite": "lax"}, "sameSite", "Lax"),
        ({"domain": ".acme.test"}, "domain", ".acme.test"),
        ({"domain": ""}, "domain", "app.acme.test"),
        ({"domain": None}, "domain", "app.acme.test"),
        ({"path": "/shop"}, "path", "/shop"),
    ):
        attributes = {"data-cookie-options": json.dumps(options)}
        for script in (OLD, NEW):
            await visitor.context.clear_cookies()
            site.carries(attributes, script=script)
            await visitor.goto(site.url(f"/shop/?dub_id={CLICK}", "app.acme.test"))
            if script == NEW:
                await settled(visitor)
            (cookie,) = await cookies_of(visitor.context)
            meant = script == NEW or options != {"sameSite": True}
            assert (cookie[name] == expected) is meant, (script, options, cookie)


async def test_an_attribute_that_is_no_json_ends_nothing(
    site: Site, visitor: Page
) -> None:
    broken = {
        "data-cookie-options": "{broken",
        "data-domains": "{'refer': ",
        "data-short-domain": "go.acme.test",
        "data-query-params": "[ref",
    }
    said: list[str] = []
    visitor.on("console", lambda message: said.append(message.text))
    errors = watched(visitor)
    site.carries(broken, script=OLD)
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    assert errors
    assert await click_of(visitor) is None

    errors.clear()
    site.carries(broken, script=NEW)
    await visitor.goto(site.url("/?via=derek"))
    await clicked(visitor, TRACKED)
    assert site.posted("click")[0]["domain"] == "go.acme.test"
    assert await days(visitor) == 90
    assert errors == []
    assert {"JSON? {broken", "JSON? {'refer': ", "JSON? [ref"} <= set(said)


async def test_the_single_quotes_of_dubs_own_samples_are_taken(
    site: Site, visitor: Page
) -> None:
    quoted = {
        "data-domains": "{'refer': 'go.acme.test', 'outbound': ['a.test', 'b.test']}"
    }
    site.carries(quoted, script=OLD)
    await visitor.goto(site.url("/?via=derek"))
    assert await visitor.evaluate("typeof DubAnalytics") == "object"
    assert site.posted("click") == []

    site.carries({**quoted, "data-query-params": "['ref']"}, script=NEW)
    await visitor.goto(site.url("/?ref=derek"))
    body = (await site.called("click"))[0]
    assert (body["domain"], body["key"]) == ("go.acme.test", "derek")
    outbound = await visitor.evaluate("_dubAnalytics.n.outbound")
    assert outbound == ["a.test", "b.test"]


async def test_ready_fires_on_every_page(site: Site, visitor: Page) -> None:
    """Dub's waits for a partner's answer, and so is silent from the second page on."""
    counting = STUB + "window.seen = 0; dubAnalytics('ready', () => { seen += 1; });"
    site.answers["click"] = [(200, WITH_PARTNER)]
    fired = []
    await visitor.clock.install()
    for script in (OLD, NEW):
        for path in ("/?via=derek", "/", "/?a=1"):
            site.carries(REFER, script=script, before=counting)
            await visitor.goto(site.url(path))
            if "via" in path:
                await clicked(visitor, TRACKED)
            await a_while(visitor)
            fired.append(await visitor.evaluate("seen"))

    assert fired == [1, 0, 0, 1, 1, 1]


async def test_ready_comes_when_the_partner_is_known(site: Site, visitor: Page) -> None:
    site.answers["click"] = [(200, WITH_PARTNER)]
    site.held["click"] = asyncio.Event()
    name = "dubAnalytics('ready', () => seen.push(DubAnalytics.partner.name));"
    site.carries(REFER, before=f"{STUB} window.seen = []; {name}")
    await visitor.goto(site.url("/?via=derek"))
    await visitor.evaluate(f"void {name}")
    await site.called("click")
    assert await visitor.evaluate("seen") == []

    site.held["click"].set()
    await settled(visitor)
    assert await visitor.evaluate("seen") == [PARTNER["name"], PARTNER["name"]]


async def test_a_mistake_in_one_callback_is_the_pages_and_stops_no_other(
    site: Site, visitor: Page
) -> None:
    errors = watched(visitor)
    site.carries(
        before=STUB
        + "window.seen = [];"
        + "dubAnalytics('ready', () => { throw Error('a page mistake'); });"
        + "dubAnalytics('ready', () => seen.push('second'));"
    )
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await settled(visitor)

    assert await visitor.evaluate("seen") == ["second"]
    assert errors == ["a page mistake"]
    assert await click_of(visitor) == CLICK


async def test_partner_and_discount_are_decoded_on_later_pages(
    site: Site, visitor: Page
) -> None:
    site.answers["click"] = [(200, WITH_PARTNER)]
    site.carries(REFER)
    await visitor.goto(site.url("/?via=derek"))
    await clicked(visitor, TRACKED)

    site.carries(REFER, script=OLD)
    await visitor.goto(site.url())
    name = await visitor.evaluate("DubAnalytics.partner.name")
    assert name != PARTNER["name"]

    site.carries(REFER, script=NEW)
    await visitor.goto(site.url())
    known = {"partner": PARTNER, "discount": DISCOUNT}
    assert await visitor.evaluate("DubAnalytics") == known


async def partner_stored(page: Page) -> None:
    await page.wait_for_function("document.cookie.includes('dub_partner_data')")


async def test_nothing_in_a_partners_data_ends_the_cookie(
    site: Site, visitor: Page
) -> None:
    """Readers parse it as it is, or decode it before, and may stop at a "="."""
    partner = {**PARTNER, "tenantId": "a;b=c=="}
    answer = {**WITH_PARTNER, "partner": partner}
    site.answers["click"] = [(200, answer)]
    site.carries(REFER, script=OLD)
    await visitor.goto(site.url("/?via=derek"))
    await clicked(visitor, TRACKED)
    await partner_stored(visitor)
    (cut,) = await cookies_of(visitor.context, "dub_partner_data")
    assert cut["value"].endswith('"tenantId":"a')

    await visitor.context.clear_cookies()
    site.carries(REFER, script=NEW)
    await visitor.goto(site.url("/?via=derek"))
    await clicked(visitor, TRACKED)
    await partner_stored(visitor)
    (whole,) = await cookies_of(visitor.context, "dub_partner_data")
    assert "=" not in whole["value"]
    for text in (whole["value"], unquote(whole["value"])):
        assert json.loads(text)["partner"]["tenantId"] == "a;b=c=="
    await visitor.goto(site.url())
    assert await visitor.evaluate("DubAnalytics.partner") == partner


async def test_a_damaged_partner_cookie_ends_nothing(site: Site, visitor: Page) -> None:
    errors = watched(visitor)
    await visitor.goto(site.url())
    for held in ("{broken", "{}", '{"partner":{"name":"100%"}}', "1"):
        damage = "held => { document.cookie = 'dub_partner_data=' + held; }"
        await visitor.evaluate(damage, held)
        await visitor.goto(site.url(f"/?dub_id={CLICK}"))
        assert await visitor.evaluate("DubAnalytics.partner") is None, held
        assert await click_of(visitor) == CLICK
        await visitor.context.clear_cookies(name="dub_id")
    assert errors == []


async def test_no_stub_is_needed(site: Site, visitor: Page) -> None:
    site.carries(script=OLD)
    await visitor.goto(site.url())
    assert await visitor.evaluate("typeof dubAnalytics") == "undefined"

    site.carries(REFER, script=NEW)
    await visitor.goto(site.url())
    await visitor.evaluate("dubAnalytics.trackClick({key: 'derek'})")
    assert site.posted("click")[0]["key"] == "derek"
    assert await click_of(visitor) == TRACKED


LINK = '<a id="it" href="https://example.test/">It</a>'
DRAWN = '<svg><a id="it" href="https://example.test/"><text>It</text></a></svg>'
OUTBOUND = "/_dub/script.outbound-domains.js"
HREF = "document.getElementById('it').getAttribute('href')"
LISTED = {
    "data-domains": '{"refer": "go.acme.test", "outbound": ["example.test"]}',
}
BY_HAND = """
window.setInterval = look => { window.look = look; };
"""


async def linked(page: Page, click: str) -> None:
    """Wait until the link carries this click."""
    href = f"https://example.test/?dub_id={click}"
    await page.wait_for_function(f"{HREF} === '{href}'")


async def test_links_get_the_click_of_a_partners_landing_at_once(
    site: Site, visitor: Page
) -> None:
    """Dub's at its next look, which comes every two seconds; here it is called."""
    site.body = LINK
    site.carries(LISTED, script=OLD, before=BY_HAND)
    await visitor.goto(site.url("/?via=derek"))
    await clicked(visitor, TRACKED)
    assert await visitor.evaluate(HREF) == "https://example.test/"
    await visitor.evaluate("look()")
    await linked(visitor, TRACKED)

    await visitor.context.clear_cookies()
    site.carries(LISTED, script=OUTBOUND, before=BY_HAND)
    await visitor.goto(site.url("/?via=derek"))
    await linked(visitor, TRACKED)


async def test_a_newer_click_comes_to_links_that_have_one(
    site: Site, visitor: Page
) -> None:
    site.body = LINK
    newer = "dubAnalytics.trackClick({domain: 'go.acme.test', key: 'derek'})"
    for script in (OLD, OUTBOUND):
        site.carries(LISTED, script=script, before=STUB)
        await visitor.goto(site.url(f"/?dub_id={CLICK}"))
        await visitor.goto(site.url("/home"))
        await linked(visitor, CLICK)
        await visitor.evaluate(newer)
        await clicked(visitor, TRACKED)
        if script == OLD:
            # That looks at the links again.
            await visitor.evaluate("history.pushState({}, '', '/next')")
        await linked(visitor, CLICK if script == OLD else TRACKED)


async def test_a_link_in_a_drawing_gets_the_click(site: Site, visitor: Page) -> None:
    """Its `href` is no text, by which Dub's passes over it."""
    site.body = DRAWN + LINK.replace("it", "plain", 1)
    site.carries(LISTED, script=OLD)
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await visitor.wait_for_function("plain.href.includes('dub_id')")
    assert await visitor.evaluate(HREF) == "https://example.test/"

    site.carries(LISTED, script=OUTBOUND)
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await linked(visitor, CLICK)
