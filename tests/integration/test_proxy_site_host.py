"""A site that goes by another Host, and headers with an underscore that it needs."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from relay.core.http.site_host import SiteHost
from relay.proxy.upstream import Upstream
from tests.support.certificates import certificate
from tests.support.proxy_rig import Remembering, proxied
from tests.support.recording_site import OK, Message, Site, ask, request, says

NAMED = (
    b"HTTP/1.1 302 Found\r\nLocation: https://app.test/register\r\n"
    b"Set-Cookie: sid=1; Path=/; Domain=app.test\r\nContent-Length: 0\r\n\r\n"
)
CLICK = "Cookie: dub_id=hQWlMnb8pKc2Zt5R"
RULE = {"path": "/register", "customer_external_id": "form.email"}
TOKEN = "__RequestVerificationToken"
FORM = "Content-Type: application/x-www-form-urlencoded"


async def exchanged(
    site: Site, raw: bytes, *, fast: bool, signups: Remembering | None = None
) -> tuple[Message, Message]:
    """Ask twice, for the fast path needs a kept connection; the last counts."""
    async with proxied(
        site.url,
        [RULE],
        signups,
        fast=fast,
        site_host="app.test",
        underscored=[TOKEN],
    ) as port:
        await ask(port, raw)
        got = await ask(port, raw)
    return got, site.seen[-1]


@pytest.mark.parametrize("fast", [True, False])
async def test_the_site_gets_its_own_host_and_the_visitors(*, fast: bool) -> None:
    async with Site(says(OK)).listening() as site:
        raw = request("GET /", "X_Forwarded_Host: evil.test")
        _, seen = await exchanged(site, raw, fast=fast)

    assert seen.all("Host") == [b"app.test"]
    assert seen.all("X-Forwarded-Host") == [b"shop.test"]
    assert b"host=shop.test" in seen.one("Forwarded")


async def test_the_site_gets_its_own_host_from_http_1_0_too() -> None:
    async with (
        Site(says(OK)).listening() as site,
        proxied(site.url, site_host="app.test") as port,
    ):
        await ask(port, b"GET / HTTP/1.0\r\n\r\n")

    assert site.seen[-1].all("Host") == [b"app.test"]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_its_redirects_and_cookies_are_those_of_the_visitors_host(
    method: str, *, fast: bool
) -> None:
    async with Site(says(NAMED)).listening() as site:
        raw = request(f"{method} /other", FORM, body=b"a=b" * (method == "POST"))
        got, _ = await exchanged(site, raw, fast=fast)

    assert got.one("Location") == b"/register"
    assert got.one("Set-Cookie") == b"sid=1; Path=/"


@pytest.mark.parametrize("fast", [True, False])
async def test_a_redirect_to_the_form_by_its_own_name_is_a_refusal(
    *, fast: bool
) -> None:
    signups = Remembering()
    async with Site(says(NAMED)).listening() as site:
        raw = request("POST /register", CLICK, FORM, body=b"email=a%40b.test")
        got, _ = await exchanged(site, raw, fast=fast, signups=signups)

    assert got.one("Location") == b"/register"
    assert signups.named("take") == []


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("name", [TOKEN, TOKEN.lower()])
async def test_a_named_header_with_an_underscore_passes_and_no_other(
    name: str, *, fast: bool
) -> None:
    async with Site(says(OK)).listening() as site:
        raw = request("GET /", f"{name}: x", "_Other: 1", "X_Forwarded_For: 6.6.6.6")
        _, seen = await exchanged(site, raw, fast=fast)

    kept = [line for line in seen.headers if b"_" in line[0]]
    assert kept == [(name.encode(), b"x")]


@pytest.mark.process
async def test_tls_asks_for_the_host_and_checks_its_certificate(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "app.test")
    asked: list[str | None] = []
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(cert, key)
    server_side.sni_callback = lambda _, name, __: asked.append(name)
    server = await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=server_side
    )
    port = server.sockets[0].getsockname()[1]
    trusting = ssl.create_default_context(cafile=str(cert))
    url = f"https://127.0.0.1:{port}"
    async with server:
        named = Upstream(url, tls=trusting, host=SiteHost("app.test"))
        other = Upstream(url, tls=trusting, host=SiteHost("other.test"))

        assert await named.reachable()
        assert not await other.reachable()
        assert asked == ["app.test", "other.test"]
        await named.close()
        await other.close()
