"""What the dashboard's plots and funnel are made of: samples of a real outbox."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.core.leads import LeadStatus
from relay.dashboard.live import MINUTE_MS, Sampler, funnel, plots
from relay.observability.metrics import Metrics
from relay.outbox.backends import open_outbox
from relay.outbox.contract import Outbox, Sample, Settlement
from tests.support.outbox_rig import NOW, claim_one, lead, new_lead

MINUTE = NOW - NOW % MINUTE_MS


class Watch:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = MINUTE

    def __call__(self) -> int:
        return self.now


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    opened = open_outbox(f"sqlite:///{tmp_path}/relay.db")
    await opened.open()
    yield opened
    await opened.close()


async def deliver(outbox: Outbox, customer: str) -> None:
    await outbox.put(new_lead(lead(customer)))
    claim = await claim_one(outbox)
    await outbox.settle(claim, Settlement(LeadStatus.DELIVERED, delivered_at=NOW), NOW)


async def test_what_is_delivered_in_the_first_minute_counts(outbox: Outbox) -> None:
    await deliver(outbox, "before the relay looked")
    metrics, clock = Metrics(), Watch()
    sampler = Sampler(outbox, metrics, clock, "a", 600)
    await sampler.take()

    metrics.captured.labels("hook", "new").inc(2)
    metrics.captured.labels("hook", "unattributed").inc()
    metrics.landings.inc(5)
    await deliver(outbox, "ada")
    await deliver(outbox, "grace")
    clock.now += MINUTE_MS - 1
    await sampler.take()

    seen = funnel(await outbox.samples(0), await outbox.counts())
    assert (seen.landings, seen.signups, seen.attributed) == (5, 3, 2)
    assert (seen.delivered, seen.confirmed, seen.minutes) == (2, 0, 1)


async def test_each_minute_has_its_own_growth(outbox: Outbox) -> None:
    metrics, clock = Metrics(), Watch()
    sampler = Sampler(outbox, metrics, clock, "a", 600)
    for grown in (1, 2):
        metrics.landings.inc(grown)
        await sampler.take()
        clock.now += MINUTE_MS

    drawn = plots(await outbox.samples(0))
    assert drawn["at"] == [MINUTE / 1000, MINUTE / 1000 + 60]
    assert drawn["landings"] == [1, 2]
    assert drawn["plan"] == [600, 600]


def test_relays_are_added_up_but_not_the_leads_they_share() -> None:
    both = [
        Sample(MINUTE, name, {"landings": 2.0, "leads.queued": 7.0, "oldest_s": 3.0})
        for name in ("a", "b")
    ]

    drawn = plots(both)

    assert drawn["landings"] == [4]
    assert drawn["open"] == [7]
    assert drawn["oldest_s"] == [3]


def test_a_minute_in_which_nobody_looked_is_a_gap() -> None:
    drawn = plots([Sample(MINUTE, "a", {}), Sample(MINUTE + 2 * MINUTE_MS, "a", {})])

    assert len(drawn["at"]) == 3
    assert drawn["calls"] == [0, None, 0]
    assert drawn["call_ms"] == [None, None, None]
    assert plots([])["at"] == []
