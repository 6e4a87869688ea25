"""Never lost, never doubled, never explained wrongly: with real processes.

Each test is a fault that once broke the promise: a clock that goes back, a relay that
dies between two writes, a store or a Dub that answers late or not at all.
"""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from relay.capture.spill import MOST_IN_MEMORY, Spill
from relay.core.clock import iso, now_ms
from relay.delivery.rollback import LastSeen
from relay.outbox.backends import open_outbox
from relay.outbox.contract import NewLead
from relay.sandbox.site import make_site
from tests.acceptance.test_clock import FakeClock
from tests.acceptance.test_trouble import RULES, sign_up
from tests.support.harness import API_KEY, RelayProcess, SandboxDub, post_hook
from tests.support.outbox_rig import lead, new_lead
from tests.support.postgres_server import PostgresServer

pytestmark = pytest.mark.process

WEEK_MS = 7 * 86_400_000
HOUR_MS = 3_600_000


def hook(click: str, customer: str = "u_1", event: str = "Sign Up") -> dict[str, Any]:
    return {"clickId": click, "eventName": event, "customerExternalId": customer}


async def until(
    relay: RelayProcess,
    done: Callable[[list[dict[str, Any]]], bool],
    within: float = 30,
) -> list[dict[str, Any]]:
    """Poll the ledger until it is as wanted."""
    deadline = time.monotonic() + within
    while not done(leads := await relay.leads()):
        assert time.monotonic() < deadline, leads
        await asyncio.sleep(0.05)
    return leads


def in_state(*states: str) -> Callable[[list[dict[str, Any]]], bool]:
    """Return a condition: there are leads, and all are in one of these states."""
    return lambda leads: bool(leads) and {it["status"] for it in leads} <= set(states)


def newest_arrived(leads: list[dict[str, Any]]) -> bool:
    return in_state("delivered", "confirmed")(leads[:1])


def calls(dub: SandboxDub) -> list[str]:
    return [call.path for call in dub.dub.calls]


@pytest.fixture
async def relay(dub: SandboxDub, tmp_path: Path) -> AsyncIterator[RelayProcess]:
    """A relay that is not started yet, on SQLite; ended with the test."""
    relay = RelayProcess(tmp_path, {"DUB_API_URL": dub.url})
    yield relay
    if relay.process is not None:
        await relay.stop()


# --- Dub's dedupe key, claimed by a call of ours that recorded nothing. ---


async def test_a_second_relay_whose_clock_is_behind_makes_nothing_due_early(
    relay: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    relay.environment["RELAY_DELIVERY_STEPS"] = "1"
    await relay.start()
    await dub.fault(click_delay=3600)
    await post_hook(session, relay.url, hook(await dub.click()))
    [before] = await until(relay, in_state("waiting"))
    await dub.mend()

    clock = FakeClock(tmp_path)
    clock.set(-3600)
    second = RelayProcess(tmp_path, relay.environment | clock.environment)
    await second.start()
    await second.logged("delivery.clock_set_back")
    # A lead of its own shows that it has looked through what is due.
    signed_at = time.time() - 3600
    await post_hook(
        session, second.url, hook(await dub.click(), "u_2"), "msg_2", at=signed_at
    )
    # By its time of an hour ago it is also one to look for in Dub's events at once.
    await until(relay, newest_arrived)
    await second.stop()

    [lead] = await relay.leads("u_1")
    assert (lead["status"], lead["nextAttemptAt"]) == (
        "waiting",
        before["nextAttemptAt"],
    )
    assert [it["customerExternalId"] for it in await dub.state("leads")] == ["u_2"]


async def test_a_retry_waits_for_the_key_that_our_own_call_has_claimed(
    relay: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    relay.environment["RELAY_DELIVERY_STEPS"] = "1"
    await relay.start()
    click = await dub.click()
    for disabled in (True, False):
        async with dub.session.post(
            f"{dub.url}/sandbox/links", json={"key": "ada", "disabled": disabled}
        ) as answer:
            assert answer.status < 300
        if disabled:
            await post_hook(session, relay.url, hook(click))
            [rejected] = await until(relay, in_state("rejected"))

    code, out, _ = await relay.run("leads", "retry", rejected["id"])

    assert code == 0
    assert "-> waiting until" in out
    [lead] = await relay.leads()
    assert lead["status"] == "waiting"
    assert "our own call" in lead["lastError"]
    due = lead["nextAttemptAt"]
    assert due > rejected["createdAt"]
    _, story, _ = await relay.run("leads", "show", lead["id"])
    assert f"It is tried again at {due}" in story
    assert "elsewhere" not in story
    assert calls(dub).count("/track/lead") == 1


async def test_a_retry_refuses_a_lead_that_was_reported_again(
    relay: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    relay.environment["RELAY_RETRY_FOR"] = "1ms"
    await dub.fault(status=500, count=1)
    await relay.start()
    click = await dub.click()
    await post_hook(session, relay.url, hook(click), "msg_1")
    [first] = await until(relay, in_state("rejected"))
    await post_hook(session, relay.url, hook(click), "msg_2")
    [again, _] = await until(relay, lambda leads: leads[0]["status"] == "delivered")

    code, _, err = await relay.run("leads", "retry", first["id"])

    assert code == 1
    assert f"was reported again as {again['id']}" in err
    assert (await relay.leads())[1]["status"] == "rejected"
    assert len(await dub.state("leads")) == 1


# --- Relays that die in between. ---


async def test_leads_that_a_dead_relay_left_parked_go_on(
    relay: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    relay.arguments = ("--no-delivery",)
    await relay.start()
    await post_hook(session, relay.url, hook(await dub.click()))
    await relay.stop()
    # As after a kill between "parked" and "the circuit is open".
    with closing(sqlite3.connect(tmp_path / "relay.db")) as database, database:
        database.execute("UPDATE leads SET status = 'parked', due_at = NULL")
    relay.arguments = ()
    await relay.start()

    await until(relay, in_state("delivered"))


async def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    starting = (
        "import os, sys, time; from relay.server.supervision import supervise\n"
        "def run():\n"
        "    os.write(1, b'%d\\n' % os.getpid()); time.sleep(60); return 0\n"
        "sys.exit(supervise(run, 2))"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", starting, cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    workers = [int(await parent.stdout.readline()) for _ in range(2)]

    parent.kill()
    await parent.wait()

    async with asyncio.timeout(20):
        # Its pipe ends when the last of its workers is gone.
        assert await parent.stdout.read() == b""
    assert len(set(workers)) == 2


# --- Dub, and what stands between. ---


SALE = {"customerExternalId": "u_1", "amount": 4900, "invoiceId": "in_1"}


async def sell(
    session: aiohttp.ClientSession, relay: RelayProcess, **more: Any
) -> None:
    headers = {"Authorization": f"Bearer {API_KEY}"}
    async with session.post(
        f"{relay.url}/_dub/track/sale", json=SALE | more, headers=headers
    ) as answer:
        assert answer.status == 200, await answer.text()


async def test_a_sale_that_dub_is_still_at_work_on_is_not_sent_again(
    relay: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    relay.environment["RELAY_DUB_TIMEOUT"] = "1"
    await relay.start()
    await post_hook(session, relay.url, hook(await dub.click()))
    await until(relay, in_state("delivered"))
    await dub.fault(slow=3, path="/track/sale", count=1)

    await sell(session, relay)
    [sale, _] = await until(relay, lambda leads: leads[0]["status"] == "waiting")

    again = sale["nextAttemptAt"]
    # Five minutes are the most that Dub's host grants a call.
    assert again >= iso_after(sale["createdAt"], 290_000)
    async with asyncio.timeout(20):
        while not await dub.state("sales"):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)
    assert len(await dub.state("sales")) == 1


def iso_after(stamp: str, milliseconds: int) -> str:
    later = datetime.fromisoformat(stamp) + timedelta(milliseconds=milliseconds)
    return later.isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def test_a_sale_that_comes_before_its_lead_waits_for_it(
    relay: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    await relay.start()
    await sell(session, relay)
    [sale] = await until(relay, in_state("waiting"))
    assert "not yet" in sale["lastError"]

    await post_hook(session, relay.url, hook(await dub.click()))

    await until(relay, in_state("delivered"))
    assert len(await dub.state("sales")) == 1


async def test_a_sale_whose_lead_never_comes_says_so_in_the_end(
    relay: RelayProcess, session: aiohttp.ClientSession
) -> None:
    relay.environment["RELAY_DELIVERY_SALE_WAITS"] = "200ms"
    await relay.start()

    await sell(session, relay)

    [sale] = await until(relay, in_state("rejected"))
    assert "knows no lead of this customer, after" in sale["lastError"]


@pytest.mark.parametrize("status", [401, 403, 404, 408, 429])
async def test_a_page_of_something_between_proves_nothing_about_a_sale(
    relay: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession, status: int
) -> None:
    await relay.start()
    await post_hook(session, relay.url, hook(await dub.click()))
    await until(relay, in_state("delivered"))
    # Dub does the work, and a proxy answers for it.
    await dub.fault(status=status, html=True, work=True, path="/track/sale", count=1)

    await sell(session, relay, invoiceId=None)

    [sale, _] = await until(relay, lambda leads: leads[0]["status"] == "unconfirmed")
    assert "may have counted" in sale["lastError"]
    assert len(await dub.state("sales")) == 1


async def test_a_page_of_something_between_rejects_and_parks_nothing(
    relay: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    for status in (400, 401, 402, 403, 404, 409, 410, 451):
        # Once: each probe of what remains would wait twice as long as the one before.
        await dub.fault(status=status, html=True, count=1)
    await relay.start()
    for n in range(8):
        answered = hook(await dub.click(), f"u_{n}")
        await post_hook(session, relay.url, answered, f"msg_{n}")

    leads = await relay.settled(8, within=60)

    assert {lead["status"] for lead in leads} == {"delivered"}
    assert len(await dub.state("leads")) == 8


async def test_one_lead_that_a_firewall_blocks_stops_no_other(
    relay: RelayProcess,
    dub: SandboxDub,
    session: aiohttp.ClientSession,
    aiohttp_server: AiohttpServer,
) -> None:
    async def firewall(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if b"<script>" in body:
            return web.Response(status=403, text="<h1>Blocked</h1>")
        async with session.request(
            request.method, f"{dub.url}{request.path_qs}", data=body,
            headers={"Authorization": request.headers["Authorization"]},
        ) as answer:  # fmt: skip
            return web.Response(
                status=answer.status,
                body=await answer.read(),
                content_type=answer.content_type,
            )

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", firewall)
    between = await aiohttp_server(app, access_log=None)
    relay.environment["DUB_API_URL"] = f"http://127.0.0.1:{between.port}"
    await relay.start()
    for n in range(12):
        # Blocked ones first: more than are taken for "Dub is down".
        name = "<script>" if n < 6 else "Ada"
        answered = hook(await dub.click(), f"u_{n}") | {"customerName": name}
        await post_hook(session, relay.url, answered, f"msg_{n}")

    honest = await until(
        relay, lambda leads: in_state("delivered")(leads[: len(leads) - 6]), within=60
    )

    assert [lead["status"] for lead in honest].count("delivered") == 6
    assert "parked" not in {lead["status"] for lead in honest}


# --- The database. ---


async def test_a_lead_goes_into_the_file_that_the_path_names_or_is_not_accepted(
    relay: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    relay.arguments = ("--no-delivery",)
    await relay.start()
    click = await dub.click()
    accepted: list[str] = []

    async def load() -> None:
        for n in range(60):
            status, answer = await post_hook(
                session, relay.url, hook(click, f"u_{n}"), f"msg_{n}"
            )
            assert status in (202, 503)
            if status == 202:
                accepted.append(answer["id"])

    loading = asyncio.create_task(load())
    async with asyncio.timeout(20):
        while len(accepted) < 20:  # noqa: ASYNC110 - the task above
            await asyncio.sleep(0)
    kept = tmp_path / "old.db"
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / f"relay.db{suffix}").rename(f"{kept}{suffix}")
    await loading
    await relay.stop()

    # No file of that name any more: nothing after the move was accepted.
    assert len(accepted) < 60
    with closing(sqlite3.connect(kept)) as old:
        stored = {row[0] for row in old.execute("SELECT id FROM leads")}
    assert set(accepted) <= stored


async def test_a_log_that_has_filled_the_disk_is_cut_when_there_is_room_again(
    relay: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    relay.arguments = ("--no-delivery",)
    await relay.start()
    assert relay.process is not None
    pid = relay.process.pid
    click = await dub.click()
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1_500_000, resource.RLIM_INFINITY))
    statuses = []
    for n in range(2000):
        big = hook(click, f"u_{n}") | {"metadata": {"note": "x" * 3000}}
        status, _ = await post_hook(session, relay.url, big, f"msg_{n}")
        statuses.append(status)
        if statuses[-3:] == [503] * 3:
            break
    assert statuses[-1] == 503
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (4_000_000, resource.RLIM_INFINITY))

    status, _ = await post_hook(session, relay.url, hook(click, "later"), "msg_later")

    assert status == 202


@pytest.mark.postgres
async def test_dubs_answers_are_kept_while_the_database_restarts(
    own_postgres: PostgresServer,
    relay: RelayProcess,
    dub: SandboxDub,
    session: aiohttp.ClientSession,
) -> None:
    relay.environment["RELAY_DATABASE"] = own_postgres.new_url()
    await relay.start()
    await dub.fault(slow=2, step="record")
    for n in range(20):
        answered = hook(await dub.click(), f"u_{n}")
        await post_hook(session, relay.url, answered, f"msg_{n}")
    async with asyncio.timeout(30):
        while len(await dub.state("leads")) < 5:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)

    with own_postgres.outage():
        # The answers come while there is nowhere to write them.
        await asyncio.sleep(3)
    await dub.mend()

    leads = await relay.settled(20, within=90)
    assert {lead["status"] for lead in leads} <= {"delivered", "confirmed"}
    assert len(await dub.state("leads")) == 20


@pytest.mark.postgres
async def test_a_relay_whose_clock_is_ahead_takes_no_call_over(
    own_postgres: PostgresServer,
    relay: RelayProcess,
    dub: SandboxDub,
    session: aiohttp.ClientSession,
    tmp_path: Path,
) -> None:
    url = own_postgres.new_url()
    settings = {"RELAY_DATABASE": url, "RELAY_DELIVERY_STEPS": "1"}
    relay.environment |= settings
    await relay.start()
    clock = FakeClock(tmp_path)
    clock.set(600)
    folder = tmp_path / "second"
    folder.mkdir()
    second = RelayProcess(folder, relay.environment | clock.environment)
    await second.start()
    await dub.fault(slow=1)
    for n in range(12):
        to = (relay, second)[n % 2]
        at = time.time() + (600 if to is second else 0)
        answered = hook(await dub.click(), f"u_{n}")
        await post_hook(session, to.url, answered, f"msg_{n}", at=at)

    leads = await relay.settled(12, within=60)
    made = calls(dub).count("/track/lead")
    _, checked, _ = await second.run("check")
    await second.stop()

    assert {lead["status"] for lead in leads} == {"delivered"}
    assert made == 12
    assert "600 s ahead of its own" in checked
    # By the database's clock, whoever took them.
    assert max(lead["createdAt"] for lead in leads) < iso(now_ms() + 60_000)


async def test_leads_of_an_older_copy_are_in_doubt_until_proven(
    relay: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    relay.arguments = ("--no-delivery",)
    await relay.start()
    for n in range(3):
        answered = hook(await dub.click(), f"u_{n}")
        await post_hook(session, relay.url, answered, f"msg_{n}")
    await relay.stop()
    older = (tmp_path / "relay.db").read_bytes()
    relay.arguments = ()
    await relay.start()
    await until(relay, in_state("delivered"))
    await relay.stop()
    # Back to the copy, as after a failover or a restore; Dub's keys have run out.
    (tmp_path / "relay.db").write_bytes(older)
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"relay.db{suffix}").unlink(missing_ok=True)
    clock = FakeClock(tmp_path)
    clock.set((WEEK_MS + HOUR_MS) // 1000)
    dub.dub.clock = lambda: now_ms() + WEEK_MS + HOUR_MS

    relay.environment |= clock.environment
    await relay.start()
    leads = await until(relay, in_state("unconfirmed", "delivered", "duplicate"))

    assert {lead["status"] for lead in leads} == {"unconfirmed"}
    assert "older copy" in leads[0]["notes"][-1]
    assert len(await dub.state("leads")) == 3


# --- Commits whose answer is lost, and those that do not come. ---


class CutWire:
    """A way to PostgreSQL that can lose the server's answer to one COMMIT."""

    def __init__(self, server_socket: str) -> None:
        self._server_socket = server_socket
        self.lose_next_commit = False
        self.lost = 0

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        from_server, to_server = await asyncio.open_unix_connection(self._server_socket)
        back = asyncio.create_task(self._pass(from_server, writer))
        while data := await reader.read(1 << 16):
            losing = self.lose_next_commit and b"COMMIT" in data
            if losing:
                self.lose_next_commit = False
                back.cancel()
                await asyncio.wait([back])
            to_server.write(data)
            await to_server.drain()
            if losing:
                # The server has committed when it answers; nobody hears it.
                await from_server.read(1)
                self.lost += 1
                break
        writer.transport.abort()
        to_server.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()


@pytest.mark.postgres
async def test_a_held_sign_up_whose_commit_got_no_answer_is_stored_once(
    own_postgres: PostgresServer,
    relay: RelayProcess,
    dub: SandboxDub,
    session: aiohttp.ClientSession,
    aiohttp_server: AiohttpServer,
) -> None:
    url = own_postgres.new_url()
    path = url.rpartition("search_path=")[2]
    folder = url.partition("host=")[2].partition("&")[0]
    wire = CutWire(f"{folder}/.s.PGSQL.5432")
    between = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    port = between.sockets[0].getsockname()[1]
    site = await aiohttp_server(make_site(), access_log=None, shutdown_timeout=0.2)
    relay.environment |= {
        "RELAY_DATABASE": (
            f"postgresql://relay@127.0.0.1:{port}/postgres?search_path={path}"
        ),
        "RELAY_UPSTREAM": f"http://127.0.0.1:{site.port}",
    }
    relay.config = RULES
    relay.arguments = ("--no-delivery",)
    await relay.start()

    for n in range(4):
        wire.lose_next_commit = True
        passed = await sign_up(session, relay, await dub.click(), f"u{n}@example.com")
        assert passed[0] == 303
        # A busy machine's commit may come after the answer.
        async with asyncio.timeout(30):
            while True:
                if wire.lost > n:
                    break
                await asyncio.sleep(0.02)
    await until(relay, lambda leads: in_state("queued")(leads) and len(leads) == 4)

    assert wire.lost == 4
    await relay.stop()
    between.close()


@pytest.mark.postgres
async def test_a_standby_that_is_away_is_a_database_that_fails(
    own_postgres: PostgresServer,
    relay: RelayProcess,
    dub: SandboxDub,
    session: aiohttp.ClientSession,
) -> None:
    relay.environment["RELAY_DATABASE"] = own_postgres.new_url()
    relay.arguments = ("--no-delivery",)
    await relay.start()
    click = await dub.click()
    own_postgres.sql("ALTER SYSTEM SET synchronous_standby_names = 'away'")
    own_postgres.sql("SELECT pg_reload_conf()")

    async with asyncio.timeout(20):
        while True:
            status, said = await post_hook(session, relay.url, hook(click))
            if status == 503:
                break
            await asyncio.sleep(0.1)  # the server reads its settings by and by
    async with session.get(f"{relay.url}/_dub/readyz") as ready:
        not_ready, reason = ready.status, await ready.text()

    assert "Send it again" in said["error"]["message"]
    assert not_ready == 503
    assert "no commit within 1 s" in reason
    own_postgres.sql("ALTER SYSTEM RESET synchronous_standby_names")
    own_postgres.sql("SELECT pg_reload_conf()")
    async with asyncio.timeout(20):
        while (  # noqa: ASYNC110 - the server reads its settings by and by
            await post_hook(session, relay.url, hook(click))
        )[0] not in (200, 202):
            await asyncio.sleep(0.1)


async def test_what_waits_in_memory_is_taken_once_each_though_others_are_dropped(
    tmp_path: Path,
) -> None:
    stored: list[str] = []
    taking, may_store = asyncio.Event(), asyncio.Event()

    async def store(new_lead: NewLead, _: str | None) -> None:
        taking.set()
        await may_store.wait()
        stored.append(new_lead.lead.id)

    # No folder, no file: everything waits in memory.
    spill = Spill(tmp_path / "gone" / "relay.db.spill", store)
    leads = [new_lead(lead(f"u_{n}")) for n in range(MOST_IN_MEMORY + 1)]
    for one in leads[:-1]:
        assert not await spill.keep(one, None)
    taken_in = asyncio.create_task(spill.take_in())
    await taking.wait()
    assert not await spill.keep(leads[-1], None)
    may_store.set()
    await taken_in

    # The first was under way when it was dropped; every other is stored too.
    assert stored == [one.lead.id for one in leads]


async def test_an_older_copy_is_noticed_where_no_file_can_be_kept(
    tmp_path: Path,
) -> None:
    (tmp_path / "no-folder").touch()
    outbox = open_outbox(f"sqlite:///{tmp_path}/relay.db")
    await outbox.open()
    made = new_lead()
    await outbox.put(made)
    seen = LastSeen(outbox, tmp_path / "no-folder" / "relay.db.seen")
    await seen.remember("lead_that_this_copy_does_not_have")

    await seen.compare()

    found = await outbox.get(made.lead.id)
    await outbox.close()
    assert found is not None
    assert found.in_doubt
    assert not seen.doubtful
