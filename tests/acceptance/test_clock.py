"""The machine's clock is set back by hours: leads still go, and none goes twice."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.harness import RelayProcess, SandboxDub, post_hook

AHEAD_S = 6 * 3600
MOST_EARLIER = 5


class FakeClock:
    """The wall clock of processes that libfaketime is loaded into."""

    def __init__(self, folder: Path) -> None:
        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        if not found:
            pytest.skip("NO LIBFAKETIME HERE: a clock set back was not tested")
        self._file = folder / "clock"
        self.environment = {
            "LD_PRELOAD": str(found[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            # With its mend for old C libraries, threads that wait for a time spin.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
            # As on a real machine, where only the wall clock can be set.
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.set(0)

    def set(self, ahead_s: int) -> None:
        """Let it be so many seconds ahead of the true time."""
        self.ahead_s = ahead_s
        # Replaced as a whole: it is read at any moment.
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead_s:+}\n")
        new.replace(self._file)


@pytest.fixture
def clock(tmp_path: Path) -> FakeClock:
    return FakeClock(tmp_path)


@pytest.fixture
async def relay(
    dub: SandboxDub, tmp_path: Path, clock: FakeClock
) -> AsyncIterator[RelayProcess]:
    """A relay by the clock, not started yet, ended with the test."""
    # Slow enough that the budget counts: 600 calls a minute, two a lead.
    settings = {"DUB_API_URL": dub.url, "RELAY_RATE": "600"}
    process = RelayProcess(tmp_path, settings | clock.environment)
    yield process
    assert await process.stop() == 0


async def sign_up(
    session: aiohttp.ClientSession,
    relay: RelayProcess,
    click: str,
    customer: str,
    clock: FakeClock,
) -> None:
    """Post a hook by the relay's clock; the caller's is as far ahead."""
    body = {"clickId": click, "eventName": "Go", "customerExternalId": customer}
    at = time.time() + clock.ahead_s
    status, _ = await post_hook(session, relay.url, body, f"msg_{customer}", at=at)
    assert status == 202


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
async def test_leads_go_once_whatever_the_clock_did(
    dub: SandboxDub,
    session: aiohttp.ClientSession,
    relay: RelayProcess,
    clock: FakeClock,
    restarted: bool,
) -> None:
    clock.set(AHEAD_S)
    await relay.start()
    click = await dub.click()
    await dub.fault(status=503)
    customers = [f"u_{n}" for n in range(2 * MOST_EARLIER)]
    for customer in customers[:MOST_EARLIER]:
        await sign_up(session, relay, click, customer, clock)
    while not [one for one in await relay.leads() if one["attempts"]]:
        pass

    if restarted:
        assert await relay.stop() == 0
    clock.set(0)
    await dub.mend()
    if restarted:
        await relay.start()
    for customer in customers[MOST_EARLIER:]:
        await sign_up(session, relay, click, customer, clock)

    leads = await relay.settled(len(customers), within=120)
    assert {lead["status"] for lead in leads} == {"delivered"}
    recorded = [lead["customerExternalId"] for lead in await dub.state("leads")]
    assert sorted(recorded) == sorted(customers)
