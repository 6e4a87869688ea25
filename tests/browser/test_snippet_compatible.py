"""What Dub's script does, attribute by attribute, call by call, the snippet does."""

from __future__ import annotations

import json
import time
from urllib.parse import quote

import pytest
from playwright.async_api import Page

from relay.core.http.cookies import Attribution
from tests.support.snippet_rig import (
    ALL,
    CLICK,
    DAY,
    DISCOUNT,
    OTHER,
    PARTNER,
    REFER,
    STUB,
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


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("www.acme.test", ".acme.test"),
        ("www.app.acme.test", ".app.acme.test"),
        ("localhost", "localhost"),
        ("app.localhost", "app.localhost"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
async def test_the_click_cookie_has_dubs_value_domain_path_and_life(
    site: Site, visitor: Page, host: str, domain: str
) -> None:
    await visitor.goto(site.url(f"/pricing?a=1&dub_id={CLICK}", host))

    # At once: code below the tag reads it.
    assert await visitor.evaluate("document.cookie") == f"dub_id={CLICK}"
    (cookie,) = await cookies_of(visitor.context)
    assert (cookie["value"], cookie["domain"], cookie["path"]) == (CLICK, domain, "/")
    assert (cookie["sameSite"], cookie["secure"]) == ("Lax", False)
    assert cookie["httpOnly"] is False
    assert abs(cookie["expires"] - time.time() - 90 * DAY) < 300


@pytest.mark.parametrize(
    ("attributes", "default", "kept"),
    [
        ({}, "last-click", OTHER),
        ({"data-attribution-model": "last-click"}, "first-click", OTHER),
        ({"data-attribution-model": "first-click"}, "last-click", CLICK),
        ({"data-attribution-model": "First-Click"}, "last-click", OTHER),
        ({}, "first-click", CLICK),
    ],
)
async def test_the_attribution_model_decides_between_two_clicks(
    site: Site,
    visitor: Page,
    attributes: dict[str, str],
    default: Attribution,
    kept: str,
) -> None:
    site.attribution = default
    # The server has its own setting, and is not asked here.
    site.carries(attributes, script=site.url("/_dub/script.js", "cdn.test"))
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await visitor.goto(site.url(f"/?dub_id={OTHER}"))

    assert await click_of(visitor) == kept


async def test_a_partners_parameter_is_tracked_and_its_answer_stored(
    site: Site, visitor: Page
) -> None:
    site.carries(REFER)
    site.answers["click"] = [(200, WITH_PARTNER)]
    await visitor.goto(site.url("/?via=%20J%C3%B6hn/x%20", "other.test"))
    await visitor.goto(
        site.url("/?via=%20J%C3%B6hn/x%20"), referer="https://blog.test/"
    )

    body = (await site.called("click", 2))[1]
    assert body == {
        "domain": "go.acme.test",
        "key": " Jöhn/x ",
        "url": site.url("/?via=%20J%C3%B6hn/x%20"),
        "referrer": "https://blog.test/",
    }
    assert site.calls[-1].headers["Content-Type"] == "application/json"
    await clicked(visitor, TRACKED)
    await settled(visitor)
    (partner,) = [
        each
        for each in await cookies_of(visitor.context, "dub_partner_data")
        if each["domain"] == ".acme.test"
    ]
    image = str(PARTNER["image"])
    encoded = {
        **PARTNER,
        "name": quote(str(PARTNER["name"]), safe="'"),
        "image": quote(image, safe=""),
    }
    expected = {"clickId": TRACKED, "partner": encoded, "discount": DISCOUNT}
    raw = json.dumps(expected, separators=(",", ":"), ensure_ascii=False)
    assert partner["value"] == raw
    assert await visitor.evaluate("DubAnalytics") == {
        "partner": PARTNER,
        "discount": DISCOUNT,
    }


async def test_custom_parameters_come_before_via(site: Site, visitor: Page) -> None:
    for attributes, key in (
        ({"data-query-params": '["ref", "from"]'}, "r"),
        ({"data-query-params": '["from", "ref"]'}, "f"),
        ({"data-query-params": '["nothing"]'}, "v"),
        ({"data-query-param": "from", "data-query-params": '["ref"]'}, "f"),
        ({"data-query-param": "nothing"}, "v"),
        ({}, "v"),
    ):
        site.calls.clear()
        site.carries({**REFER, **attributes})
        await visitor.goto(site.url("/?via=v&ref=r&from=f&ref=second"))
        assert (await site.called("click"))[0]["key"] == key, attributes
        assert await visitor.evaluate("_dubAnalytics.v") == key


async def test_the_refer_domain_has_an_older_name(site: Site, visitor: Page) -> None:
    new, old = "go.acme.test", "old.acme.test"
    both = {"data-short-domain": old, "data-domains": '{"site": "s.test"}'}
    for attributes, domain, config in (
        (REFER, new, {"refer": new}),
        ({"data-short-domain": old}, old, {"refer": old}),
        ({**REFER, "data-short-domain": old}, new, {"refer": new}),
        (both, old, {"refer": old, "site": "s.test"}),
    ):
        site.calls.clear()
        site.carries(attributes)
        await visitor.goto(site.url("/?via=derek"))
        assert (await site.called("click"))[0]["domain"] == domain, attributes
        seen = await visitor.evaluate("[_dubAnalytics.d, _dubAnalytics.n]")
        assert seen == [domain, config]


async def test_without_a_refer_domain_via_means_nothing(
    site: Site, visitor: Page
) -> None:
    await visitor.goto(site.url("/?via=derek"))
    await settled(visitor)
    assert site.posted("click") == []
    assert await click_of(visitor) is None

    site.carries(REFER)
    await visitor.goto(site.url("/?via=derek"))
    await clicked(visitor, TRACKED)


async def test_the_globals_are_there_and_nothing_else_leaks(
    site: Site, visitor: Page
) -> None:
    names = "Object.getOwnPropertyNames(window)"
    site.head = ""
    await visitor.goto(site.url())
    before = set(await visitor.evaluate(names))
    site.carries({"data-publishable-key": "dub_pk_x", "data-sdkn": "@dub/analytics"})
    await visitor.goto(site.url())
    after = set(await visitor.evaluate(names))

    # Playwright's own come at times between the two.
    added = {name for name in after - before if not name.startswith("__pw")}
    assert added == {"dubAnalytics", "DubAnalytics", "_dubAnalytics"}
    assert await visitor.evaluate("DubAnalytics") == {"partner": None, "discount": None}
    seen = "(({i, h, a, k}) => ({i, h, a, k}))(_dubAnalytics)"
    assert await visitor.evaluate(seen) == {
        "i": "dub_id",
        "h": "www.acme.test",
        "a": "/api",
        "k": "dub_pk_x",
    }
    await visitor.evaluate("_dubAnalytics.c.set('own', '1')")
    assert await visitor.evaluate("_dubAnalytics.c.get('own')") == "1"
    assert await visitor.evaluate("typeof _dubAnalytics.qm") == "object"


async def test_the_browser_calls_dub_itself_unless_told_otherwise(
    site: Site, visitor: Page
) -> None:
    site.head = '<script src="/_dub/script.js"></script>'
    await visitor.goto(site.url())

    assert await visitor.evaluate("_dubAnalytics.a") == "https://api.dub.co"


async def test_calls_to_another_host_carry_no_cookies(
    site: Site, visitor: Page
) -> None:
    api = site.url("", "api.dub.test")
    site.carries({**REFER, "data-api-host": api})
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await visitor.goto(site.url("/?via=derek"))

    await clicked(visitor, TRACKED)
    (call,) = [call for call in site.calls if call.path.endswith("click")]
    assert call.headers["Host"] == api.removeprefix("http://")
    assert "Cookie" not in call.headers


async def test_what_the_stub_queued_is_done_arguments_and_arrays(
    site: Site, visitor: Page
) -> None:
    site.carries(
        {"data-publishable-key": "dub_pk_x"},
        script=f"/_dub/{ALL}",
        before=STUB
        + "window.seen = [];"
        + "dubAnalytics('ready', () => seen.push('ready'));"
        + "dubAnalytics.trackClick({domain: 'go.acme.test', key: 'a'});"
        + "dubAnalytics.trackLead({eventName: 'Sign Up'});"
        + "dubAnalytics.q.push(['trackSale', {amount: 1, invoiceId: 'i'}]);",
    )
    await visitor.goto(site.url())

    assert (await site.called("click"))[0]["key"] == "a"
    lead = {"clickId": TRACKED, "eventName": "Sign Up"}
    assert await site.called("lead/client") == [lead]
    sale = {"clickId": TRACKED, "amount": 1, "invoiceId": "i"}
    assert await site.called("sale/client") == [sale]
    assert await visitor.evaluate("seen") == ["ready"]
    conversions = [call for call in site.calls if call.path.endswith("/client")]
    authorized = {call.headers["Authorization"] for call in conversions}
    assert authorized == {"Bearer dub_pk_x"}


async def test_one_click_a_page(site: Site, visitor: Page) -> None:
    queued = "dubAnalytics.trackClick({key: 'queued'});"
    site.carries(REFER, before=f"{STUB} if (location.search) {queued}")
    await visitor.goto(site.url("/?via=first"))
    await visitor.evaluate("dubAnalytics.trackClick({key: 'second'})")
    await visitor.evaluate("dubAnalytics('trackClick', {key: 'third'})")
    assert [each["key"] for each in site.posted("click")] == ["first"]

    await visitor.goto(site.url())
    await visitor.evaluate(
        "dubAnalytics.trackClick({domain: 'd.test', key: 'by hand'})"
    )
    await visitor.evaluate("dubAnalytics.trackClick({domain: 'd.test', key: 'again'})")
    assert [each["key"] for each in site.posted("click")] == ["first", "by hand"]


async def test_the_page_may_name_another_click_id_for_a_lead(
    site: Site, visitor: Page
) -> None:
    site.carries({"data-publishable-key": "dub_pk_x"}, script=f"/_dub/{ALL}")
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await visitor.evaluate("dubAnalytics.trackLead({eventName: 'A'})")
    await visitor.evaluate("dubAnalytics.trackLead({eventName: 'B', clickId: 'x'})")
    await visitor.evaluate(
        "dubAnalytics.trackLead({eventName: 'C', clickId: undefined})"
    )
    await visitor.context.clear_cookies()
    await visitor.evaluate("dubAnalytics.trackLead({eventName: 'D'})")

    clicks = [each.get("clickId") for each in site.posted("lead/client")]
    assert clicks == [CLICK, "x", None, ""]


@pytest.mark.parametrize(
    ("path", "held", "posts"),
    [("/?a=1", None, 1), ("/?via=derek", None, 0), ("/", CLICK, 0)],
)
async def test_a_visit_is_tracked_when_nothing_else_is_known(
    site: Site, visitor: Page, path: str, held: str | None, posts: int
) -> None:
    domains = '{"refer": "go.acme.test", "site": "s.acme.test"}'
    site.carries({"data-domains": domains}, script="/_dub/script.site-visit.js")
    if held:
        await visitor.context.add_cookies(
            [{"name": "dub_id", "value": held, "url": site.url()}]
        )
    await visitor.goto(site.url(path))
    await settled(visitor)

    visit = {"domain": "s.acme.test", "url": site.url(path), "referrer": ""}
    assert site.posted("visit") == [visit] * posts
    await clicked(visitor, held or TRACKED)
    await visitor.context.clear_cookies()
    await visitor.goto(site.url("/again"))
    assert len(await site.called("visit", posts + 1)) == posts + 1


async def test_a_visit_is_tracked_once_a_page(site: Site, visitor: Page) -> None:
    site.answers["visit"] = [(404, {"error": {"code": "not_found"}})]
    site.carries(
        {"data-domains": '{"site": "s.acme.test"}'}, script="/_dub/script.site-visit.js"
    )
    await visitor.goto(site.url())
    for address in ("/a", "/b?x=1"):
        await visitor.evaluate("to => history.pushState({}, '', to)", address)
        await settled(visitor)

    assert len(site.posted("visit")) == 1


@pytest.mark.parametrize(
    ("setting", "subdomain"), [(None, None), (".acme.test", CLICK)], ids=["", "wider"]
)
async def test_which_hosts_share_a_click(
    site: Site, visitor: Page, setting: str | None, subdomain: str | None
) -> None:
    """As with Dub's: but RELAY_COOKIE_DOMAIN widens it for pages on a subdomain."""
    site.domain = setting
    site.carries({}, script=site.url("/_dub/script.js", "cdn.test"))
    await visitor.goto(site.url(f"/?dub_id={CLICK}", "www.acme.test"))
    for host, click in (
        ("acme.test", CLICK),
        ("app.acme.test", CLICK),
        ("acme.test.evil.test", None),
        ("other.test", None),
    ):
        await visitor.goto(site.url("/", host))
        assert await click_of(visitor) == click, host

    await visitor.context.clear_cookies()
    await visitor.goto(site.url(f"/?dub_id={CLICK}", "app.acme.test"))
    await visitor.goto(site.url("/", "www.acme.test"))
    assert await click_of(visitor) == subdomain


async def test_an_extension_that_was_not_loaded_does_nothing(
    site: Site, visitor: Page
) -> None:
    errors = watched(visitor)
    attributes = {
        "data-domains": '{"site": "s.acme.test"}',
        "data-publishable-key": "dub_pk_x",
    }
    site.carries(attributes, before=STUB)
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await clicked(visitor, CLICK)
    await visitor.evaluate("dubAnalytics.trackLead({eventName: 'A'})")
    await visitor.evaluate("dubAnalytics('trackSale', {amount: 1})")
    await visitor.evaluate("dubAnalytics('nonsense')")
    await settled(visitor)

    assert {call.path for call in site.calls} <= {"/_dub/cookie"}
    assert errors == []


async def test_the_settings_of_the_relay_are_the_defaults(
    site: Site, visitor: Page
) -> None:
    site.domain, site.days = ".acme.test", 30
    site.carries({}, script=site.url("/_dub/script.js", "cdn.test"))
    await visitor.goto(site.url(f"/?dub_id={CLICK}", "app.acme.test"))

    (cookie,) = await cookies_of(visitor.context)
    assert cookie["domain"] == ".acme.test"
    assert abs(cookie["expires"] - time.time() - 30 * DAY) < 300
