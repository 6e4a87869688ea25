"""A relay in trouble behind a real front server, under concurrent sign-ups.

Whatever happens to it: a sign-up reaches the site once at most, and when the bypass log
was recovered, each that the site took with a click is a lead exactly once.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    closing,
    contextmanager,
)
from pathlib import Path
from typing import Any

import pytest

from tests.support.front_rig import (
    KINDS,
    Front,
    Site,
    all_is_served,
    bypass_log,
    fronted,
    relay,
    site,
)
from tests.support.harness import RelayProcess, SandboxDub

pytestmark = [pytest.mark.process, pytest.mark.slow]

__all__ = ["relay", "site"]  # fixtures

LOGGING = ("nginx", "haproxy", "envoy")
WAYS = ("form", "json", "avatar", "upload")
VISITORS = 4
TOO_LARGE = "upload"
"""Of more than any front server logs."""

Trouble = Callable[[RelayProcess], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def killed(relay: RelayProcess) -> AsyncIterator[None]:
    await relay.stop(signal.SIGKILL)
    yield
    await relay.start()


@asynccontextmanager
async def restarted(relay: RelayProcess) -> AsyncIterator[None]:
    """It answers 503 to the front server's question before it ends."""
    assert await relay.stop() == 0
    yield
    await relay.start()


@asynccontextmanager
async def frozen(relay: RelayProcess) -> AsyncIterator[None]:
    assert relay.process is not None
    relay.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        relay.process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def out_of_descriptors(relay: RelayProcess) -> AsyncIterator[None]:
    """It keeps what it has open, and can open nothing more."""
    assert relay.process is not None
    pid = relay.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@contextmanager
def locked(relay: RelayProcess) -> Iterator[None]:
    """Hold SQLite's lock, as another program does."""
    path = relay.folder / "relay.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA busy_timeout = 20000")
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


@asynccontextmanager
async def without_a_database(relay: RelayProcess) -> AsyncIterator[None]:
    """Its database cannot be had, and it dies of that, or of something else."""
    with locked(relay):
        await relay.stop(signal.SIGKILL)
        yield
    await relay.start()


EVERYWHERE = "EVERY_FRONT" in os.environ
"""Each trouble behind each server takes four minutes; a merge tries each of both."""

TROUBLES: dict[str, Trouble] = {
    "killed": killed,
    "restarted": restarted,
    "frozen": frozen,
    "out-of-descriptors": out_of_descriptors,
    "without-a-database": without_a_database,
}


PAIRS = [
    *(("nginx", "killed"), ("nginx", "out-of-descriptors"), ("haproxy", "restarted")),
    *(("haproxy", "frozen"), ("envoy", "without-a-database"), ("envoy", "restarted")),
]


@asynccontextmanager
async def visitors(front: Front) -> AsyncIterator[Counter[int]]:
    """Visitors who sign up one after the other; the statuses that they got."""
    stop = asyncio.Event()
    statuses: Counter[int] = Counter()

    async def visit(name: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            way = WAYS[(name + number) % len(WAYS)]
            email = f"{way}-{name}-{number}@example.com"
            statuses[await front.sign_up(email, way)] += 1
            await asyncio.sleep(0.05)  # a person has to type

    coming = [asyncio.create_task(visit(name)) for name in range(VISITORS)]
    yield statuses
    stop.set()
    await asyncio.gather(*coming)


async def more(statuses: Counter[int], count: int) -> None:
    """Wait until so many more sign-ups were accepted."""
    there = statuses[303] + count
    async with asyncio.timeout(60):
        while statuses[303] < there:  # noqa: ASYNC110 - visitors fill it
            await asyncio.sleep(0.01)


def names(leads: list[dict[str, Any]], status: str) -> set[str]:
    return {lead["customerExternalId"] for lead in leads if lead["status"] == status}


async def settled(relay: RelayProcess) -> list[dict[str, Any]]:
    """The ledger, once what was spilled is in it."""
    async with asyncio.timeout(60):
        while True:
            found = await relay.settled(1, within=60)
            spilled = list(relay.folder.glob("relay.db.spill*"))
            if not spilled and len(names(found, "held")) <= VISITORS:
                return found
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("kind", "trouble"),
    [(kind, it) for kind in LOGGING for it in TROUBLES] if EVERYWHERE else PAIRS,
)
async def test_every_sign_up_that_the_site_took_is_a_lead_once(
    kind: str,
    trouble: str,
    tmp_path: Path,
    relay: RelayProcess,
    site: Site,
    dub: SandboxDub,
) -> None:
    (tmp_path / "bypass.log").touch(0o600)
    log = ("--bypass-log", str(tmp_path / "bypass.log"))
    async with fronted(kind, tmp_path, relay, dub, *log) as front:
        async with visitors(front) as statuses:
            await more(statuses, 8)
            async with TROUBLES[trouble](relay):
                await front.until(through=False)
                await more(statuses, 20)
            await front.until(through=True)
            await more(statuses, 8)
        if trouble == "restarted":
            assert set(statuses) == {303}

    code, out, err = await relay.run(
        "leads", "recover", str(bypass_log(kind, tmp_path)), "--json"
    )
    assert code == 0, err
    counts = json.loads(out)
    assert counts["new"] > 0
    assert set(site.asked.values()) == {1}
    found = await settled(relay)
    # The relay was killed while it had them, or had no answer in time: whether the site
    # has them, a person must look.
    held = names(found, "held")
    leads = Counter(lead["customerExternalId"] for lead in found)
    assert leads.keys() - held <= site.asked.keys()
    assert set(leads.values()) == {1}
    missing = site.asked.keys() - leads.keys()
    assert {email.partition("-")[0] for email in missing} <= {TOO_LARGE}
    assert len(missing) <= counts["unreadable"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_relay_out_of_descriptors_is_gone_around(
    kind: str, tmp_path: Path, relay: RelayProcess, site: Site, dub: SandboxDub
) -> None:
    async with fronted(kind, tmp_path, relay, dub) as front:
        async with out_of_descriptors(relay):
            await front.until(through=False)
            await all_is_served(front, site, "full")
        await front.until(through=True)
        await all_is_served(front, site, "again")
    assert len(await relay.settled(3)) == 3


@pytest.mark.parametrize("kind", KINDS)
async def test_without_a_database_sign_ups_pass_and_are_leads_afterwards(
    kind: str, tmp_path: Path, relay: RelayProcess, site: Site, dub: SandboxDub
) -> None:
    """The relay keeps on serving: only it can keep these leads, in its spill file."""
    async with fronted(kind, tmp_path, relay, dub) as front:
        with locked(relay):
            await all_is_served(front, site, "locked")
            assert await front.lands()
        leads = await relay.settled(3)
    assert Counter(lead["customerExternalId"] for lead in leads) == site.asked
