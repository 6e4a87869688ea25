"""A front server of `dub-relay front` between visitors, a relay and a site."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from io import BytesIO
from pathlib import Path
from urllib.parse import parse_qs

import aiohttp
import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from tests.support import servers
from tests.support.harness import RelayProcess, SandboxDub

PAGES = ("/", "/pricing", "/?dub_id=hQWlM2kPzX9aBcDe", "/signup", "/app.js?v=1")
RULES = """
[[signup]]
path = "/signup"
customer_external_id = "form.email || json.email"
"""
KINDS = ("nginx", "caddy", "haproxy", "traefik", "envoy")
SHAPES = ("--only-what-matters", "--all")


def email_of(kind: str, body: bytes) -> str:
    """Read a sign-up, in any of the ways that it is written."""
    if kind.startswith("application/json"):
        return str(json.loads(body)["email"])
    if kind.startswith("application/x-www-form-urlencoded"):
        return parse_qs(body.decode())["email"][0]
    form = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
    for part in form.walk():
        if part.get_param("name", header="Content-Disposition") == "email":
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            return content.decode()
    raise AssertionError("a form without an email")


@dataclass
class Site:
    """Counts what it was asked; holds sign-ups while ``open`` is not set."""

    address: str = ""
    broken: bool = False
    asked: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    came: asyncio.Event = field(default_factory=asyncio.Event)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.seen[request.method] += 1
        if self.broken:
            return web.Response(status=503)
        if request.method != "POST":
            return web.Response(
                text="<!doctype html><title>site</title>", content_type="text/html"
            )
        email = email_of(request.headers["Content-Type"], await request.read())
        self.asked[email] += 1
        self.came.set()
        await self.open.wait()
        return web.Response(status=303, headers={"Location": "/welcome"})

    @classmethod
    async def start(cls, serve: AiohttpServer) -> Site:
        made = cls()
        made.open.set()
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", made.serve)
        server = await serve(app, access_log=None)
        made.address = f"127.0.0.1:{server.port}"
        return made


@asynccontextmanager
async def relay_before(
    site: Site, folder: Path, dub: SandboxDub
) -> AsyncIterator[RelayProcess]:
    """Run a relay in front of a site, at one port however often it starts."""
    process = RelayProcess(
        folder,
        {
            "DUB_API_URL": dub.url,
            "RELAY_LISTEN": f"127.0.0.1:{servers.free_port()}",
            "RELAY_TRUSTED_PROXIES": "127.0.0.1",
            "RELAY_UPSTREAM": f"http://{site.address}",
            "RELAY_DRAIN": "2s",
            # What a killed relay had claimed waits for twice that, and a little.
            "RELAY_DUB_TIMEOUT": "2s",
            "RELAY_LIMITS_UPSTREAM_ANSWER": "1s",
        },
        config=RULES,
    )
    await process.start()
    yield process
    assert process.process is not None
    if process.process.returncode is None:
        assert await process.stop() == 0


@pytest.fixture
async def site(aiohttp_server: AiohttpServer) -> Site:
    return await Site.start(aiohttp_server)


@pytest.fixture
async def relay(
    tmp_path: Path, dub: SandboxDub, site: Site
) -> AsyncIterator[RelayProcess]:
    folder = tmp_path / "relay"
    folder.mkdir()
    async with relay_before(site, folder, dub) as process:
        yield process


@dataclass
class Front:
    """A front server that runs, and a visitor of it."""

    url: str
    session: aiohttp.ClientSession
    click: str

    async def page(self, path: str) -> int:
        async with self.session.get(f"{self.url}{path}") as answer:
            await answer.read()
            return answer.status

    async def lands(self) -> bool:
        """Whether a landing went through the relay, which sets the cookie."""
        url = f"{self.url}/?dub_id={self.click}"
        async with self.session.get(url, headers={"Sec-Fetch-Dest": "document"}) as it:
            return it.status == 200 and "Set-Cookie" in it.headers

    async def until(self, *, through: bool) -> None:
        """Wait until landings go through the relay, or around it."""
        async with asyncio.timeout(60):
            while await self.lands() is not through:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            # A frozen relay takes a request's connection and does not answer.
            landing = f"/?dub_id={self.click}"
            while not through and await self.page(landing) != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def sign_up(self, email: str, kind: str = "form") -> int:
        how: dict[str, object] = {"data": {"email": email}}
        if kind == "json":
            how = {"json": {"email": email}}
        elif kind in {"upload", "avatar"}:
            size = 500_000 if kind == "upload" else 1000
            form = aiohttp.FormData()
            form.add_field("email", email)
            form.add_field("avatar", BytesIO(b"\x89P\x00\n" * size), filename="a.png")
            how = {"data": form}
        async with self.session.post(
            f"{self.url}/signup",
            headers={"Cookie": f"dub_id={self.click}"},
            allow_redirects=False,
            **how,  # type: ignore[arg-type]
        ) as answer:
            await answer.read()
            return answer.status


@asynccontextmanager
async def fronted(
    kind: str, folder: Path, relay: RelayProcess, dub: SandboxDub, *arguments: str
) -> AsyncIterator[Front]:
    port = servers.free_port()
    servers.program(kind)
    code, text, err = await relay.run(
        "front", kind, "--listen", f"127.0.0.1:{port}", *arguments
    )
    assert (code, err) == (0, "")
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with (
        servers.front(kind, folder, text, port),
        aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar()
        ) as session,
    ):
        front = Front(f"http://127.0.0.1:{port}", session, await dub.click())
        await front.until(through=True)
        yield front


async def all_is_served(front: Front, site: Site, name: str) -> None:
    """Every page comes, and every sign-up reaches the site once."""
    for page in PAGES:
        assert await front.page(page) == 200, page
    for kind in ("form", "json", "upload"):
        email = f"{name}-{kind}@example.com"
        assert (await front.sign_up(email, kind), site.asked[email]) == (303, 1)


def bypass_log(kind: str, folder: Path) -> Path:
    """The file that the bypassed sign-ups are in, of HAProxy's without its messages."""
    if kind != "haproxy":
        return folder / "bypass.log"
    lines = (folder / "server.log").read_text("latin-1").splitlines(keepends=True)
    log = folder / "haproxy.log"
    log.write_text("".join(each for each in lines if each.startswith("{")), "latin-1")
    return log
