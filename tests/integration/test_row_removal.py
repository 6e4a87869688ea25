"""Whole months of finished leads go once they are old, and prove nothing any more."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from relay.core.leads import LeadStatus
from relay.delivery.rollback import LastSeen
from relay.operations.retention import RowRemovalJob, whole_months_before
from relay.outbox.backends import open_outbox
from relay.outbox.contract import ImportedLead, NewLead, Outbox, Query
from tests.support.outbox_rig import DAY, new_lead, signup, status
from tests.support.outbox_rig import lead as made_lead


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    outbox = open_outbox(f"sqlite:///{tmp_path}/relay.db")
    await outbox.open()
    yield outbox
    await outbox.close()


async def delivered(outbox: Outbox, *days: str) -> None:
    """One lead of each day, which is its customer too."""
    for day in days:
        made = signup(day, at(day))
        await outbox.import_lead(ImportedLead(made, LeadStatus.DELIVERED, at(day)))


async def left(outbox: Outbox) -> list[str]:
    entries = await outbox.list(Query())
    return sorted(one.lead.customer_external_id for one in entries)


@pytest.mark.parametrize(
    ("now", "days", "before"),
    [
        ("2026-11-27T12:00", 400, "2025-10-01"),
        ("2026-11-27T12:00", 1, "2026-11-01"),
        ("2026-11-01T00:00", 31, "2026-10-01"),
        ("2026-03-01T00:00", 1, "2026-02-01"),
        ("2024-02-29T23:59", 366, "2023-02-01"),
    ],
)
def test_only_months_are_old_that_are_wholly_so(
    now: str, days: int, before: str
) -> None:
    assert whole_months_before(at(now), days) == at(before)


async def test_a_month_goes_when_its_last_day_is_old(outbox: Outbox) -> None:
    await delivered(outbox, "2026-01-01", "2026-01-31", "2026-02-01", "2026-03-05")
    now = at("2026-02-28")
    job = RowRemovalJob(outbox, days=30, for_ever=False, clock=lambda: now)
    assert await job.sweep() == 0

    # The thirty days are over for the first lead long before they are for its month.
    now = at("2026-03-04")
    assert await job.sweep() == 2
    assert await left(outbox) == ["2026-02-01", "2026-03-05"]
    assert await job.sweep() == 0

    now = at("2026-04-04")
    assert await job.sweep() == 1


async def test_more_rows_than_one_step_takes(outbox: Outbox) -> None:
    for number in range(170):
        made = signup(f"u{number}", at("2026-01-01"))
        state = LeadStatus.REJECTED if number % 50 < 5 else LeadStatus.DELIVERED
        await outbox.import_lead(ImportedLead(made, state, at("2026-01-01")))
    job = RowRemovalJob(outbox, days=30, for_ever=False, clock=lambda: at("2027-01-01"))

    assert await job.sweep() == 150
    assert await outbox.counts() == {LeadStatus.REJECTED: 20}


async def test_nothing_goes_where_all_is_kept(outbox: Outbox) -> None:
    """The job of 0 days ends by itself."""
    await delivered(outbox, "2020-01-01")
    job = RowRemovalJob(outbox, days=0, for_ever=False, clock=outbox.now)

    await job.run()

    assert await left(outbox) == ["2020-01-01"]


@pytest.mark.parametrize(("age", "in_doubt"), [(0, True), (401, False)])
async def test_a_lead_that_may_be_gone_does_not_prove_an_older_copy(
    outbox: Outbox, tmp_path: Path, age: int, in_doubt: bool
) -> None:
    """The lead that a relay delivered last is not there, by a restore or by its age."""
    waiting = new_lead(made_lead("u"))
    await outbox.put(waiting)
    path = tmp_path / "relay.seen"
    path.write_text("lead_gone\n")
    written = time.time() - age * DAY / 1000
    os.utime(path, (written, written))

    await LastSeen(outbox, path, keep_days=400).compare()

    [entry] = await outbox.list(Query())
    assert entry.in_doubt == in_doubt
    assert await status(outbox, waiting.lead.id) is LeadStatus.QUEUED


async def test_what_is_gone_is_remembered_by_the_settings_of_the_relay(
    outbox: Outbox,
) -> None:
    """dedupe_days = 0: the repeat of a lead that is gone is one."""
    await delivered(outbox, "2020-01-01")
    now = at("2026-01-01")
    job = RowRemovalJob(outbox, days=400, for_ever=True, clock=lambda: now)
    assert await job.sweep() == 1

    again = signup("2020-01-01", now)
    result = await outbox.put(NewLead(again.lead, again.dedupe_key, 0))

    assert result.outcome.value == "duplicate"
