"""The configurations of `dub-relay front`, in the real servers.

The relay is killed, frozen and restarted; the site stays up, and no sign-up is sent to
it twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tomllib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from relay.config.settings import load
from relay.config.values import listen
from relay.core.rules.rule import compile_rules
from relay.operations.front_servers import LOGS_BYPASSED, front_configuration
from tests.support import servers
from tests.support.harness import RelayProcess, SandboxDub

pytestmark = [pytest.mark.process, pytest.mark.slow]

PAGES = ("/", "/pricing", "/?dub_id=hQWlM2kPzX9aBcDe", "/signup", "/app.js?v=1")
RULES = """
[[signup]]
path = "/signup"
customer_external_id = "form.email || json.email"
"""
KINDS = ("nginx", "caddy", "haproxy", "traefik", "envoy")
SHAPES = ("--only-what-matters", "--all")


@dataclass
class Site:
    """Counts what it was asked; holds sign-ups while ``open`` is not set."""

    address: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    came: asyncio.Event = field(default_factory=asyncio.Event)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if request.method != "POST":
            return web.Response(
                text="<!doctype html><title>site</title>", content_type="text/html"
            )
        if request.content_type == "application/json":
            email = (await request.json())["email"]
        else:
            email = str((await request.post())["email"])
        self.asked[email] += 1
        self.came.set()
        await self.open.wait()
        return web.Response(status=303, headers={"Location": "/welcome"})


@pytest.fixture
async def site(aiohttp_server: AiohttpServer) -> Site:
    made = Site()
    made.open.set()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", made.serve)
    server = await aiohttp_server(app, access_log=None)
    made.address = f"127.0.0.1:{server.port}"
    return made


@pytest.fixture
async def relay(
    tmp_path: Path, dub: SandboxDub, site: Site
) -> AsyncIterator[RelayProcess]:
    folder = tmp_path / "relay"
    folder.mkdir()
    process = RelayProcess(
        folder,
        {
            "DUB_API_URL": dub.url,
            "RELAY_LISTEN": f"127.0.0.1:{servers.free_port()}",
            "RELAY_TRUSTED_PROXIES": "127.0.0.1",
            "RELAY_UPSTREAM": f"http://{site.address}",
            "RELAY_DRAIN": "2s",
            "RELAY_LIMITS_UPSTREAM_ANSWER": "1s",
        },
        config=RULES,
    )
    await process.start()
    yield process
    assert process.process is not None
    if process.process.returncode is None:
        assert await process.stop() == 0


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


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_relay_that_is_killed_is_gone_around_at_once(
    kind: str,
    shape: str,
    tmp_path: Path,
    relay: RelayProcess,
    site: Site,
    dub: SandboxDub,
) -> None:
    async with fronted(kind, tmp_path, relay, dub, shape) as front:
        await all_is_served(front, site, "alive")
        assert len(await relay.settled(3)) == 3

        await relay.stop(signal.SIGKILL)
        await all_is_served(front, site, "killed")
        await relay.start()
        await front.until(through=True)

        # What is inside the relay when it dies fails, and is not sent again.
        site.open.clear()
        site.came.clear()
        inside = asyncio.create_task(front.sign_up("inside@example.com"))
        await asyncio.wait_for(site.came.wait(), 20)
        await relay.stop(signal.SIGKILL)
        site.open.set()
        assert await inside in (502, 503, 504)
        await all_is_served(front, site, "killed-again")
        assert site.asked["inside@example.com"] == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_relay_that_is_frozen_is_gone_around(
    kind: str, tmp_path: Path, relay: RelayProcess, site: Site, dub: SandboxDub
) -> None:
    async with fronted(kind, tmp_path, relay, dub) as front:
        assert relay.process is not None
        relay.process.send_signal(signal.SIGSTOP)
        try:
            # No longer than the configured limit, whatever comes of it.
            async with asyncio.timeout(20):
                await front.sign_up("first@example.com")
            await front.until(through=False)
            await all_is_served(front, site, "frozen")
        finally:
            relay.process.send_signal(signal.SIGCONT)
        await front.until(through=True)
        assert site.asked["first@example.com"] <= 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_graceful_restart_fails_nobody(
    kind: str, tmp_path: Path, relay: RelayProcess, site: Site, dub: SandboxDub
) -> None:
    async with fronted(kind, tmp_path, relay, dub) as front:
        stop = asyncio.Event()
        statuses: Counter[int] = Counter()

        async def visit(name: str) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                email = f"{name}-{number}@example.com"
                way = ("form", "json")[number % 2]
                statuses[await front.sign_up(email, way)] += 1

        visitors = [asyncio.create_task(visit(f"v{n}")) for n in range(4)]
        assert await relay.stop() == 0
        gone = sum(statuses.values())
        while sum(statuses.values()) < gone + 20:  # noqa: ASYNC110 - others fill it
            await asyncio.sleep(0.01)
        await relay.start()
        await front.until(through=True)
        stop.set()
        await asyncio.gather(*visitors)

    assert set(statuses) == {303}
    assert set(site.asked.values()) == {1}


def bypass_log(kind: str, folder: Path) -> Path:
    """The file that the bypassed sign-ups are in, of HAProxy's without its messages."""
    if kind != "haproxy":
        return folder / "bypass.log"
    lines = (folder / "server.log").read_text("latin-1").splitlines(keepends=True)
    log = folder / "haproxy.log"
    log.write_text("".join(each for each in lines if each.startswith("{")), "latin-1")
    return log


@pytest.mark.parametrize("kind", ["nginx", "haproxy", "envoy"])
async def test_every_sign_up_that_went_around_is_recovered_once(
    kind: str, tmp_path: Path, relay: RelayProcess, site: Site, dub: SandboxDub
) -> None:
    """Each lead is there once, whether it came through the relay or around it."""
    arguments = ("--bypass-log", str(tmp_path / "bypass.log"))
    (tmp_path / "bypass.log").touch(0o600)
    async with fronted(kind, tmp_path, relay, dub, *arguments) as front:
        assert await front.sign_up("through@example.com") == 303
        await relay.stop(signal.SIGKILL)
        around = {"ä+b@example.com", "json@example.com", "file@example.com"}
        assert await front.sign_up("ä+b@example.com") == 303
        assert await front.sign_up("json@example.com", "json") == 303
        assert await front.sign_up("file@example.com", "avatar") == 303
        assert await front.sign_up("large@example.com", "upload") == 303
        assert await front.page("/signup") == 200
        await relay.start()
        await front.until(through=True)
        assert await front.sign_up("again@example.com") == 303
    if kind != "haproxy":
        assert (tmp_path / "bypass.log").stat().st_mode & 0o777 == 0o600

    log = bypass_log(kind, tmp_path)
    for expected in ({"new": 3, "unreadable": 1}, {"duplicate": 3, "unreadable": 1}):
        code, out, err = await relay.run("leads", "recover", str(log), "--json")
        assert code == 0, err
        counts = {name: count for name, count in json.loads(out).items() if count}
        assert counts == expected | {"read": 4}
    assert "too long to be logged" in err

    leads = await relay.settled(5)
    assert Counter(one["customerExternalId"] for one in leads) == Counter(
        around | {"through@example.com", "again@example.com"}
    )
    assert {one["status"] for one in leads} == {"delivered"}
    recovered = {
        one["customerExternalId"] for one in leads if one["source"] == "recovered"
    }
    assert recovered == around


ADDRESSES = {
    "sockets": {
        "RELAY_LISTEN": "unix:/run/relay.sock",
        "RELAY_UPSTREAM": "unix:/run/site.sock",
    },
    "TLS": {"RELAY_UPSTREAM": "https://site.test,https://site.test:8443"},
    "IPv6": {"RELAY_LISTEN": "[::]:8080", "RELAY_UPSTREAM": "http://[::1]:3000"},
}
READ = {
    "caddy": ("validate", "--adapter=caddyfile", "--config"),
    "haproxy": ("-c", "-f"),
    "envoy": ("--mode", "validate", "-c"),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("addresses", ADDRESSES)
@pytest.mark.parametrize("kind", ["nginx", *READ])
async def test_a_server_reads_what_is_written_for_other_addresses(
    kind: str, addresses: str, shape: str, tmp_path: Path
) -> None:
    settings = load(
        None, {**ADDRESSES[addresses], "RELAY_PREFIX": "/in/dub"}, complete=False
    )
    settings = replace(settings, signup=compile_rules(tomllib.loads(RULES)["signup"]))
    text = front_configuration(
        kind,
        settings,
        everything=shape == "--all",
        listen=listen("127.0.0.1:8000"),
        bypass_log=str(tmp_path / "bypass.log") if kind in LOGS_BYPASSED else None,
    ).replace("site.test", "localhost")
    config = tmp_path / "config.yaml"
    config.write_text(text)
    how = [*READ.get(kind, ()), str(config)]
    if kind == "nginx":
        whole = tmp_path / "nginx.conf"
        whole.write_text(servers.NGINX.format(folder=tmp_path, site=config))
        how = ["-t", "-e", "stderr", "-p", str(tmp_path), "-c", str(whole)]
    environment = os.environ | {"HOME": str(tmp_path)}
    if kind == "haproxy":
        environment["LD_LIBRARY_PATH"] = servers.LIBRARIES
    process = await asyncio.create_subprocess_exec(
        *(servers.program(kind), *how),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
