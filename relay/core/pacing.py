"""The budget of calls to Dub, shared by every relay on one database. Pure.

Dub counts calls a key in a sliding window of one minute. The budget is a leaky
bucket (GCRA): one number, the time at which it would be empty again, instead of
a list of the last calls. It lives in one row, so that relays cannot add up to
more than the plan has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

WINDOW_MS: Final = 60_000
"""Dub's window."""

LONGEST_PAUSE_MS: Final = 300_000
"""The longest wait that a Retry-After can ask for (relay/core/dub/replies.py)."""

RECOVERY_MS: Final = 600_000
"""How long a lowered rate takes to rise from nothing to the plan's again.

Ten windows: slow enough to find the rate that somebody else leaves us, fast
enough that one stray 429 costs a few minutes of half speed.
"""

SLOWEST: Final = 0.05
"""The share of the plan's rate that no 429 takes away, so that there is always
a call that can find out whether Dub takes them again."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What may be spent: ``plan`` calls a minute, ``calls`` for each lead."""

    plan: int
    calls: int


@dataclass(frozen=True, slots=True)
class Budget:
    """What has been spent. Times are epoch ms.

    ``spent_until`` is when the calls made so far are paid for at the present
    rate. ``share`` of the plan's rate was left at ``lowered_at`` after a 429; it
    rises from there. Nothing is called before ``paused_until``.
    """

    spent_until: float = 0.0
    paused_until: int = 0
    share: float = 1.0
    lowered_at: int = 0


def rate_at(budget: Budget, plan: int, now: int) -> float:
    """Return the calls a minute that may be made now, at most the plan's."""
    risen = budget.share + max(0, now - budget.lowered_at) / RECOVERY_MS
    return plan * min(1.0, max(SLOWEST, risen))


def affordable(budget: Budget, plan: int, now: int) -> int:
    """Return how many calls may be made at once, now.

    One second's worth may go as a burst, but at least two, a lead's: a lone
    sign-up must not wait between its calls. The steady flow is lower by the
    burst, so that no window holds more than the plan.
    """
    if now < _paused_until(budget, now):
        return 0
    rate = rate_at(budget, plan, now)
    ahead = _spent_until(budget, now) - now
    return max(0, int(burst(plan) - ahead / _interval(rate, plan) + 1e-9))


def spend(budget: Budget, plan: int, now: int, calls: int) -> Budget:
    """Return the budget after so many calls more."""
    interval = _interval(rate_at(budget, plan, now), plan)
    start = _spent_until(budget, now)
    return replace(budget, spent_until=start + calls * interval)


def throttled(budget: Budget, plan: int, now: int, until: int) -> Budget:
    """Return the budget after a 429 that asks to wait until then: half the rate.

    Calls that were under way together are throttled together: only the first of
    a second halves it.
    """
    paused = replace(budget, paused_until=max(budget.paused_until, until))
    if now - budget.lowered_at < 1000:
        return paused
    share = rate_at(budget, plan, now) / plan
    return replace(paused, share=max(SLOWEST, share / 2), lowered_at=now)


def ready_at(budget: Budget, plan: int, now: int, calls: int) -> int:
    """Return when so many calls can be made at once (epoch ms); now, if they can."""
    interval = _interval(rate_at(budget, plan, now), plan)
    paid = _spent_until(budget, now) - (burst(plan) - calls) * interval
    resumed = _paused_until(budget, now)
    return max(now, resumed, int(paid) + 1 if paid > now else now)


def burst(plan: int) -> int:
    """Return how many calls may go at once after a quiet minute."""
    return max(2, plan * 1000 // WINDOW_MS)


def _spent_until(budget: Budget, now: int) -> float:
    """Read what is spent.

    What lies further ahead than any burst can reach was written before the clock
    was set back: then nothing is spent.
    """
    far = budget.spent_until > now + 2 * WINDOW_MS
    return float(now) if far else max(budget.spent_until, float(now))


def _paused_until(budget: Budget, now: int) -> int:
    """Read the pause, likewise: no answer of Dub's is believed for longer."""
    return 0 if budget.paused_until > now + LONGEST_PAUSE_MS else budget.paused_until


def _interval(rate: float, plan: int) -> float:
    """Return the ms that one call costs, with the burst taken out of each window."""
    return WINDOW_MS / max(rate - burst(plan), 1.0)
