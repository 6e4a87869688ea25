"""What waits in memory is late; only what is dropped from there is lost."""

from __future__ import annotations

from pathlib import Path

from relay.capture import spill
from relay.capture.spill import Spill
from relay.outbox.contract import NewLead
from tests.support.outbox_rig import new_lead


async def test_only_what_is_dropped_from_memory_counts_as_lost(tmp_path: Path) -> None:
    stored: list[NewLead] = []
    lost: list[int] = []

    async def store(new: NewLead, _: str | None) -> None:
        stored.append(new)

    nowhere = tmp_path / "missing" / "relay.spill"
    kept = Spill(nowhere, store, on_lost=lambda: lost.append(1))
    for _ in range(spill.MOST_IN_MEMORY):
        assert not await kept.keep(new_lead(), None)
    assert lost == []

    await kept.keep(new_lead(), None)
    assert lost == [1]
    await kept.take_in()
    assert len(stored) == spill.MOST_IN_MEMORY
    assert lost == [1]
