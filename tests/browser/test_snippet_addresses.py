"""Addresses that change without a page load, and addresses that are tidied up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.async_api import Page

from tests.support.snippet_rig import (
    ALL,
    CLICK,
    OTHER,
    REFER,
    STUB,
    TRACKED,
    WITH_PARTNER,
    Site,
    a_while,
    click_of,
    clicked,
    settled,
)

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

OLD = "/old/script.js"
NEW = "/_dub/script.js"

GOING = {
    "pushState": f"history.pushState({{}}, '', '/shop?dub_id={OTHER}')",
    "replaceState": f"history.replaceState({{}}, '', '/shop?dub_id={OTHER}')",
    "hash": f"location.hash = '#/shop?dub_id={OTHER}'",
}


@pytest.mark.parametrize("how", list(GOING))
async def test_a_click_in_a_later_address_is_kept(
    site: Site, visitor: Page, how: str
) -> None:
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    site.carries(script=OLD)
    await visitor.goto(site.url("/home"))
    await visitor.evaluate(GOING[how])
    assert await click_of(visitor) == CLICK

    site.carries()
    await visitor.goto(site.url("/home"))
    await visitor.evaluate(GOING[how])
    await clicked(visitor, OTHER)


GOES = """way => new Promise(done => {
  addEventListener('popstate', () => done(), {once: true});
  history[way]();
})"""


async def test_going_back_to_a_landing_counts_as_that_landing(
    site: Site, visitor: Page
) -> None:
    for script, kept in ((OLD, [CLICK] * 3), (NEW, [OTHER, CLICK, OTHER])):
        site.carries(script=script)
        await visitor.goto(site.url(f"/?dub_id={CLICK}"))
        await visitor.evaluate(GOING["pushState"])
        await clicked(visitor, kept[0])
        for way, click in zip(("back", "forward"), kept[1:], strict=True):
            await visitor.evaluate(GOES, way)
            await clicked(visitor, click)


@pytest.mark.parametrize(
    "path", [f"/#/pricing?dub_id={CLICK}&a=1", f"/app?a=1#!/x?b=2&dub_id={CLICK}"]
)
async def test_a_hash_routers_landing_is_one(
    site: Site, visitor: Page, path: str
) -> None:
    site.carries(script=OLD)
    await visitor.goto(site.url(path, "old.test"))
    assert await click_of(visitor) is None

    site.carries()
    await visitor.goto(site.url(path))
    assert await click_of(visitor) == CLICK


async def test_a_partners_parameter_counts_once_for_each_landing(
    site: Site, visitor: Page
) -> None:
    site.carries(REFER)
    await visitor.goto(site.url("/?via=derek"))
    for address in ("/a?via=derek", "/b", "/c?via=derek", "/d?via=grace", "/e"):
        await visitor.evaluate("to => history.pushState({}, '', to)", address)
        await settled(visitor)

    assert [each["key"] for each in site.posted("click")] == ["derek", "grace"]


async def test_the_pages_own_history_is_as_it_was(site: Site, visitor: Page) -> None:
    await visitor.goto(site.url())
    kept = await visitor.evaluate(
        f"(() => {{ const given = history.pushState({{a: 1}}, '', '/x?dub_id={CLICK}');"
        " return [given === undefined, history.state, location.pathname]; })()"
    )
    await clicked(visitor, CLICK)
    assert kept == [True, {"a": 1}, "/x"]
    refused = (
        "(() => { try { history.pushState({}, '', 'https://other.test/'); }"
        " catch (error) { return error.name; } })()"
    )
    assert await visitor.evaluate(refused) == "SecurityError"


CLEANED = [
    (f"/?dub_id={CLICK}", "/"),
    (f"/?dub_id={CLICK}&via=derek", "/"),
    (f"/?via=derek&dub_id={CLICK}&b=2", "/?b=2"),
    (f"/?a=1&dub_id={CLICK}&b&c=%20+x&via=d", "/?a=1&b&c=%20+x"),
    (f"/?a=1&dub_id={CLICK}#here", "/?a=1#here"),
    (f"/p?dub_id={CLICK}#/route?via=x&y=1", "/p#/route?y=1"),
    (f"/?x-via=1&my_dub_id=2&dub_id={CLICK}", "/?x-via=1&my_dub_id=2"),
]


@pytest.mark.parametrize("script", ["script.js", ALL])
async def test_a_clean_address_has_lost_nothing_else(
    site: Site, visitor: Page, script: str
) -> None:
    landing, _ = CLEANED[0]
    site.carries({"data-clean-url": ""}, script=OLD)
    await visitor.goto(site.url(landing))
    assert visitor.url == site.url(landing)

    site.carries({"data-clean-url": ""}, script=f"/_dub/{script}")
    for landing, cleaned in CLEANED:
        await visitor.goto("about:blank")
        await visitor.context.clear_cookies()
        await visitor.goto(site.url(landing))
        await visitor.wait_for_url(site.url(cleaned))
        assert await click_of(visitor) == CLICK


@pytest.mark.parametrize("script", ["script.js", ALL])
async def test_cleaning_keeps_the_history_and_the_clicks_whole_address(
    site: Site, visitor: Page, script: str
) -> None:
    site.answers["click"] = [(200, WITH_PARTNER)]
    site.carries(
        {**REFER, "data-clean-url": ""},
        script=f"/_dub/{script}",
        before="history.replaceState({scroll: 7}, '')",
    )
    landing = f"/?dub_id={CLICK}&via=derek&utm=x#top"
    await visitor.goto(site.url(landing))
    await visitor.wait_for_url(site.url("/?utm=x#top"))

    assert await visitor.evaluate("[history.state, history.length]") == [
        {"scroll": 7},
        2,
    ]
    assert site.posted("click")[0]["url"] == site.url(landing)
    await visitor.evaluate("history.pushState({own: 1}, '', '/next?via=grace&b=1')")
    await visitor.wait_for_url(site.url("/next?b=1"))
    assert await visitor.evaluate("history.state") == {"own": 1}


@pytest.mark.parametrize("attributes", [{}, {"data-clean-url": "false"}])
async def test_an_address_is_left_alone_unless_asked(
    site: Site, visitor: Page, attributes: dict[str, str]
) -> None:
    await visitor.clock.install()
    site.carries(attributes)
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await settled(visitor)
    await a_while(visitor, 200)

    assert visitor.url.endswith(f"?dub_id={CLICK}")
    assert await click_of(visitor) == CLICK


async def test_a_click_that_could_not_be_tracked_stays_in_the_address(
    site: Site, visitor: Page
) -> None:
    site.answers["click"] = [(404, {"error": {"code": "not_found"}})]
    await visitor.clock.install()
    site.carries({**REFER, "data-clean-url": ""})
    await visitor.goto(site.url("/?via=nobody"))
    await settled(visitor)
    await a_while(visitor, 200)

    assert visitor.url.endswith("/?via=nobody")
    assert len(site.posted("click")) == 1


HEARING = (
    "window.heard = [];"
    "for (const name of ['ready', 'click', 'lead', 'sale'])"
    "  document.addEventListener('dub:' + name,"
    "    event => heard.push([name, event.detail]));"
)


async def test_the_document_hears_of_what_happens(site: Site, visitor: Page) -> None:
    """Dub's tells it nothing."""
    keyed = {**REFER, "data-publishable-key": "dub_pk_x"}
    site.answers["click"] = [(200, WITH_PARTNER)]
    site.carries(keyed, script=OLD, before=STUB + HEARING)
    await visitor.goto(site.url("/?via=derek"))
    await clicked(visitor, TRACKED)
    await visitor.evaluate("dubAnalytics.trackLead({eventName: 'A'})")
    await site.called("lead/client")
    assert await visitor.evaluate("heard") == []

    site.calls.clear()
    await visitor.context.clear_cookies()
    lead = {"click": {"id": TRACKED}, "customer": {"externalId": "u_1"}}
    site.answers = {
        "click": [(200, WITH_PARTNER)],
        "lead/client": [(200, lead), (404, {"error": {"code": "not_found"}})],
    }
    site.carries(keyed, script=f"/_dub/{ALL}", before=HEARING)
    await visitor.goto(site.url(f"/?dub_id={CLICK}&via=derek"))
    await settled(visitor)
    await visitor.evaluate("dubAnalytics.trackLead({eventName: 'A'})")
    await visitor.evaluate("dubAnalytics.trackLead({eventName: 'B'})")

    heard = json.loads(await visitor.evaluate("JSON.stringify(heard)"))
    known = {key: WITH_PARTNER[key] for key in ("partner", "discount")}
    assert heard == [
        ["click", {"clickId": CLICK}],
        ["click", WITH_PARTNER],
        ["ready", known],
        ["lead", lead],
    ]


SHARED = json.loads(
    (Path(__file__).parents[1] / "support/addresses.json").read_text(encoding="utf-8")
)
"""As the server reads them (tests/unit/test_cookies.py)."""


async def test_the_script_keeps_the_click_of_an_address_as_the_server_does(
    site: Site, visitor: Page
) -> None:
    site.carries()
    for address, click in SHARED:
        await visitor.context.clear_cookies()
        await visitor.goto(site.url(address))
        await settled(visitor)
        assert await click_of(visitor) == click, address


async def test_the_navigation_api_is_seen_like_push_state(
    site: Site, visitor: Page
) -> None:
    """As a router does it that intercepts links."""
    intercept = (
        "navigation.addEventListener('navigate', event => event.canIntercept &&"
        " event.intercept({handler: async () => {}}));"
    )
    site.carries(before=intercept)
    await visitor.goto(site.url("/"))
    await settled(visitor)
    await visitor.evaluate("to => { navigation.navigate(to); }", f"/?dub_id={CLICK}")
    await clicked(visitor, CLICK)
    site.body = f"<a id='link' href='/x?dub_id={OTHER}'>x</a>"
    await visitor.evaluate(
        "html => { document.body.innerHTML = html; link.click(); }", site.body
    )
    await clicked(visitor, OTHER)


async def test_a_prerendered_page_keeps_its_click_when_it_is_shown(
    site: Site, visitor: Page
) -> None:
    prerendering = (
        "let hidden = true;"
        "Object.defineProperty(document, 'prerendering', {get: () => hidden});"
        "self.show = () => { hidden = false;"
        " document.dispatchEvent(new Event('prerenderingchange')); };"
    )
    site.carries(REFER, before=STUB + prerendering)
    await visitor.goto(site.url(f"/?dub_id={CLICK}&via=derek"))
    await a_while(visitor)
    assert await click_of(visitor) is None
    assert site.calls == []

    await visitor.evaluate("show()")
    await clicked(visitor, TRACKED)
    assert site.posted("click")[0]["key"] == "derek"


async def test_what_is_ready_comes_after_a_click_that_the_page_tracks(
    site: Site, visitor: Page
) -> None:
    """As with Dub's own script: a page asks for the partner of its own call."""
    site.answers["click"] = [(200, WITH_PARTNER)]
    asked = (
        "dubAnalytics.trackClick({domain: 'd.test', key: 'a'});"
        "dubAnalytics('ready', it => { self.seen = it.partner; });"
    )
    site.carries(before=STUB + asked)
    await visitor.goto(site.url("/"))
    await visitor.wait_for_function("'seen' in self")
    assert await visitor.evaluate("self.seen") == WITH_PARTNER["partner"]


async def test_a_domain_that_the_browser_does_not_take_costs_no_click(
    site: Site, visitor: Page
) -> None:
    site.domain = ".other.test"
    site.carries()
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await clicked(visitor, CLICK)
    [kept] = [c for c in await visitor.context.cookies() if c["name"] == "dub_id"]
    assert kept["domain"] == "www.acme.test"


async def test_of_several_cookies_the_newest_counts_and_all_are_removed(
    site: Site, visitor: Page
) -> None:
    site.carries()
    await visitor.goto(site.url("/"))
    await settled(visitor)
    older = f"dub_id={CLICK}; domain=acme.test; path=/"
    newer = f"dub_id={OTHER}; path=/"
    write = "cookie => { document.cookie = cookie; }"
    await visitor.evaluate(write, older)
    await visitor.wait_for_timeout(20)
    await visitor.evaluate(write, newer)
    get = "_dubAnalytics.c.get('dub_id')"
    assert await visitor.evaluate(get) == OTHER, await visitor.evaluate(
        "document.cookie"
    )

    await visitor.evaluate("dubAnalytics('consent', 'denied')")
    await clicked(visitor, None)
