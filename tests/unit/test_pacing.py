"""The pacer never lets a minute hold more calls than the plan has."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.delivery.pacing import WINDOW_S, Pacer


class Watch:
    """A monotonic clock that stands still until it is told to move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(
    rate=st.integers(1, 3000),
    gaps=st.lists(st.floats(0, 5) | st.just(0.0), min_size=1, max_size=400),
)
def test_no_window_of_a_minute_holds_more_than_the_rate(
    rate: int, gaps: list[float]
) -> None:
    watch = Watch()
    pacer = Pacer(rate, watch)
    times = []
    for gap in gaps:
        watch.now += gap
        times.append(watch.now + pacer.reserve())
    times.sort()
    for index, start in enumerate(times):
        in_window = bisect_left(times, start + WINDOW_S - 1e-6) - index
        assert in_window <= rate


def test_a_lone_leads_two_calls_go_at_once() -> None:
    pacer = Pacer(1200, Watch())

    assert [pacer.reserve(), pacer.reserve()] == [0.0, 0.0]


def test_a_pause_that_dub_asks_for_holds_every_call() -> None:
    watch = Watch()
    pacer = Pacer(60_000, watch)

    pacer.pause(30)

    assert pacer.reserve() == pytest.approx(30)
    watch.now += 31
    assert pacer.reserve() == 0.0


def test_a_shorter_pause_does_not_shorten_a_longer_one() -> None:
    pacer = Pacer(1200, Watch())

    pacer.pause(30)
    pacer.pause(5)

    assert pacer.reserve() == pytest.approx(30)
