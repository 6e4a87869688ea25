"""One visitor's calls a minute, and the bound on what is remembered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.http.callers import VisitorRate

HERE = "203.0.113.7"
ELSEWHERE = "203.0.113.8"


def passes(rate: VisitorRate, address: str, now: float) -> bool:
    return rate.take(address, now) == 0


def test_a_minutes_calls_may_come_at_once_and_the_next_must_wait() -> None:
    rate = VisitorRate(60)

    assert [passes(rate, HERE, 0) for _ in range(61)] == [True] * 60 + [False]
    assert rate.take(HERE, 0) == 1
    assert rate.take(HERE, 0.25) == 0.75
    assert passes(rate, HERE, 1)
    assert not passes(rate, HERE, 1)


def test_one_visitor_does_not_use_up_anothers_calls() -> None:
    rate = VisitorRate(1)

    assert passes(rate, HERE, 0)
    assert passes(rate, ELSEWHERE, 0)
    assert not passes(rate, HERE, 0)


def test_a_slow_rate_says_how_long_to_wait() -> None:
    rate = VisitorRate(2)
    rate.take(HERE, 0)
    rate.take(HERE, 0)

    assert rate.take(HERE, 0) == pytest.approx(30)
    assert passes(rate, HERE, 30)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("unknown", "unknown", True),
    ],
)
def test_who_owns_a_network_is_one_visitor(one: str, other: str, *, same: bool) -> None:
    rate = VisitorRate(1)
    rate.take(one, 0)

    assert passes(rate, other, 0) is not same


def test_the_addresses_remembered_are_bounded_and_the_oldest_goes_first() -> None:
    rate = VisitorRate(1, most=2)
    for address in (HERE, ELSEWHERE, "198.51.100.1"):
        rate.take(address, 0)

    assert not passes(rate, ELSEWHERE, 0)
    # Forgotten, which is as good as having waited.
    assert passes(rate, HERE, 0)


def test_a_clock_that_stands_or_goes_back_gives_nothing_away() -> None:
    rate = VisitorRate(1)
    rate.take(HERE, 100)

    assert not passes(rate, HERE, 50)
    assert not passes(rate, HERE, 100)


@given(st.integers(1, 1000), st.lists(st.floats(0, 10, allow_nan=False), max_size=200))
def test_no_visitor_gets_more_than_the_rate_and_one_burst(
    per_minute: int, pauses: list[float]
) -> None:
    rate, now, passed = VisitorRate(per_minute), 0.0, 0
    for pause in pauses:
        now += pause
        passed += passes(rate, HERE, now)

    assert passed <= per_minute + now * per_minute / 60 + 1e-6


def test_turns_come_one_after_the_other_and_none_too_late() -> None:
    rate = VisitorRate(60)

    turns = [rate.turn(HERE, 0, most=10) for _ in range(90)]

    assert turns[:60] == [0] * 60
    assert turns[60:65] == [1, 2, 3, 4, 5]
    assert turns[70:] == [10] * 20
    assert rate.turn(ELSEWHERE, 0, most=10) == 0
    # Who waited has no more behind him than the others of that time.
    assert rate.turn(HERE, 5, most=10) == 6
    assert rate.turn(HERE, 70, most=10) == 0


def test_a_rate_may_be_of_another_time() -> None:
    rate = VisitorRate(2, span=3600)

    assert [passes(rate, HERE, 0) for _ in range(3)] == [True, True, False]
    assert not passes(rate, HERE, 1790)
    assert passes(rate, HERE, 1800)


def test_calls_from_many_addresses_do_not_fill_an_empty_bucket() -> None:
    rate = VisitorRate(10, most=100)
    while passes(rate, HERE, 0):
        pass

    for number in range(1000):
        rate.take(f"10.0.{number // 250}.{number % 250}", 0)

    assert not passes(rate, HERE, 0)
