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
