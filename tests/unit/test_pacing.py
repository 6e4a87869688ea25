"""The shared budget never lets a minute hold more calls than the plan has."""

from __future__ import annotations

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from relay.core.pacing import (
    RECOVERY_MS,
    SLOWEST,
    WINDOW_MS,
    Budget,
    affordable,
    burst,
    rate_at,
    ready_at,
    spend,
    throttled,
)

NOW = 1_700_000_000_000


@given(
    plan=st.integers(3, 3000),
    steps=st.lists(
        st.tuples(st.integers(0, 20_000), st.integers(1, 50)), min_size=1, max_size=300
    ),
)
def test_no_window_holds_more_than_the_plan(
    plan: int, steps: list[tuple[int, int]]
) -> None:
    budget, now = Budget(), NOW
    calls: list[int] = []
    for gap, wanted in steps:
        now += gap
        made = min(wanted, affordable(budget, plan, now))
        if made:
            budget = spend(budget, plan, now, made)
            calls += [now] * made
    for index, start in enumerate(calls):
        assert bisect_left(calls, start + WINDOW_MS) - index <= plan


@given(plan=st.integers(3, 3000), gap=st.integers(0, 5000))
def test_what_is_ready_can_be_afforded(plan: int, gap: int) -> None:
    budget = spend(Budget(), plan, NOW, burst(plan))
    now = NOW + gap

    at = ready_at(budget, plan, now, 2)

    assert at >= now
    assert affordable(budget, plan, at) >= 2


def test_a_lone_leads_two_calls_go_at_once() -> None:
    assert affordable(Budget(), 60, NOW) == 2
    assert affordable(Budget(), 1200, NOW) == 20


def test_a_backlog_drains_at_nearly_the_plans_rate() -> None:
    budget, made = Budget(), 0
    for now in range(NOW, NOW + 10 * WINDOW_MS, 50):
        calls = affordable(budget, 1200, now)
        if calls:
            budget = spend(budget, 1200, now, calls)
            made += calls

    assert 0.97 * 12_000 <= made <= 12_000


def test_a_429_pauses_halves_and_the_rate_rises_again() -> None:
    until = NOW + 5000

    lowered = throttled(Budget(), 1200, NOW, until)

    assert affordable(lowered, 1200, until - 1) == 0
    assert affordable(lowered, 1200, until) > 0
    assert rate_at(lowered, 1200, NOW) == 600
    assert 600 < rate_at(lowered, 1200, NOW + RECOVERY_MS // 4) < 1200
    assert rate_at(lowered, 1200, NOW + RECOVERY_MS) == 1200


def test_calls_throttled_together_lower_the_rate_once() -> None:
    budget = Budget()
    for n in range(20):
        budget = throttled(budget, 1200, NOW + n, NOW + 5000)

    assert rate_at(budget, 1200, NOW + 20) > 590


def test_no_number_of_429s_stops_delivery_for_good() -> None:
    budget = Budget()
    for n in range(100):
        budget = throttled(budget, 1200, NOW + n * 1001, NOW)

    assert rate_at(budget, 1200, NOW + 100_000) >= 1200 * SLOWEST


@given(st.integers(-10_000_000, 0))
def test_a_clock_set_back_raises_no_rate(back: int) -> None:
    budget = throttled(Budget(), 1200, NOW, NOW)

    assert rate_at(budget, 1200, NOW + back) == 600


def test_after_a_clock_set_back_calls_go_on() -> None:
    budget = throttled(spend(Budget(), 1200, NOW, 20), 1200, NOW, NOW + 60_000)
    before = NOW - 86_400_000

    assert affordable(budget, 1200, before) > 0
    assert ready_at(budget, 1200, before, 2) == before
