"""Keeps calls to Dub below the plan's rate, and silent while Dub says wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

WINDOW_S: Final = 60.0
"""Dub counts calls a key in a sliding window of one minute."""


class Pacer:
    """Spaces calls so that no window of a minute holds more than ``rate``.

    A short burst (one second's worth) goes at once, for a lead takes two calls
    and a lone sign-up must not wait; the steady flow is lowered by that burst,
    so that burst and flow together stay within the plan.
    """

    def __init__(self, rate: int, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        burst = max(1.0, rate / WINDOW_S)
        self._interval = WINDOW_S / max(rate - burst, 1.0)
        self._tolerance = (burst - 1) * self._interval
        # The time at which the bucket would be empty (GCRA's theoretical
        # arrival time): one number instead of a list of the last calls.
        self._next = 0.0
        self._paused_until = 0.0

    def pause(self, seconds: float) -> None:
        """Let no call go for so many seconds from now; Dub asked for it."""
        self._paused_until = max(self._paused_until, self._monotonic() + seconds)

    def delay(self) -> float:
        """Give the seconds until the next call may go; takes no place."""
        now = self._monotonic()
        return max(now, self._next - self._tolerance, self._paused_until) - now

    def reserve(self) -> float:
        """Take the next place in line; give the seconds to wait for it."""
        delay = self.delay()
        self._next = max(self._next, self._monotonic() + delay) + self._interval
        return delay

    async def wait(self) -> None:
        """Return when the caller may make one call."""
        delay = self.reserve()
        if delay > 0:
            await asyncio.sleep(delay)
