"""Three relays on one PostgreSQL under load: one is killed, then the server is."""

from __future__ import annotations

import asyncio
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from relay.core.pacing import WINDOW_MS, burst
from tests.support.harness import RelayProcess, SandboxDub, post_hook
from tests.support.postgres_server import PostgresServer

PLAN = 3_000
"""Calls a minute: fifty a second between the three of them, where each alone
would make more."""

SPAN_MS = 5_000
"""A short window, in which three budgets instead of one would show."""

IN_FLIGHT = 3 * 16
"""A lead's second call is paid for with its first, and may come a little later."""

PAUSE_S = 0.05
"""Between a customer's steps, so that the backlog stays small."""

CLICKS = 20
EVENTS = ("Sign Up", "Qualified", "Paid")
"""What happens to one customer, in this order, whichever relay is told."""


@pytest.fixture
async def relays(
    own_postgres: PostgresServer, dub: SandboxDub, tmp_path: Path
) -> AsyncIterator[list[RelayProcess]]:
    url = own_postgres.new_url()
    started = []
    for n in range(3):
        folder = tmp_path / str(n)
        folder.mkdir()
        relay = RelayProcess(
            folder,
            {
                "DUB_API_URL": dub.url,
                "RELAY_DATABASE": url,
                "RELAY_RATE": str(PLAN),
                "RELAY_DUB_TIMEOUT": "2",
            },
        )
        started.append(relay)
    # At the same moment: whoever is first migrates.
    await asyncio.gather(*(relay.start() for relay in started))
    yield started
    for relay in started:
        await relay.stop()


@dataclass
class Load:
    """Customers who sign up and go on, each step told to another relay."""

    relays: Sequence[RelayProcess]
    clicks: Sequence[str]
    session: aiohttp.ClientSession
    acknowledged: list[tuple[str, str]] = field(default_factory=list)
    over: bool = False
    _numbers: Iterator[int] = field(default_factory=count)

    async def customers(self) -> None:
        while not self.over:
            await self._customer(next(self._numbers))

    async def _customer(self, number: int) -> None:
        customer = f"u_{number}"
        for step, event in enumerate(EVENTS):
            hook = {
                "clickId": self.clicks[number % CLICKS],
                "eventName": event,
                "customerExternalId": customer,
            }
            await self._tell(hook, f"{customer}_{step}", number + step)
            self.acknowledged.append((customer, event))
            await asyncio.sleep(PAUSE_S)

    async def _tell(self, hook: dict[str, Any], message: str, first: int) -> None:
        """Send a hook as a good sender does: again, elsewhere, until it is taken."""
        for turn in count(first):
            relay = self.relays[turn % len(self.relays)]
            try:
                status, _ = await post_hook(self.session, relay.url, hook, message)
            except (aiohttp.ClientError, OSError):
                status = 0
            if status in (200, 202):
                return
            await asyncio.sleep(PAUSE_S)

    async def until(self, number: int) -> None:
        """Wait until so many more leads are acknowledged."""
        wanted = len(self.acknowledged) + number
        async with asyncio.timeout(60):
            while len(self.acknowledged) < wanted:  # noqa: ASYNC110 - polls others
                await asyncio.sleep(0.01)


def milliseconds(moment: str) -> int:
    return round(datetime.fromisoformat(moment).timestamp() * 1000)


def most_in_a_window(times: Sequence[int]) -> int:
    """Count the calls of the fullest window."""
    ordered = sorted(times)
    fullest = first = 0
    for last, at in enumerate(ordered):
        while ordered[first] <= at - SPAN_MS:
            first += 1
        fullest = max(fullest, last - first + 1)
    return fullest


@pytest.mark.slow
async def test_nothing_is_lost_doubled_or_out_of_order_whatever_is_killed(
    relays: list[RelayProcess],
    own_postgres: PostgresServer,
    dub: SandboxDub,
    session: aiohttp.ClientSession,
) -> None:
    load = Load(relays, [await dub.click() for _ in range(CLICKS)], session)
    senders = [asyncio.create_task(load.customers()) for _ in range(6)]

    await load.until(60)
    await relays[0].stop(signal.SIGKILL)
    await load.until(60)
    # Not in this loop, which Dub and the senders need.
    await asyncio.to_thread(own_postgres.stop, signal.SIGKILL)
    await asyncio.sleep(0.5)
    await asyncio.to_thread(own_postgres.start)
    await load.until(60)
    await relays[0].start()
    await load.until(60)
    load.over = True
    await asyncio.gather(*senders)
    leads = await relays[1].settled(len(load.acknowledged), within=120)

    ledger = {
        (one["customerExternalId"], one["eventName"]): one["status"] for one in leads
    }
    assert len(ledger) == len(leads)
    assert set(load.acknowledged) <= set(ledger)
    # A call that the kill cut off may have counted: then it is told as such.
    assert set(ledger.values()) <= {"delivered", "unconfirmed"}
    recorded = defaultdict(list)
    for one in await dub.state("leads"):
        recorded[one["customerExternalId"]].append(one["eventName"])
    assert {name: tuple(events) for name, events in recorded.items()} == dict.fromkeys(
        {customer for customer, _ in load.acknowledged}, EVENTS
    )
    calls = [milliseconds(one["at"]) for one in await dub.state("calls")]
    paid = burst(PLAN) + PLAN * SPAN_MS // WINDOW_MS
    assert most_in_a_window(calls) <= paid + IN_FLIGHT
