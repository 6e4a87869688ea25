"""A database in trouble: the hook says no, the proxied sign-up passes all the same."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from relay.sandbox.site import make_site
from tests.support.harness import RelayProcess, SandboxDub, post_hook

RULES = """
[[signup]]
path = "/signup"
customer_external_id = "form.email"
customer_name = "form.name"
"""


@pytest.fixture
async def fronted(
    aiohttp_server: AiohttpServer, dub: SandboxDub, tmp_path: Path
) -> AsyncIterator[RelayProcess]:
    """A relay in front of the sample site."""
    server = await aiohttp_server(make_site(), access_log=None, shutdown_timeout=0.2)
    site = f"http://127.0.0.1:{server.port}"
    relay = RelayProcess(
        tmp_path, {"DUB_API_URL": dub.url, "RELAY_UPSTREAM": site}, config=RULES
    )
    await relay.start()
    yield relay
    assert await relay.stop() == 0


def spilled(folder: Path) -> list[Path]:
    return list(folder.glob("relay.db.spill*"))


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold SQLite's lock, as another program does."""
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


async def sign_up(
    session: aiohttp.ClientSession, relay: RelayProcess, click: str, email: str
) -> tuple[int, list[str]]:
    """Send the site's form; the status, and what is done to the click cookie."""
    async with session.post(
        f"{relay.url}/signup",
        data={"name": "Ada", "email": email},
        headers={"Cookie": f"dub_id={click}"},
        allow_redirects=False,
    ) as answer:
        cookies = answer.headers.getall("Set-Cookie", [])
        return answer.status, [it for it in cookies if it.startswith("dub_id=")]


async def test_a_proxied_sign_up_becomes_a_lead_and_uses_its_cookie_up(
    fronted: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    click = await dub.click()

    status, cleared = await sign_up(session, fronted, click, "ada@example.com")

    assert status == 303
    assert cleared
    [lead] = await fronted.settled(1)
    assert (lead["status"], lead["source"]) == ("delivered", "proxy")
    [recorded] = await dub.state("leads")
    assert (recorded["clickId"], recorded["customerExternalId"]) == (
        click,
        "ada@example.com",
    )


async def test_on_a_full_disk_nothing_is_acknowledged_and_the_sign_up_passes(
    fronted: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    assert fronted.process is not None
    pid = fronted.process.pid
    clicks = [await dub.click() for _ in range(3)]
    hook = {"clickId": clicks[0], "eventName": "Sign Up", "customerExternalId": "u"}
    # No file may grow beyond this: a page of the database does not fit.
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))

    status, error = await post_hook(session, fronted.url, hook)
    async with session.get(f"{fronted.url}/_dub/readyz") as ready:
        assert ready.status == 503
    passed = await sign_up(session, fronted, clicks[1], "full@example.com")

    assert (status, error["error"]["code"]) == (503, "internal_server_error")
    assert passed[0] == 303
    resource.prlimit(
        pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    )
    leads = await fronted.settled(1)
    async with session.get(f"{fronted.url}/_dub/readyz") as ready:
        assert ready.status == 200
    assert [lead["customerExternalId"] for lead in leads] == ["full@example.com"]
    assert (await post_hook(session, fronted.url, hook))[0] == 202
    await fronted.settled(2)
    recorded = [lead["customerExternalId"] for lead in await dub.state("leads")]
    assert sorted(recorded) == ["full@example.com", "u"]


@pytest.mark.slow
async def test_while_the_database_is_locked_the_sign_up_passes_and_is_kept(
    fronted: RelayProcess,
    dub: SandboxDub,
    session: aiohttp.ClientSession,
    tmp_path: Path,
) -> None:
    click = await dub.click()
    with locked(tmp_path / "relay.db"):
        status, _ = await sign_up(session, fronted, click, "locked@example.com")

        assert status == 303
        await fronted.logged("lead.spilled")
        assert spilled(tmp_path)

    leads = await fronted.settled(1)

    assert [lead["status"] for lead in leads] == ["delivered"]
    async with asyncio.timeout(30):
        while spilled(tmp_path):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
    assert len(await dub.state("leads")) == len(await fronted.leads()) == 1


@pytest.mark.slow
async def test_killed_while_the_database_is_locked_the_sign_up_is_in_the_spill_file(
    fronted: RelayProcess,
    dub: SandboxDub,
    session: aiohttp.ClientSession,
    tmp_path: Path,
) -> None:
    click = await dub.click()
    with locked(tmp_path / "relay.db"):
        status, _ = await sign_up(session, fronted, click, "killed@example.com")

        await fronted.stop(9)

        assert status == 303
    assert await fronted.leads() == []
    await fronted.start()
    [lead] = await fronted.settled(1)
    assert (lead["customerExternalId"], lead["status"]) == (
        "killed@example.com",
        "delivered",
    )


async def test_killed_while_the_site_works_the_sign_up_is_in_the_ledger_as_held(
    aiohttp_server: AiohttpServer,
    dub: SandboxDub,
    session: aiohttp.ClientSession,
    tmp_path: Path,
) -> None:
    reached, never = asyncio.Event(), asyncio.Event()

    async def slow(_: web.Request) -> web.StreamResponse:
        reached.set()
        await never.wait()
        return web.Response()

    app = web.Application()
    app.router.add_post("/signup", slow)
    server = await aiohttp_server(app, access_log=None, shutdown_timeout=0.1)
    site = f"http://127.0.0.1:{server.port}"
    relay = RelayProcess(
        tmp_path, {"DUB_API_URL": dub.url, "RELAY_UPSTREAM": site}, config=RULES
    )
    await relay.start()
    click = await dub.click()
    visiting = asyncio.create_task(sign_up(session, relay, click, "held@example.com"))
    await asyncio.wait_for(reached.wait(), 10)

    await relay.stop(9)

    with pytest.raises(aiohttp.ClientError):
        await visiting
    [lead] = await relay.leads()
    assert (lead["status"], lead["clickId"]) == ("held", click)
    await relay.start()
    assert (await relay.run("leads", "retry", lead["id"]))[0] == 0
    async with asyncio.timeout(20):
        while (await relay.leads())[0]["status"] != "delivered":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert await relay.stop() == 0
