"""The outbox as it stands, read once for everybody who looks.

A page shows what was read a moment ago, and asks for the next look while it is drawn.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from relay.core.clock import Clock
from relay.core.leads import OPEN, LeadRecord, LeadStatus
from relay.core.pacing import Budget
from relay.observability.logging import get_logger
from relay.observability.metrics import Metrics
from relay.outbox.contract import (
    Circuit,
    Outbox,
    OutboxUnavailableError,
    Query,
    Sample,
)

log = get_logger()

MINUTE_MS: Final = 60_000
EVERY_S: Final = 15.0
"""A minute is written several times while it lasts, so that a plot is not a
minute behind."""

KEEP_MS: Final = 8 * 86_400_000
"""A week, and a day to compare its beginning with."""

LEADS: Final = "leads."
BEFORE: Final = "before."
"""Leads by state as they stood when the minute was first looked at."""

CAPTURED: Final = "captured."
CALLS: Final = "calls."
LANDINGS: Final = "landings"
CALL_SECONDS: Final = "call_seconds"
OLDEST: Final = "oldest_s"
PLAN: Final = "plan"
"""The calls a minute that the settings allow."""

ATTRIBUTED: Final = f"{CAPTURED}new"
UNATTRIBUTED: Final = f"{CAPTURED}unattributed"
LOST_RULE: Final = f"{CAPTURED}rejected"

ARRIVED: Final = frozenset({LeadStatus.DELIVERED, LeadStatus.CONFIRMED})


@dataclass(frozen=True, slots=True)
class Seen:
    """The way of sign-ups in a window of time, each a part of the one before.

    ``minutes`` says how many have been sampled: with few, little is known.
    """

    landings: int = 0
    signups: int = 0
    attributed: int = 0
    delivered: int = 0
    confirmed: int = 0
    minutes: int = 0


class Sampler:
    """Writes a sample of this process now and then, until it is cancelled."""

    def __init__(
        self, outbox: Outbox, metrics: Metrics, clock: Clock, relay: str, plan: int
    ) -> None:
        self._outbox = outbox
        self._metrics = metrics
        self._clock = clock
        self._relay = relay
        self._plan = plan
        self._minute = 0
        # What had been counted when the minute began, and when last looked at.
        self._began = self._before = metrics.totals()
        self._stood: Mapping[LeadStatus, int] = {}

    async def run(self) -> None:
        """Sample for ever. Trouble with the database is waited out."""
        while True:
            try:
                await self.take()
            except OutboxUnavailableError as error:
                log.warning("sample.not_stored", reason=str(error))
            await asyncio.sleep(EVERY_S)

    async def take(self) -> None:
        """Write what the current minute has brought so far."""
        now = self._clock()
        minute = now - now % MINUTE_MS
        totals, counts = self._metrics.totals(), await self._outbox.counts()
        if minute != self._minute:
            self._minute, self._began, self._stood = minute, self._before, counts
        self._before = totals
        grown = ((name, n - self._began.get(name, 0.0)) for name, n in totals.items())
        seen = {name: value for name, value in grown if value}
        seen |= {f"{BEFORE}{status}": float(n) for status, n in self._stood.items()}
        seen |= {f"{LEADS}{status}": float(n) for status, n in counts.items()}
        oldest = await self._outbox.oldest_open()
        seen[PLAN] = float(self._plan)
        seen[OLDEST] = (now - oldest) / 1000 if oldest is not None else 0.0
        sample = Sample(minute, self._relay, seen)
        await self._outbox.sample(sample, now - KEEP_MS)


def funnel(samples: Sequence[Sample], counts: Mapping[LeadStatus, int]) -> Seen:
    """Sum the samples of all relays up; counts is the outbox as it stands now."""
    sums: defaultdict[str, float] = defaultdict(float)
    for sample in samples:
        for name, value in sample.seen.items():
            sums[name] += value
    attributed = round(sums[ATTRIBUTED])
    delivered = min(attributed, _grown(samples, counts, ARRIVED))
    return Seen(
        landings=round(sums[LANDINGS]),
        signups=attributed + round(sums[UNATTRIBUTED] + sums[LOST_RULE]),
        attributed=attributed,
        delivered=delivered,
        confirmed=min(delivered, _grown(samples, counts, {LeadStatus.CONFIRMED})),
        minutes=len({sample.at for sample in samples}),
    )


def _grown(
    samples: Sequence[Sample],
    counts: Mapping[LeadStatus, int],
    states: Collection[LeadStatus],
) -> int:
    """How many leads have come into these states since the first sample began."""
    if not samples:
        return 0
    first = samples[0].seen
    before = sum(first.get(f"{BEFORE}{status}", 0.0) for status in states)
    return max(0, sum(counts.get(s, 0) for s in states) - round(before))


def plots(samples: Sequence[Sample]) -> dict[str, list[float | None]]:
    """Return series over time, as uPlot wants them: x in epoch seconds.

    A minute without a sample is None in each series: the relay was not running.
    """
    minutes: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        minutes[sample.at].append(sample)
    if not minutes:
        return {name: [] for name in ("at", *_SERIES)}
    times = range(min(minutes), max(minutes) + MINUTE_MS, MINUTE_MS)
    drawn: dict[str, list[float | None]] = {"at": [at / 1000 for at in times]}
    for name, read in _SERIES.items():
        drawn[name] = [read(minutes[at]) if at in minutes else None for at in times]
    return drawn


def _sum(*names: str) -> Callable[[Sequence[Sample]], float]:
    """Add up over relays: each counts what it did itself."""
    return lambda taken: sum(s.seen.get(n, 0.0) for s in taken for n in names)


def _all(prefix: str) -> Callable[[Sequence[Sample]], float]:
    return lambda taken: sum(
        value
        for sample in taken
        for name, value in sample.seen.items()
        if name.startswith(prefix)
    )


def _standing(*states: LeadStatus) -> Callable[[Sequence[Sample]], float]:
    """Take one relay's word: all count the same leads."""
    return lambda taken: max(
        sum(s.seen.get(f"{LEADS}{status}", 0.0) for status in states) for s in taken
    )


def _most(name: str) -> Callable[[Sequence[Sample]], float | None]:
    """Take the highest of what the relays say; None if none of them says it."""
    return lambda taken: max(
        (s.seen[name] for s in taken if name in s.seen), default=None
    )


def _mean_call(taken: Sequence[Sample]) -> float | None:
    calls = _all(CALLS)(taken)
    return 1000 * _sum(CALL_SECONDS)(taken) / calls if calls else None


_SERIES: Final[Mapping[str, Callable[[Sequence[Sample]], float | None]]] = {
    "landings": _sum(LANDINGS),
    "attributed": _sum(ATTRIBUTED),
    "unattributed": _sum(UNATTRIBUTED),
    "open": _standing(*OPEN),
    "parked": _standing(LeadStatus.PARKED),
    "rejected": _standing(LeadStatus.REJECTED),
    "held": _standing(LeadStatus.HELD),
    "delivered": _standing(LeadStatus.DELIVERED),
    "confirmed": _standing(LeadStatus.CONFIRMED),
    "calls": _all(CALLS),
    "failed": _sum(f"{CALLS}again", f"{CALLS}throttled", f"{CALLS}operator"),
    "plan": _most(PLAN),
    "call_ms": _mean_call,
    "oldest_s": _most(OLDEST),
}


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
    circuit: Circuit
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
            circuit=await outbox.circuit(),
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
