"""Tickets: signed clicks that a user cannot make, and what is taken without one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.http import (
    cookies,
    tickets,
)
from relay.core.http.tickets import (
    MAX_WAIT_S,
    Opener,
    issue,
)
from relay.core.signing import BadSignatureError, StaleTimestampError, sign_json

CLICK = "hQWlM2kPzX9aBcDe"
OTHER = "anotherClick1234"
SECRETS = ("new", "old")
NOW = 1_700_000_000_000
HOUR = 3_600_000

OPENER = Opener(SECRETS)
STRICT = Opener(SECRETS, required=True)


def test_a_ticket_gives_its_click_back_and_looks_like_no_click_id() -> None:
    ticket = issue(CLICK, SECRETS, NOW)

    assert OPENER.open(ticket, NOW) == CLICK
    assert tickets.is_ticket(ticket)
    assert not cookies.is_click_id(ticket)
    assert not tickets.is_ticket(CLICK)


def test_it_fits_where_providers_keep_metadata() -> None:
    assert len(issue("x" * 64, SECRETS, NOW)) <= 200


def test_any_secret_of_the_list_opens_it() -> None:
    assert OPENER.open(issue(CLICK, ("old",), NOW), NOW) == CLICK
    with pytest.raises(BadSignatureError):
        OPENER.open(issue(CLICK, ("another",), NOW), NOW)


def test_it_lives_an_hour() -> None:
    ticket = issue(CLICK, SECRETS, NOW)

    assert OPENER.open(ticket, NOW + HOUR) == CLICK
    with pytest.raises(StaleTimestampError):
        OPENER.open(ticket, NOW + HOUR + 2000)


def test_its_age_counts_to_the_sign_up_however_late_the_hook_comes() -> None:
    ticket = issue(CLICK, SECRETS, NOW)
    late = NOW + 72 * HOUR

    assert OPENER.open(ticket, late, at=NOW + HOUR) == CLICK
    with pytest.raises(StaleTimestampError):
        OPENER.open(ticket, late, at=NOW + HOUR + 2000)
    with pytest.raises(StaleTimestampError):
        OPENER.open(ticket, late, at=late + HOUR)


@pytest.mark.parametrize("at", [1, 0, -5])
def test_an_impossible_time_of_sign_up_does_not_stretch_its_age(at: int) -> None:
    """A provider's created_at is what its record says, and people may write there."""
    ticket = issue(CLICK, SECRETS, NOW)

    assert OPENER.open(ticket, NOW + MAX_WAIT_S * 1000, at=at) == CLICK
    with pytest.raises(StaleTimestampError):
        OPENER.open(ticket, NOW + (MAX_WAIT_S + 3602) * 1000, at=at)


def test_it_may_be_newer_than_the_sign_up() -> None:
    assert OPENER.open(issue(CLICK, SECRETS, NOW), NOW, at=NOW - HOUR) == CLICK


@pytest.mark.parametrize("content", [7, "test", None, {"c": CLICK}, "<script>"])
def test_only_a_click_id_is_let_out(content: object) -> None:
    signed = sign_json(content, SECRETS, "dub-relay.ticket", NOW)

    with pytest.raises(BadSignatureError):
        OPENER.open(signed, NOW)


def test_what_was_signed_for_another_purpose_is_no_ticket() -> None:
    signed_cookie = cookies.seal(cookies.landed(None, CLICK, NOW, "/"), SECRETS, NOW)

    assert OPENER.find((signed_cookie,), (), NOW).told_by == tickets.FORGED


@given(st.text(st.characters(exclude_categories=()), max_size=80))
def test_garbage_is_never_a_click(value: str) -> None:
    found = OPENER.find((), (value,), NOW)

    assert found.click_id == (value if cookies.is_click_id(value) else None)


def test_the_first_usable_one_counts_and_a_servers_word_beats_the_persons() -> None:
    mine, theirs = issue(CLICK, SECRETS, NOW), issue(OTHER, SECRETS, NOW)

    assert OPENER.find((CLICK,), (theirs,), NOW).click_id == CLICK
    assert OPENER.find(("n/a",), (theirs,), NOW).click_id == OTHER
    assert OPENER.find((), (mine + "x", OTHER), NOW).click_id == OTHER
    assert OPENER.find((), (mine,), NOW) == tickets.FoundClick(CLICK, "ticket")
    assert OPENER.find((CLICK,), (), NOW) == tickets.FoundClick(CLICK, "clickId")


def test_where_tickets_are_required_a_plain_id_of_the_persons_is_not_taken() -> None:
    ticket = issue(CLICK, SECRETS, NOW)

    assert STRICT.find((), (CLICK,), NOW).told_by == tickets.TICKET_WANTED
    assert STRICT.find((), (ticket,), NOW).click_id == CLICK
    assert STRICT.find((CLICK,), (), NOW).click_id == CLICK


def test_why_there_is_no_click_is_told() -> None:
    old = issue(CLICK, SECRETS, NOW - 2 * HOUR)

    assert OPENER.find((), (), NOW).told_by == tickets.NO_CLICK
    assert OPENER.find((), ("n/a",), NOW).told_by == tickets.UNUSABLE
    assert OPENER.find((), (old,), NOW).told_by == tickets.EXPIRED
    assert OPENER.find((), ("a.b.c",), NOW).told_by == tickets.FORGED
