"""The relay behind a front server is frozen, and is restarted; the site stays up."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.support.front_rig import (
    KINDS,
    Site,
    all_is_served,
    fronted,
    relay,
    site,
)
from tests.support.harness import RelayProcess, SandboxDub

pytestmark = [pytest.mark.process, pytest.mark.slow]

__all__ = ["relay", "site"]  # fixtures


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
