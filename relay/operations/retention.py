"""Erases personal data whose time is over, beside delivery."""

from __future__ import annotations

import asyncio
from typing import Final

from relay.core.clock import Clock
from relay.observability.logging import get_logger
from relay.outbox.contract import Outbox, OutboxUnavailableError

log = get_logger()

DAY_MS: Final = 86_400_000

SWEEP_S: Final = 600.0
"""How often it is looked; an answer costs one step in an index."""

BATCH: Final = 50
"""Leads erased in one transaction: some ten milliseconds among a million, as their
indexes' pages lie far apart, and other writers wait meanwhile for them."""

PAUSE_S: Final = 0.05
"""Between two batches, for everybody else: a million leads take half an hour."""


class RetentionJob:
    """Erases settled leads' personal data after so many days; 0 days: never.

    Any number of relays may do so on one database.
    """

    def __init__(self, outbox: Outbox, *, days: int, clock: Clock) -> None:
        self._outbox = outbox
        self._days = days
        self._clock = clock

    async def run(self) -> None:
        """Sweep now and then; ends by being cancelled."""
        while self._days:
            try:
                await self.sweep()
            except OutboxUnavailableError as error:
                log.error("retention.database_unavailable", reason=str(error))
            await asyncio.sleep(SWEEP_S)

    async def sweep(self) -> int:
        """Erase everything whose time is over; how many leads."""
        total = 0
        while erased := await self._batch():
            total += erased
            await asyncio.sleep(PAUSE_S)
        if total:
            log.info("retention.erased", leads=total)
        return total

    async def _batch(self) -> int:
        now = self._clock()
        return await self._outbox.erase_due(now - self._days * DAY_MS, BATCH, now)
