"""Who gets a click cookie written, in a real browser with real foreign pages."""

from __future__ import annotations

import pytest
from aiohttp import web
from playwright.async_api import BrowserContext, Page
from pytest_aiohttp import AiohttpServer

from relay.capture.page_endpoints import CookieEndpoint
from relay.core.clock import now_ms
from relay.http.callers import Trusted
from relay.http.responses import speaking_json
from tests.support.proxy_rig import landing

pytestmark = pytest.mark.browser

CLICK = "hQWlM2kPzX9aBcDe"
PLANTED = "plantedClick1234"

ASK = """async ([url, options]) => {
  try {
    const answer = await fetch(url, options);
    return [answer.type, answer.status, await answer.text()];
  } catch (error) {
    return ['refused', 0, String(error)];
  }
}"""
"""How a page asks; a foreign one learns nothing but that it was refused."""


def jsons(body: str, method: str = "POST") -> dict[str, object]:
    headers = {"Content-Type": "application/json"}
    return {
        "method": method,
        "body": body,
        "headers": headers,
        "credentials": "include",
    }


PLANT = f'{{"dub_id": "{PLANTED}"}}'

FETCHES: dict[str, dict[str, object]] = {
    "json": jsons(PLANT),
    "json, without asking": jsons(PLANT) | {"mode": "no-cors"},
    "text": {"method": "POST", "body": PLANT, "credentials": "include"},
    "text, without asking": {
        "method": "POST",
        "body": PLANT,
        "credentials": "include",
        "mode": "no-cors",
    },
    "restore": jsons("{}"),
    "forget": {"method": "DELETE", "credentials": "include"},
    "forget by null": jsons('{"dub_id": null}'),
}

FORM = f"""<form method=post enctype=text/plain action="{{url}}">
<input name='{{{{"dub_id": "{PLANTED}", "a": "' value='"}}}}'></form>
<script>document.forms[0].submit()</script>"""
"""A form whose text/plain body is JSON, a well-known trick."""


HOSTS_OF_FORMS = {"evil.test": 403, "shop.acme.test": 403, "www.acme.test": 415}


@pytest.fixture
async def port(aiohttp_server: AiohttpServer) -> int:
    """One server for all hosts: pages, and the endpoint below the prefix."""
    endpoint = CookieEndpoint(landing(now=now_ms()), Trusted())

    async def page(request: web.Request) -> web.Response:
        url = request.query.get("form")
        html = FORM.format(url=url) if url else "<!doctype html><title>Page</title>"
        return web.Response(text=html, content_type="text/html")

    app = web.Application()
    app.router.add_post("/_dub/cookie", speaking_json(endpoint.keep))
    app.router.add_delete("/_dub/cookie", speaking_json(endpoint.forget))
    app.router.add_get("/{path:.*}", page)
    server = await aiohttp_server(app, access_log=None)
    assert server.port is not None
    return server.port


async def kept(context: BrowserContext) -> dict[str, str]:
    return {each["name"]: each["value"] for each in await context.cookies()}


async def land(page: Page, port: int) -> str:
    """Have the site's own page get its cookies; the endpoint's address."""
    url = f"http://www.acme.test:{port}/_dub/cookie"
    await page.goto(f"http://www.acme.test:{port}/pricing")
    answer = await page.evaluate(ASK, [url, jsons(f'{{"dub_id": "{CLICK}"}}')])
    assert answer == ["basic", 204, ""]
    return url


async def test_the_own_page_gets_both_cookies_and_sees_one(
    port: int, context: BrowserContext, page: Page
) -> None:
    await land(page, port)

    cookies = {each["name"]: each for each in await context.cookies()}
    assert cookies["dub_id"]["value"] == CLICK
    assert {each["domain"] for each in cookies.values()} == {".acme.test"}
    assert cookies["dub_relay"]["httpOnly"]
    assert await page.evaluate("document.cookie") == f"dub_id={CLICK}"


async def test_a_lost_click_comes_back_and_a_forgotten_one_does_not(
    port: int, context: BrowserContext, page: Page
) -> None:
    url = await land(page, port)

    await page.evaluate(
        "document.cookie = 'dub_id=; Max-Age=0; Path=/; Domain=.acme.test'"
    )
    assert "dub_id" not in await kept(context)
    await page.evaluate(ASK, [url, jsons("{}")])
    assert (await kept(context))["dub_id"] == CLICK

    await page.evaluate(ASK, [url, {"method": "DELETE"}])
    assert await kept(context) == {}
    await page.evaluate(ASK, [url, jsons("{}")])
    assert await kept(context) == {}


@pytest.mark.parametrize("host", ["evil.test", "shop.acme.test", "acme.test"])
async def test_a_foreign_page_plants_removes_and_reads_nothing(
    port: int, context: BrowserContext, page: Page, host: str
) -> None:
    url = await land(page, port)
    before = await kept(context)
    await page.goto(f"http://{host}:{port}/")

    for attack, options in FETCHES.items():
        kind, status, text = await page.evaluate(ASK, [url, options])
        assert (attack, status, CLICK in text) == (attack, 0, False)
        assert kind in ("refused", "opaque")
        assert (attack, await kept(context)) == (attack, before)


async def test_a_form_plants_nothing_not_even_from_the_site_itself(
    port: int, context: BrowserContext, page: Page
) -> None:
    url = f"http://www.acme.test:{port}/_dub/cookie"
    for host, status in HOSTS_OF_FORMS.items():
        async with page.expect_response(url) as answered:
            await page.goto(f"http://{host}:{port}/?form={url}")
        assert (host, (await answered.value).status) == (host, status)
        assert await kept(context) == {}


async def test_a_sandboxed_frame_on_the_site_itself_is_a_stranger(
    port: int, context: BrowserContext, page: Page
) -> None:
    url = await land(page, port)
    before = await kept(context)
    frame = (
        f"<script>fetch('{url}', {{method: 'POST', body: '{PLANT}', mode: 'no-cors',"
        " credentials: 'include'}).finally(() => parent.postMessage('done', '*'))"
        "</script>"
    )

    await page.evaluate(
        """html => new Promise(done => {
          addEventListener('message', done);
          const frame = document.createElement('iframe');
          frame.sandbox = 'allow-scripts';
          frame.srcdoc = html;
          document.body.append(frame);
        })""",
        frame,
    )

    assert await kept(context) == before
