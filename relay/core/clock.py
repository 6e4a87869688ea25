"""The one place that reads the wall clock and rolls dice for the program."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

Clock = Callable[[], int]
"""Returns the time in epoch milliseconds."""

Roll = Callable[[], float]
"""Returns a number in [0, 1) for jitter."""


_STOCK: Final = 1_000


def now_ms() -> int:
    """Return the wall clock in epoch milliseconds."""
    return time.time_ns() // 1_000_000


def ticks_ms() -> int:
    """Return a clock in milliseconds that nobody sets, and that runs while asleep."""
    boot = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(boot) // 1_000_000


class SharedClock:
    """The clock of a server that several machines read, between two looks at it.

    The machine's own wall clock takes no part once the server's was read: it may be
    wrong, and it may be set at any moment.
    """

    def __init__(self, fresh_ms: int) -> None:
        self._fresh_ms = fresh_ms
        self._read: tuple[int, int] | None = None
        self._old = False

    def now(self) -> int:
        """Return the server's time in epoch ms; this machine's until it was read."""
        if self._read is None:
            return now_ms()
        server, ticks = self._read
        return server + ticks_ms() - ticks

    @property
    def stale(self) -> bool:
        """Whether the server should be asked again."""
        if self._read is None or self._old:
            return True
        return ticks_ms() - self._read[1] > self._fresh_ms

    def set(self, server: int, asked: int, answered: int) -> None:
        """Take the server's time, asked for and answered at those ticks."""
        self._read, self._old = (server, (asked + answered) // 2), False

    def forget(self) -> None:
        """Ask again at the next opportunity: the server may be another one."""
        self._old = True


class SetBack:
    """Notices when the wall clock was set back, beside one that never is."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._look()

    def by(self) -> int:
        """Return by how many milliseconds, since the last time this was asked."""
        seen, ticks = self._seen, self._ticks
        self._look()
        return max(0, seen + self._ticks - ticks - self._seen)

    def _look(self) -> None:
        self._seen = self._clock()
        self._ticks = time.monotonic_ns() // 1_000_000


def roll() -> float:
    """Roll for jitter; it spreads retries and guards no secret."""
    return random.random()  # noqa: S311 - jitter, not cryptography


def new_lead_id(now: int) -> str:
    """Make ``lead_`` and 32 hexadecimal digits that sort by time, as UUIDv7 does.

    Ids that grow with time keep the database's index pages hot: random ones
    would dirty a page each and make every commit larger.
    """
    return f"lead_{now:012x}{_random.hex(10)}"


class _Random:
    """Random bytes, fetched from the system many at a time: a call costs 5 us."""

    def __init__(self) -> None:
        self._stock = b""
        # Two workers must not draw from copies of one stock.
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        self._stock = b""

    def hex(self, size: int) -> str:
        """Return so many bytes, in hexadecimal."""
        stock = self._stock
        if len(stock) < size:
            stock = os.urandom(_STOCK)
        self._stock = stock[size:]
        return stock[:size].hex()


_random: Final = _Random()


def iso(ms: int) -> str:
    """Write epoch milliseconds as ISO 8601 in UTC, with milliseconds and Z."""
    stamp = datetime.fromtimestamp(ms / 1000, UTC)
    return stamp.isoformat(timespec="milliseconds").replace("+00:00", "Z")
