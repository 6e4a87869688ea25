"""The click cookie that the site's own server keeps, as the snippet asks it to."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from playwright.async_api import Page

from tests.support.snippet_rig import (
    CLICK,
    DAY,
    OTHER,
    REFER,
    TRACKED,
    Site,
    click_of,
    cookies_of,
    settled,
    watched,
)

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


def told(site: Site) -> list[Any]:
    """What pages have posted to the server's cookie endpoint: addresses, bodies."""
    return [
        (f"http://{call.headers['Host']}{call.path}", json.loads(call.body))
        for call in site.calls
        if call.path.endswith("/cookie")
    ]


async def test_a_landing_is_told_once_and_the_signed_cookie_comes(
    site: Site, visitor: Page
) -> None:
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await settled(visitor)
    for path in ("/pricing", "/signup"):
        await visitor.goto(site.url(path))
        await settled(visitor)

    assert told(site) == [(site.url("/_dub/cookie"), {"dub_id": CLICK})]
    (click,) = await cookies_of(visitor.context)
    assert (click["value"], click["domain"]) == (CLICK, ".acme.test")
    assert abs(click["expires"] - time.time() - 90 * DAY) < 300
    (signed_cookie,) = await cookies_of(visitor.context, "dub_relay")
    assert signed_cookie["httpOnly"] is True
    assert "dub_relay" not in await visitor.evaluate("document.cookie")


async def test_a_tracked_click_is_told_too(site: Site, visitor: Page) -> None:
    site.carries(REFER)
    await visitor.goto(site.url("/?via=derek"))
    await settled(visitor)

    assert [body for _, body in told(site)] == [{"dub_id": TRACKED}]


async def test_each_landing_of_a_single_page_app_is_told(
    site: Site, visitor: Page
) -> None:
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await visitor.evaluate(f"history.pushState({{}}, '', '/?dub_id={OTHER}')")
    await settled(visitor)

    assert [body["dub_id"] for _, body in told(site)] == [CLICK, OTHER]


async def test_a_lost_click_is_restored(site: Site, visitor: Page) -> None:
    """Safari forgets a script's cookie after seven days; here it is taken away."""
    site.carries(script="/old/script.js")
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await visitor.context.clear_cookies(name="dub_id")
    await visitor.goto(site.url("/signup"))
    assert await click_of(visitor) is None

    site.carries()
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await settled(visitor)
    await visitor.context.clear_cookies(name="dub_id")

    later = await visitor.context.new_page()  # another session
    site.calls.clear()
    await later.goto(site.url("/signup"))
    await settled(later)

    assert [body for _, body in told(site)] == [{}]
    assert await click_of(later) == CLICK


async def test_who_never_had_a_click_asks_once_in_a_session(
    site: Site, visitor: Page
) -> None:
    for path in ("/", "/a", "/b"):
        await visitor.goto(site.url(path))
        await settled(visitor)

    assert [body for _, body in told(site)] == [{}]
    assert await click_of(visitor) is None


@pytest.mark.parametrize("mount", ["/_proxy/dub", "/deep/er"])
async def test_the_prefix_is_where_the_script_came_from(
    site: Site, visitor: Page, mount: str
) -> None:
    site.carries(script=f"{mount}/script.js?v=1/2")
    await visitor.goto(site.url(f"/some/page?dub_id={CLICK}"))
    await settled(visitor)

    assert [url for url, _ in told(site)] == [site.url(f"{mount}/cookie")]


@pytest.mark.parametrize("host", ["cdn.acme.test", "www.acme.test.evil.test"])
async def test_a_script_from_another_origin_tells_nobody(
    site: Site, visitor: Page, host: str
) -> None:
    site.carries(script=site.url("/_dub/script.js", host))
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await settled(visitor)

    assert told(site) == []
    assert await click_of(visitor) == CLICK


async def test_a_cookie_with_options_of_the_page_is_the_scripts_alone(
    site: Site, visitor: Page
) -> None:
    """The server, which does not know them, would make a second one: it only hears."""
    options = {"domain": ".acme.test", "expiresInDays": 30}
    site.carries({"data-cookie-options": json.dumps(options)})
    await visitor.goto(site.url(f"/?dub_id={CLICK}", "app.acme.test"))
    await settled(visitor)

    assert [body for _, body in told(site)] == [{"options": 1}]
    (click,) = await cookies_of(visitor.context)
    assert click["domain"] == ".acme.test"
    assert abs(click["expires"] - time.time() - 30 * DAY) < 300


async def test_without_a_relay_behind_it_the_click_is_kept_all_the_same(
    site: Site, visitor: Page
) -> None:
    """The files copied to a static host: its answer to the call is 405 or so."""
    errors = watched(visitor)
    await visitor.route("**/_dub/cookie", lambda route: route.fulfill(status=405))
    await visitor.goto(site.url(f"/?dub_id={CLICK}"))
    await settled(visitor)

    assert await click_of(visitor) == CLICK
    assert errors == []


@pytest.mark.parametrize("host", ["forum.acme.test", "evil.test"])
async def test_no_other_origin_can_plant_a_click(
    site: Site, visitor: Page, host: str
) -> None:
    await visitor.goto(site.url("/", host))
    target = site.url("/_dub/cookie")
    body = json.dumps({"dub_id": CLICK})
    for mode in ("cors", "no-cors"):
        await visitor.evaluate(
            "([url, body, mode]) => fetch(url, {method: 'POST', mode, body,"
            " credentials: 'include'}).catch(() => {})",
            [target, body, mode],
        )
    await visitor.set_content(
        f"<form method=post action={target} enctype=text/plain>"
        f"<input name='{body[:-1]}, \"a\": \"' value='\"}}'></form>"
    )
    async with visitor.expect_navigation():
        await visitor.evaluate("document.forms[0].submit()")

    assert [each["domain"] for each in await cookies_of(visitor.context)] == []
