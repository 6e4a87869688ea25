"""The outbox as it stands, read once for everybody who looks.

A page shows what was read a moment ago, and asks for the next look while it is drawn.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from relay.core.clock import Clock
from relay.core.leads import OPEN, LeadRecord, LeadStatus
from relay.core.pacing import Budget
from relay.dashboard.sampling import EVERY_S, Seen, funnel
from relay.outbox.contract import (
    Gate,
    Outbox,
    OutboxUnavailableError,
    Query,
    Sample,
)

FRESH_S: Final = 2.0
"""How old a count may be. Nobody reads faster."""

SHARE: Final = 20
"""A look is not repeated before twenty times its own duration: it takes a
twentieth of one database connection at most, however busy that is."""

WINDOW_MS: Final = 24 * 3600 * 1000
"""What the funnel and the plots look back on."""

TROUBLES: Final = (
    LeadStatus.PARKED,
    LeadStatus.REJECTED,
    LeadStatus.UNCONFIRMED,
    LeadStatus.HELD,
)
"""States that wait for a person, the most urgent first."""

SHOWN_TROUBLES: Final = 4


@dataclass(frozen=True, slots=True)
class LiveStatus:
    """How things stand; ``at`` and ``oldest`` are epoch ms."""

    at: int
    counts: Mapping[LeadStatus, int]
    gate: Gate
    budget: Budget
    oldest: int | None
    seen: Seen
    troubles: Sequence[LeadRecord] = field(default_factory=tuple)

    @property
    def open(self) -> int:
        """How many leads are on their way."""
        return sum(self.counts.get(status, 0) for status in OPEN)

    @property
    def total(self) -> int:
        """How many leads there are."""
        return sum(self.counts.values())


class LiveWatch:
    """Reads how things stand, at most every few seconds."""

    def __init__(self, outbox: Outbox, clock: Clock) -> None:
        self._outbox = outbox
        self._clock = clock
        self._standing: LiveStatus | None = None
        self._fresh_until = 0.0
        self._reading: asyncio.Task[LiveStatus] | None = None
        self._samples: Sequence[Sample] = ()
        self._sampled_until = 0.0

    async def standing(self) -> LiveStatus:
        """Return how things stand; raise OutboxUnavailableError if nobody knows."""
        if time.monotonic() >= self._fresh_until and self._reading is None:
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(self._done)
        if self._standing is None and self._reading is not None:
            return await asyncio.shield(self._reading)
        if self._standing is None:
            raise OutboxUnavailableError("the outbox has not been read yet")
        return self._standing

    def stale(self) -> None:
        """Read again when next asked: somebody has just changed something."""
        self._fresh_until = 0.0
        self._standing = None

    async def _read(self) -> LiveStatus:
        started = time.monotonic()
        now = self._clock()
        outbox = self._outbox
        counts = await outbox.counts()
        standing = LiveStatus(
            at=now,
            counts=counts,
            gate=await outbox.gate(),
            budget=await outbox.budget(),
            oldest=await outbox.oldest_open(),
            seen=funnel(await self._window(now), counts),
            troubles=[
                entry
                for status in TROUBLES
                if counts.get(status)
                for entry in await outbox.list(
                    Query(status=status, limit=SHOWN_TROUBLES)
                )
            ][:SHOWN_TROUBLES],
        )
        took = time.monotonic() - started
        self._standing = standing
        self._fresh_until = time.monotonic() + max(FRESH_S, SHARE * took)
        return standing

    async def _window(self, now: int) -> Sequence[Sample]:
        """Read the samples of the window, as often as there may be new ones."""
        if time.monotonic() >= self._sampled_until:
            self._samples = await self._outbox.samples(now - WINDOW_MS)
            self._sampled_until = time.monotonic() + EVERY_S
        return self._samples

    def _done(self, task: asyncio.Task[LiveStatus]) -> None:
        self._reading = None
        if not task.cancelled() and task.exception() is not None:
            # Those that wait get the error; the others see that the page stands still.
            self._standing = None
