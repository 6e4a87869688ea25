"""The sample files of deploy/, in real servers, in front of a real relay and site."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import aiohttp
import brotli  # type: ignore[import-untyped]  # ships no types
import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from relay.capture.snippet import NAMES
from tests.support import servers
from tests.support.harness import RelayProcess, SandboxDub

pytestmark = pytest.mark.process

CLICK = "hQWlM2kPzX9aBcDe"
HOST = "www.example.com"
VISITOR, NEIGHBOUR = "127.0.0.2", "127.0.0.3"
BROWSER = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/140.0.0.0 Safari/537.36"
)
VIA = {"domain": "acme.link", "key": "partner-ada"}

Fronted = Callable[..., AbstractAsyncContextManager[int]]


@pytest.fixture
async def site(aiohttp_server: AiohttpServer) -> str:
    """A site that tells what it was asked, and repeats what a socket says."""

    async def page(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade") == "websocket":
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            await socket.send_str(await socket.receive_str())
            await socket.close()
            return socket
        return web.json_response({"headers": dict(request.headers)})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", page)
    server = await aiohttp_server(app, access_log=None)
    return f"127.0.0.1:{server.port}"


@pytest.fixture
async def relay(
    tmp_path: Path, dub: SandboxDub, site: str
) -> AsyncIterator[RelayProcess]:
    folder = tmp_path / "relay"
    folder.mkdir()
    process = RelayProcess(
        folder,
        {
            "DUB_API_URL": dub.url,
            "RELAY_TRUSTED_PROXIES": "127.0.0.1",
            "RELAY_UPSTREAM": f"http://{site}",
            "RELAY_BROWSER_RATE": "2",
        },
    )
    await process.start()
    yield process
    assert await process.stop() == 0


def address(relay: RelayProcess) -> str:
    return relay.url.removeprefix("http://")


def written(answer: aiohttp.ClientResponse) -> dict[str, str]:
    """The cookies that an answer sets, by name: the whole value."""
    lines = answer.headers.getall("Set-Cookie", [])
    found = {line.partition("=")[0]: line for line in lines}
    assert len(found) == len(lines)
    return found


class Checks:
    """What must hold at an origin, whatever serves it.

    ``told`` are headers that a server further in front has set; where one ends
    TLS, the browser calls the place by ``origin`` instead of ``url``.
    """

    def __init__(
        self,
        url: str,
        *,
        origin: str | None = None,
        told: Callable[[str], dict[str, str]] = lambda _: {},
    ) -> None:
        self.url = url
        self.origin = origin or url
        self._told = told

    def visiting(
        self, who: str = VISITOR
    ) -> AbstractAsyncContextManager[aiohttp.ClientSession]:
        headers = {"User-Agent": BROWSER, "Accept-Encoding": "gzip, br"}
        return servers.visiting(who, headers | self._told(who))

    async def script_is_served(self) -> None:
        async with (
            self.visiting() as visitor,
            visitor.get(f"{self.url}/_dub/script.js") as answer,
        ):
            assert answer.status == 200
            assert answer.headers["Content-Encoding"] == "br"
            assert "Accept-Encoding" in answer.headers["Vary"]
            assert answer.headers["Cache-Control"] == "public, max-age=3600"
            assert not answer.headers["ETag"].startswith("W/")
            assert b"_dubAnalytics" in brotli.decompress(await answer.read())
            hashed = f"{self.url}/_dub/{answer.headers['Content-Location']}"
            async with visitor.get(hashed) as same:
                assert "immutable" in same.headers["Cache-Control"]
            known = {"If-None-Match": answer.headers["ETag"]}
            async with visitor.get(answer.url, headers=known) as again:
                assert again.status == 304

    async def cookie_is_written_for_own_pages_only(self) -> None:
        url, body = f"{self.url}/_dub/cookie", {"dub_id": CLICK}
        async with self.visiting() as visitor:
            own = {"Origin": self.origin, "Sec-Fetch-Site": "same-origin"}
            async with visitor.post(url, json=body, headers=own) as answer:
                assert answer.status == 204
                cookies = written(answer)
            signed_cookie = cookies["dub_relay"].partition(";")[0]
            lost = own | {"Cookie": signed_cookie}
            async with visitor.post(url, json={}, headers=lost) as answer:
                assert written(answer)["dub_id"].startswith(f"dub_id={CLICK};")
            async with visitor.delete(url, headers=own) as answer:
                assert answer.status == 204
                cleared = answer.headers.getall("Set-Cookie")
                # Under the domain, the host's own name, and host-only.
                for name in ("dub_id", "dub_relay"):
                    assert len([c for c in cleared if c.startswith(f"{name}=;")]) == 3
            for other in ("https://evil.test", "https://shop.example.com", "null"):
                foreign = {"Origin": other}
                async with visitor.post(url, json=body, headers=foreign) as answer:
                    assert (answer.status, written(answer)) == (403, {})
        assert cookies["dub_id"].startswith(f"dub_id={CLICK}; Domain=.example.com; ")
        assert "; Domain=.example.com; " in cookies["dub_relay"]
        assert "; HttpOnly; Secure" in cookies["dub_relay"]

    async def visitors_are_told_apart(self, dub: SandboxDub) -> None:
        """Two calls a minute each; what a visitor claims to be does not help."""
        url = f"{self.url}/_dub/track/click"
        async with self.visiting() as visitor:
            got = []
            for _ in range(3):
                async with visitor.post(url, json=VIA) as answer:
                    got.append(answer.status)
            assert got == [200, 200, 429]
        async with (
            self.visiting(NEIGHBOUR) as neighbour,
            neighbour.post(url, json=VIA) as answer,
        ):
            assert answer.status == 200
        # Dub has recorded them: the browser's own name came through.
        assert len(dub.dub.clicks) == 1

    async def disguises_do_not_help(self) -> None:
        url = f"{self.url}/_dub/track/click"
        disguise = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Host": "evil.test"}
        async with (
            self.visiting() as visitor,
            visitor.post(url, json=VIA, headers=disguise) as answer,
        ):
            assert answer.status == 429
        own = {"Origin": "https://evil.test"} | disguise
        async with (
            self.visiting() as visitor,
            visitor.post(f"{self.url}/_dub/cookie", json={}, headers=own) as answer,
        ):
            assert answer.status == 403

    async def internals_are_hidden(self) -> None:
        async with self.visiting() as visitor:
            for path in ("metrics", "livez", "readyz"):
                async with visitor.get(f"{self.url}/_dub/{path}") as answer:
                    assert answer.status == 404

    async def site_is_reached(self) -> dict[str, str]:
        """The headers that the site saw."""
        async with (
            self.visiting() as visitor,
            visitor.get(f"{self.url}/pricing") as answer,
        ):
            assert answer.status == 200
            seen: dict[str, str] = (await answer.json())["headers"]
            return seen


@pytest.mark.parametrize(
    ("server", "name"),
    [(servers.nginx, "beside.conf"), (servers.caddy, "beside.Caddyfile")],
    ids=["nginx", "Caddy"],
)
async def test_the_relay_beside_a_site(
    server: Fronted,
    name: str,
    tmp_path: Path,
    relay: RelayProcess,
    site: str,
    dub: SandboxDub,
) -> None:
    async with server(tmp_path, name, address(relay), site) as port:
        own = Checks(f"https://{HOST}:{port}")
        await own.script_is_served()
        await own.cookie_is_written_for_own_pages_only()
        await own.visitors_are_told_apart(dub)
        await own.disguises_do_not_help()
        await own.internals_are_hidden()
        seen = await own.site_is_reached()

    assert seen["X-Forwarded-For"] == VISITOR
    # Straight from the server, not by way of the relay.
    assert "Forwarded" not in seen


@pytest.mark.parametrize(
    ("server", "name"),
    [(servers.nginx, "in-front.conf"), (servers.caddy, "in-front.Caddyfile")],
    ids=["nginx", "Caddy"],
)
async def test_the_relay_in_front_of_a_site(
    server: Fronted, name: str, tmp_path: Path, relay: RelayProcess, dub: SandboxDub
) -> None:
    async with server(tmp_path, name, address(relay)) as port:
        own = Checks(f"https://{HOST}:{port}")
        await own.script_is_served()
        await own.cookie_is_written_for_own_pages_only()
        await own.visitors_are_told_apart(dub)
        await own.disguises_do_not_help()
        await own.internals_are_hidden()
        seen = await own.site_is_reached()
        async with own.visiting() as visitor:
            landing, page = f"{own.url}/?dub_id={CLICK}", {"Sec-Fetch-Dest": "document"}
            async with visitor.get(landing, headers=page) as answer:
                cookies = written(answer)
            async with visitor.ws_connect(f"{own.url}/live") as socket:
                await socket.send_str("hello")
                assert await socket.receive_str() == "hello"

    assert cookies["dub_id"].startswith(f"dub_id={CLICK}; Domain=.example.com; ")
    assert "; HttpOnly; Secure" in cookies["dub_relay"]
    assert seen["X-Forwarded-For"].split(", ")[0] == VISITOR
    assert seen["X-Forwarded-Proto"] == "https"
    assert seen["X-Forwarded-Host"] == f"{HOST}:{port}"
    assert seen["Host"] == f"{HOST}:{port}"
    assert re.match(rf"for={re.escape(VISITOR)};", seen["Forwarded"])


async def test_the_relay_behind_a_rewrite_of_nextjs(
    relay: RelayProcess, dub: SandboxDub
) -> None:
    """Next.js tells the host alone; the server in front of it tells the rest."""

    def told(visitor: str) -> dict[str, str]:
        return {"X-Forwarded-For": visitor, "X-Forwarded-Proto": "https"}

    async with servers.nextjs(address(relay)) as port:
        url, origin = f"http://{HOST}:{port}", f"https://{HOST}:{port}"
        own = Checks(url, origin=origin, told=told)
        await own.script_is_served()
        await own.cookie_is_written_for_own_pages_only()
        await own.visitors_are_told_apart(dub)
        await own.internals_are_hidden()
        async with own.visiting() as visitor, visitor.get(f"{own.url}/") as answer:
            assert answer.status == 200


async def test_the_relay_on_a_subdomain(
    tmp_path: Path, relay: RelayProcess, dub: SandboxDub
) -> None:
    """Pages of another host load the script and call Dub, but get no cookie."""
    async with servers.nginx(tmp_path, "subdomain.conf", address(relay)) as port:
        there = Checks(f"https://relay.example.com:{port}")
        await there.script_is_served()
        await there.internals_are_hidden()
        page = {"Origin": f"https://{HOST}", "Sec-Fetch-Site": "same-site"}
        async with there.visiting() as visitor:
            script = f"{there.url}/_dub/script.js"
            async with visitor.get(script, headers=page) as answer:
                # What `integrity` and COEP want of another host.
                assert answer.headers["Access-Control-Allow-Origin"] == "*"
                assert answer.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
            click = f"{there.url}/_dub/track/click"
            async with visitor.options(click, headers=page) as answer:
                assert answer.status == 204
                assert answer.headers["Access-Control-Allow-Origin"] == "*"
            async with visitor.post(click, json=VIA, headers=page) as answer:
                assert answer.status == 200
                assert answer.headers["Access-Control-Allow-Origin"] == "*"
                assert (await answer.json())["clickId"] in dub.dub.clicks
            cookie = f"{there.url}/_dub/cookie"
            async with visitor.post(cookie, json={}, headers=page) as answer:
                assert (answer.status, written(answer)) == (403, {})
                assert "Access-Control-Allow-Origin" not in answer.headers
            async with visitor.get(f"{there.url}/") as answer:
                assert answer.status == 404


async def test_the_path_of_dubs_own_guide_works_when_it_is_the_prefix(
    tmp_path: Path, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    """Sites that followed it have `/_proxy/dub` in their tags."""
    relay = RelayProcess(
        tmp_path, {"DUB_API_URL": dub.url, "RELAY_PREFIX": "/_proxy/dub"}
    )
    await relay.start()
    try:
        base = f"{relay.url}/_proxy/dub"
        for name in NAMES:
            async with session.get(f"{base}/{name}") as answer:
                assert answer.status == 200
                assert "_dubAnalytics" in await answer.text()
        browser = {"User-Agent": BROWSER}
        async with session.post(
            f"{base}/track/click", json=VIA, headers=browser
        ) as answer:
            click = (await answer.json())["clickId"]
        assert click in dub.dub.clicks
        async with session.post(f"{base}/track/lead/client", json={}) as answer:
            message = (await answer.json())["error"]["message"]
            assert (answer.status, message) == (401, "Missing publishable key.")
        own = {"Origin": relay.url}
        async with session.post(f"{base}/cookie", json={}, headers=own) as answer:
            assert answer.status == 204
    finally:
        assert await relay.stop() == 0
