"""Erases personal data, and removes rows, whose time is over, beside delivery."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
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


# --- Rows of finished leads. ---

ROWS: Final = 50
"""Rows that are looked at in one transaction, and removed if they are to go; as many as
:data:`BATCH`, for the same reason."""

SHARE: Final = 40
"""A step is followed by a pause of so many times its length: of the writer's time,
removal takes a fortieth (bench/removal.py). The length has the waiting for the writer
in it: the busier the relay, the slower rows go."""

MOST_PAUSE_S: Final = 10.0
"""One step that waited long, for a lock or a disk, is no reason to stop for minutes."""


def whole_months_before(now: int, days: int) -> int:
    """Return the beginning (epoch ms) of the month, in UTC, that was so many days ago.

    What is older lies in months that are wholly older than that.
    """
    then = datetime.fromtimestamp((now - days * DAY_MS) / 1000, UTC)
    month = then.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return round(month.timestamp() * 1000)


class RowRemovalJob:
    """Removes whole months of finished leads after so many days; 0 days: never.

    ``for_ever``: a sign-up counts once for ever, so that a hash of each stays. Any
    number of relays may do so on one database.
    """

    def __init__(
        self, outbox: Outbox, *, days: int, for_ever: bool, clock: Clock
    ) -> None:
        self._outbox = outbox
        self._days = days
        self._for_ever = for_ever
        self._clock = clock
        self._done = 0

    async def run(self) -> None:
        """Look now and then whether a month is over; ends by being cancelled."""
        while self._days:
            try:
                await self.sweep()
            except OutboxUnavailableError as error:
                log.error("removal.database_unavailable", reason=str(error))
            await asyncio.sleep(SWEEP_S)

    async def sweep(self) -> int:
        """Remove what is old, unless that was done for this month; how many leads."""
        before = whole_months_before(self._clock(), self._days)
        if before <= self._done:
            return 0
        total, last = 0, 0
        while True:
            began = time.monotonic()
            step = await self._outbox.remove_old(
                last, before, ROWS, for_ever=self._for_ever
            )
            total += step.leads
            if step.last is None:
                break
            last = step.last
            took = time.monotonic() - began
            await asyncio.sleep(min(MOST_PAUSE_S, took * SHARE) if step.leads else 0)
        self._done = before
        if total:
            log.info("removal.removed", leads=total)
        return total
