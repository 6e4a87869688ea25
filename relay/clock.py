"""The one place that reads the wall clock and rolls dice for the program."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

Clock = Callable[[], int]
"""Gives the time in epoch milliseconds."""

Roll = Callable[[], float]
"""Gives a number in [0, 1) for jitter."""

_CROCKFORD: Final = "0123456789abcdefghjkmnpqrstvwxyz"


def now_ms() -> int:
    """Give the wall clock in epoch milliseconds."""
    return time.time_ns() // 1_000_000


def roll() -> float:
    """Roll for jitter; it spreads retries and guards no secret."""
    return random.random()  # noqa: S311 - jitter, not cryptography


def new_lead_id(now: int) -> str:
    """Make ``lead_`` + 26 characters that sort by time (as a ULID does).

    Ids that grow with time keep the database's index pages hot: random ones
    would dirty a page each and make every commit larger.
    """
    number = (now & (1 << 48) - 1) << 80 | secrets.randbits(80)
    return "lead_" + "".join(
        _CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5)
    )


def iso(ms: int) -> str:
    """Write epoch milliseconds as ISO 8601 in UTC, with milliseconds and Z."""
    stamp = datetime.fromtimestamp(ms / 1000, UTC)
    return stamp.isoformat(timespec="milliseconds").replace("+00:00", "Z")
