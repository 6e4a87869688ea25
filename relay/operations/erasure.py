"""Erases one customer's personal data everywhere: what the CLI and dashboard do."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from relay.capture import spill
from relay.core.leads import Lead
from relay.outbox.contract import Forgotten, Outbox, Scrubbed, Wanted
from relay.outbox.encryption import Seal


@dataclass(frozen=True, slots=True)
class Erased:
    """What was erased, and from where. ``unreadable`` are lines of the spill file."""

    forgotten: Forgotten
    spilled: int
    unreadable: int
    scrubbed: Scrubbed

    @property
    def problem(self) -> str | None:
        """Say what may still hold this customer; None if nothing does."""
        if self.unreadable:
            return (
                f"{self.unreadable} lines of the spill file cannot be read, and may"
                " hold this customer: is every key in RELAY_DATA_KEY?"
            )
        if not self.scrubbed.clean:
            return f"not out of the database's files: {self.scrubbed.reason}"
        return None


async def erase(
    outbox: Outbox, database: str, seal: Seal, wanted: Wanted, now: int
) -> Erased:
    """Erase it; relays may run meanwhile.

    Raises OSError if the spill file could not be rewritten, and
    OutboxUnavailableError.
    """

    def is_wanted(lead: Lead) -> bool:
        if wanted.lead_id is not None:
            return lead.id == wanted.lead_id
        return lead.customer_external_id == wanted.customer

    # The file first: what a relay takes in meanwhile is then in the database.
    path = spill.spill_path(database)
    purged = await asyncio.to_thread(spill.forget, path, is_wanted, seal)
    forgotten = await outbox.forget(wanted, now)
    scrubbed = await outbox.scrub(forgotten)
    return Erased(forgotten, purged.leads, purged.unreadable, scrubbed)
