"""The printed tag in a page, the relay beside the site, https: as in production."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser, BrowserContext
from pytest_aiohttp import AiohttpServer

from tests.support import servers
from tests.support.harness import RelayProcess, SandboxDub

pytestmark = pytest.mark.browser

CLICK = "hQWlM2kPzX9aBcDe"
DAY = 86_400


@pytest.fixture
async def relay(tmp_path: Path, dub: SandboxDub) -> AsyncIterator[RelayProcess]:
    process = RelayProcess(
        tmp_path, {"DUB_API_URL": dub.url, "RELAY_TRUSTED_PROXIES": "127.0.0.1"}
    )
    await process.start()
    yield process
    assert await process.stop() == 0


async def printed_tag(relay: RelayProcess) -> str:
    """What `check` tells to copy."""
    _, out, _ = await relay.run("check")
    found = re.search(r"<script .+</script>", out)
    assert found is not None
    return found[0]


@pytest.fixture
async def url(
    aiohttp_server: AiohttpServer, tmp_path: Path, relay: RelayProcess
) -> AsyncIterator[str]:
    """The site's address, by way of nginx with its sample file."""
    policy = "script-src 'self'; connect-src 'self'"
    html = f"<!doctype html><title>Shop</title>{await printed_tag(relay)}"

    async def page(_: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": policy}
        return web.Response(text=html, content_type="text/html", headers=headers)

    app = web.Application()
    app.router.add_get("/{path:.*}", page)
    server = await aiohttp_server(app, access_log=None)
    site = f"127.0.0.1:{server.port}"
    behind = relay.url.removeprefix("http://")
    async with servers.nginx(tmp_path, "beside.conf", behind, site) as port:
        yield f"https://www.acme.test:{port}/"


async def kept(context: BrowserContext) -> dict[str, dict[str, Any]]:
    cookies = [dict(each) for each in await context.cookies()]
    found = {str(each["name"]): each for each in cookies}
    assert len(found) == len(cookies)
    return found


async def visit(context: BrowserContext, address: str) -> None:
    """Open an address in a tab of its own; the server answers the script's call."""
    page = await context.new_page()
    async with page.expect_response("**/_dub/cookie") as answered:
        await page.goto(address)
    assert (await answered.value).status == 204
    await page.close()


async def test_a_click_is_kept_by_the_server_and_comes_back_when_lost(
    browser: Browser, url: str
) -> None:
    context = await browser.new_context(ignore_https_errors=True)
    await visit(context, f"{url}?dub_id={CLICK}")
    first = await kept(context)
    await context.clear_cookies(name="dub_id")
    await visit(context, url)
    second = await kept(context)
    await context.close()

    for cookies in (first, second):
        assert cookies["dub_id"]["value"] == CLICK
        assert {each["domain"] for each in cookies.values()} == {".acme.test"}
        assert not cookies["dub_id"]["httpOnly"]
        assert cookies["dub_relay"]["httpOnly"]
        assert cookies["dub_relay"]["secure"]
        for each in cookies.values():
            assert abs(each["expires"] - time.time() - 90 * DAY) < 300
