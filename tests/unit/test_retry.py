"""What follows from an outcome, as a table of decisions."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.dub.replies import (
    MAX_WAIT_MS,
    Meaning,
    Outcome,
)
from relay.core.dub.retry import (
    DAY,
    HOUR,
    Move,
    Park,
    Policy,
    Proceed,
    backoff,
    decide,
    probe_delay,
    unrepeatable,
)
from relay.core.leads import MOVES, Lead, LeadRecord, LeadStatus, Mode, Sale, Step

NOW = 1_750_000_000_000  # 2025-06-15T15:06:40Z
POLICY = Policy()
OVER = NOW - POLICY.for_ms

# A loaded machine must not fail a test of values.
untimed = settings(deadline=None)


def entry(
    *,
    mode: Mode = Mode.ASYNC,
    attempts: int = 0,
    in_doubt: bool = False,
    key_claimed_at: int | None = None,
    sale: Sale | None = None,
) -> LeadRecord:
    """Make a lead that is being sent, as it stood before the call."""
    made_at = NOW if sale else 0
    lead = Lead("lead_1", "hook", "c_1", "Sign Up", "u_1", made_at, mode, sale=sale)
    return LeadRecord(
        lead,
        LeadStatus.SENDING,
        attempts=attempts,
        in_doubt=in_doubt,
        key_claimed_at=key_claimed_at,
    )


def next_move(
    step: Step,
    outcome: Outcome | Meaning,
    before: LeadRecord | None = None,
    *,
    since: int = NOW,
) -> Proceed | Park | Move:
    """Decide with the default policy, without jitter."""
    if isinstance(outcome, Meaning):
        outcome = Outcome(outcome, "Dub said so")
    before = before or entry()
    return decide(before, step, outcome, now=NOW, since=since, roll=0.0, policy=POLICY)


# --- taken, or had before ---


def test_a_proved_lead_goes_on_to_recording() -> None:
    assert next_move(Step.PROVE, Meaning.TAKEN) == Proceed()


def test_a_deferred_lead_is_delivered_by_the_proving_call() -> None:
    deferred = entry(mode=Mode.DEFERRED)

    assert next_move(Step.PROVE, Meaning.TAKEN, deferred) == Move(LeadStatus.DELIVERED)


@pytest.mark.parametrize("before", [entry(), entry(in_doubt=True)])
def test_a_link_for_the_recording_call_ends_all_doubt(before: LeadRecord) -> None:
    assert next_move(Step.RECORD, Meaning.TAKEN, before) == Move(LeadStatus.DELIVERED)


def test_no_link_for_our_first_recording_call_is_somebody_elses_lead() -> None:
    assert next_move(Step.RECORD, Meaning.NO_LINK) == Move(
        LeadStatus.DUPLICATE, reason="Dub had this customer and event from elsewhere"
    )


def test_no_link_after_a_call_of_ours_that_may_have_counted_is_unconfirmed() -> None:
    move = next_move(Step.RECORD, Meaning.NO_LINK, entry(in_doubt=True))

    assert isinstance(move, Move)
    assert (move.status, move.in_doubt) == (LeadStatus.UNCONFIRMED, True)
    assert move.reason is not None
    assert "earlier call of ours" in move.reason


@pytest.mark.parametrize("ago", [-HOUR, 0, DAY, 7 * DAY])
def test_no_link_while_a_call_of_ours_holds_dubs_key_is_nobody_elses_lead(
    ago: int,
) -> None:
    move = next_move(Step.RECORD, Meaning.NO_LINK, entry(key_claimed_at=NOW - ago))

    assert isinstance(move, Move)
    assert (move.status, move.in_doubt) == (LeadStatus.WAITING, False)
    # An hour ahead: the clock was set back since, and no key is held for longer.
    assert move.due_at == NOW - max(ago, 0) + 7 * DAY + HOUR
    assert "our own call of 2025-06" in (move.reason or "")


def test_no_link_once_the_key_of_our_call_has_run_out_is_somebody_elses_lead() -> None:
    long_ago = entry(key_claimed_at=NOW - 7 * DAY - HOUR)

    move = next_move(Step.RECORD, Meaning.NO_LINK, long_ago)

    assert isinstance(move, Move)
    assert move.status is LeadStatus.DUPLICATE


def test_no_link_for_the_proving_call_is_a_passing_fault() -> None:
    assert next_move(Step.PROVE, Meaning.NO_LINK) == Move(
        LeadStatus.WAITING,
        due_at=NOW + 2_500,
        reason="Dub answered the deferred call without a link",
    )


# --- what Dub would count a second time ---


@pytest.mark.parametrize(
    ("ago", "ends"), [(0, False), (7 * DAY - HOUR - 1, False), (7 * DAY - HOUR, True)]
)
def test_a_lead_in_doubt_is_not_sent_once_dubs_key_may_have_run_out(
    ago: int, *, ends: bool
) -> None:
    move = unrepeatable(entry(in_doubt=True, key_claimed_at=NOW - ago), NOW)

    assert (move is not None) is ends
    if move is not None:
        assert (move.status, move.in_doubt) == (LeadStatus.UNCONFIRMED, True)


def test_without_doubt_an_old_key_stops_nothing() -> None:
    assert unrepeatable(entry(key_claimed_at=NOW - 30 * DAY), NOW) is None


@pytest.mark.parametrize("meaning", [Meaning.AGAIN, Meaning.THROTTLED])
def test_a_sale_without_invoice_that_may_have_counted_is_not_repeated(
    meaning: Meaning,
) -> None:
    outcome = Outcome(meaning, "a proxy said so", may_have_counted=True)

    move = next_move(Step.SALE, outcome, entry(sale=Sale(4900)))

    assert isinstance(move, Move)
    assert (move.status, move.in_doubt) == (LeadStatus.UNCONFIRMED, True)


def test_a_sale_cut_by_our_time_limit_is_not_repeated_while_dub_may_be_at_work() -> (
    None
):
    sale = entry(sale=Sale(4900, invoice_id="in_1"))
    outcome = Outcome(Meaning.AGAIN, "no answer", may_have_counted=True, timed_out=True)

    move = next_move(Step.SALE, outcome, sale)

    assert isinstance(move, Move)
    assert (move.status, move.in_doubt) == (LeadStatus.WAITING, True)
    assert move.due_at == NOW + 300_000


# --- a sale before its lead ---


def test_a_sale_of_a_customer_whom_dub_does_not_know_waits_for_the_lead() -> None:
    sale = entry(sale=Sale(4900, invoice_id="in_1"), attempts=9)

    move = next_move(Step.SALE, Meaning.NO_LINK, sale)

    assert isinstance(move, Move)
    assert (move.status, move.due_at) == (LeadStatus.WAITING, NOW + 60_000)
    assert "not yet" in (move.reason or "")


def test_a_sale_whose_lead_never_comes_says_how_long_it_waited() -> None:
    sale = entry(sale=Sale(4900))

    move = next_move(Step.SALE, Meaning.NO_LINK, sale, since=NOW - 2 * HOUR)

    assert isinstance(move, Move)
    assert (move.status, move.reason) == (
        LeadStatus.REJECTED,
        "Dub said so, after 2 hours",
    )


# --- passing faults ---


@pytest.mark.parametrize("step", [Step.PROVE, Step.RECORD])
def test_a_passing_fault_is_tried_again_after_a_wait(step: Step) -> None:
    assert next_move(step, Meaning.AGAIN) == Move(
        LeadStatus.WAITING, due_at=NOW + 2_500, reason="Dub said so"
    )


def test_the_wait_grows_with_the_calls_made_so_far() -> None:
    waits = []
    for attempts in range(12):
        move = next_move(Step.PROVE, Meaning.AGAIN, entry(attempts=attempts))
        assert isinstance(move, Move)
        assert move.due_at is not None
        waits.append((move.due_at - NOW) / 500)

    assert waits[:5] == [5, 10, 20, 40, 80]
    assert waits[-2:] == [3600, 3600]


@pytest.mark.parametrize(
    ("before", "counted", "doubt"),
    [
        (entry(), False, False),
        (entry(), True, True),
        (entry(in_doubt=True), False, True),
        (entry(in_doubt=True), True, True),
    ],
)
def test_doubt_is_kept_while_nothing_settles_it(
    before: LeadRecord,
    counted: bool,
    doubt: bool,
) -> None:
    outcome = Outcome(Meaning.AGAIN, "cut", may_have_counted=counted)

    move = next_move(Step.RECORD, outcome, before)

    assert isinstance(move, Move)
    assert (move.status, move.in_doubt) == (LeadStatus.WAITING, doubt)


def test_a_wait_that_dub_asked_for_is_kept_when_it_is_the_longer_one() -> None:
    asked = Outcome(Meaning.AGAIN, "down", retry_at=NOW + 60_000)
    short = Outcome(Meaning.AGAIN, "down", retry_at=NOW + 1)

    assert next_move(Step.PROVE, asked) == Move(
        LeadStatus.WAITING, due_at=NOW + 60_000, reason="down"
    )
    assert next_move(Step.PROVE, short) == Move(
        LeadStatus.WAITING, due_at=NOW + 2_500, reason="down"
    )


def test_a_lead_is_given_up_when_its_round_is_over() -> None:
    assert next_move(Step.PROVE, Meaning.AGAIN, since=OVER) == Move(
        LeadStatus.REJECTED, reason="gave up after 3 days: Dub said so"
    )


def test_a_lead_is_not_given_up_a_millisecond_early() -> None:
    move = next_move(Step.PROVE, Meaning.AGAIN, since=OVER + 1)

    assert isinstance(move, Move)
    assert move.status is LeadStatus.WAITING


@pytest.mark.parametrize(
    ("before", "outcome"),
    [
        (entry(in_doubt=True), Outcome(Meaning.AGAIN, "cut")),
        (entry(), Outcome(Meaning.AGAIN, "cut", may_have_counted=True)),
    ],
)
def test_a_lead_in_doubt_is_not_called_rejected_when_given_up(
    before: LeadRecord, outcome: Outcome
) -> None:
    assert next_move(Step.RECORD, outcome, before, since=OVER) == Move(
        LeadStatus.UNCONFIRMED, reason="gave up after 3 days: cut", in_doubt=True
    )


@pytest.mark.parametrize(
    ("for_ms", "words"),
    [
        (5_000, "5 seconds"),
        (119_999, "119 seconds"),
        (120_000, "2 minutes"),
        (2 * HOUR, "2 hours"),
        (47 * HOUR, "47 hours"),
        (2 * DAY, "2 days"),
    ],
)
def test_the_time_of_trying_is_told_in_plain_words(for_ms: int, words: str) -> None:
    move = decide(
        entry(),
        Step.PROVE,
        Outcome(Meaning.AGAIN, "down"),
        now=NOW,
        since=NOW - for_ms,
        roll=0.0,
        policy=Policy(for_ms=for_ms),
    )

    assert move == Move(LeadStatus.REJECTED, reason=f"gave up after {words}: down")


# --- asked to wait ---


def test_a_throttled_lead_comes_again_when_dub_said() -> None:
    outcome = Outcome(Meaning.THROTTLED, "too many", retry_at=NOW + 42_000)

    assert next_move(Step.RECORD, outcome, entry(attempts=30)) == Move(
        LeadStatus.WAITING, due_at=NOW + 42_000, reason="too many"
    )


@pytest.mark.parametrize("retry_at", [None, NOW, NOW - 1])
def test_a_throttle_without_a_time_to_come_is_not_hammered(
    retry_at: int | None,
) -> None:
    outcome = Outcome(Meaning.THROTTLED, "too many", retry_at=retry_at)

    assert next_move(Step.PROVE, outcome, entry(attempts=1)) == Move(
        LeadStatus.WAITING, due_at=NOW + 5_000, reason="too many"
    )


def test_a_throttled_lead_is_never_given_up_and_its_doubt_is_kept() -> None:
    outcome = Outcome(Meaning.THROTTLED, "too many", retry_at=NOW + 1)

    assert next_move(Step.RECORD, outcome, entry(in_doubt=True), since=0) == Move(
        LeadStatus.WAITING, due_at=NOW + 1, reason="too many", in_doubt=True
    )


# --- a click that is not there ---


def test_a_missing_click_is_waited_for_and_explained() -> None:
    move = next_move(Step.PROVE, Meaning.CLICK_MISSING)

    assert isinstance(move, Move)
    assert (move.status, move.due_at) == (LeadStatus.WAITING, NOW + 2_500)
    assert move.reason is not None
    assert "a visit that Dub did not count" in move.reason


def test_a_click_that_never_comes_ends_with_the_likely_causes() -> None:
    move = next_move(Step.PROVE, Meaning.CLICK_MISSING, since=OVER)

    assert move == Move(
        LeadStatus.REJECTED,
        reason="gave up after 3 days: Dub said so. An id that stays unknown comes "
        "from a visit that Dub did not count (a bot, a test, another workspace)",
    )


@pytest.mark.parametrize("before", [entry(), entry(in_doubt=True)])
@pytest.mark.parametrize("since", [NOW, OVER])
def test_a_click_lost_while_recording_waits_until_dub_lets_go_of_its_lock(
    before: LeadRecord, since: int
) -> None:
    move = next_move(Step.RECORD, Meaning.CLICK_MISSING, before, since=since)

    assert move == Move(
        LeadStatus.WAITING,
        due_at=NOW + 7 * DAY + HOUR,
        reason="Dub said so",
        note="Dub recorded nothing but keeps this customer and event locked for a "
        "week, and would ignore the lead; it is sent again at 2025-06-22T16:06:40Z.",
        # Else the wait alone would use up the round.
        since=NOW + 7 * DAY + HOUR,
    )


# --- a person must act, or nothing can be done ---


@pytest.mark.parametrize("step", [Step.PROVE, Step.RECORD])
def test_an_operators_error_parks_everything(step: Step) -> None:
    assert next_move(step, Meaning.OPERATOR, since=0) == Park("Dub said so")


def test_a_parked_lead_keeps_its_doubt() -> None:
    assert next_move(Step.PROVE, Meaning.OPERATOR, entry(in_doubt=True)) == Park(
        "Dub said so", in_doubt=True
    )


@pytest.mark.parametrize("step", [Step.PROVE, Step.RECORD])
def test_a_final_refusal_rejects_the_lead(step: Step) -> None:
    assert next_move(step, Meaning.FINAL) == Move(
        LeadStatus.REJECTED, reason="Dub said so"
    )


@pytest.mark.parametrize("step", [Step.PROVE, Step.RECORD])
def test_a_lead_in_doubt_is_not_called_rejected(step: Step) -> None:
    assert next_move(step, Meaning.FINAL, entry(in_doubt=True)) == Move(
        LeadStatus.UNCONFIRMED, reason="Dub said so", in_doubt=True
    )


def test_a_link_refused_while_recording_warns_of_dubs_lock() -> None:
    outcome = Outcome(Meaning.FINAL, "the link is disabled", claims_key=True)

    assert next_move(Step.PROVE, outcome) == Move(
        LeadStatus.REJECTED, reason="the link is disabled"
    )
    assert next_move(Step.RECORD, outcome) == Move(
        LeadStatus.REJECTED,
        reason="the link is disabled",
        note="Dub recorded nothing but keeps this customer and event locked for a "
        "week: sent again before 2025-06-22T16:06:40Z it would be ignored, so "
        "`leads retry` waits until then.",
    )
    assert next_move(Step.RECORD, outcome, entry(in_doubt=True)) == Move(
        LeadStatus.UNCONFIRMED, reason="the link is disabled", in_doubt=True
    )


# --- what holds for every decision ---

policies = st.builds(
    Policy,
    base_ms=st.integers(1, 10 * HOUR),
    max_ms=st.integers(1, 10 * HOUR),
    for_ms=st.integers(0, 10 * DAY),
    key_ms=st.integers(1, 10 * DAY),
)
rolls = st.floats(0, 1, exclude_max=True)
entries = st.builds(
    entry,
    mode=st.sampled_from(Mode),
    attempts=st.integers(0, 10_000),
    in_doubt=st.booleans(),
)
outcomes = st.builds(
    Outcome,
    st.sampled_from(Meaning),
    st.just("Dub said so"),
    may_have_counted=st.booleans(),
    retry_at=st.none() | st.integers(NOW, NOW + MAX_WAIT_MS),
    http_status=st.none() | st.sampled_from([400, 404, 500]),
)
decisions = st.builds(
    lambda before, step, outcome, since, roll, policy: (
        before,
        step,
        outcome,
        decide(before, step, outcome, now=NOW, since=since, roll=roll, policy=policy),
    ),
    entries,
    st.sampled_from([Step.PROVE, Step.RECORD]),
    outcomes,
    st.integers(NOW - 20 * DAY, NOW),
    rolls,
    policies,
)
Decided = tuple[LeadRecord, Step, Outcome, Proceed | Park | Move]


@untimed
@given(decisions)
def test_every_move_is_allowed_and_says_why_and_when(decided: Decided) -> None:
    *_, move = decided
    if not isinstance(move, Move):
        return

    assert move.status in MOVES[LeadStatus.SENDING]
    assert (move.due_at is not None) == (move.status is LeadStatus.WAITING)
    assert move.due_at is None or move.due_at > NOW
    assert (move.reason is None) == (move.status is LeadStatus.DELIVERED)


@untimed
@given(decisions)
def test_only_an_answer_that_proves_something_ends_doubt(decided: Decided) -> None:
    before, step, outcome, move = decided
    if isinstance(move, Proceed) or not (before.in_doubt or outcome.may_have_counted):
        return
    proof = outcome.meaning is Meaning.TAKEN or (
        step is Step.RECORD
        and outcome.meaning in (Meaning.NO_LINK, Meaning.CLICK_MISSING)
    )

    assert move.in_doubt or proof
    if isinstance(move, Move):
        assert move.status is not LeadStatus.REJECTED


@untimed
@given(decisions)
def test_only_a_proved_lead_proceeds(decided: Decided) -> None:
    _, step, outcome, move = decided

    if isinstance(move, Proceed):
        assert (step, outcome.meaning) == (Step.PROVE, Meaning.TAKEN)


# --- waits ---


def test_the_defaults_are_those_that_are_documented() -> None:
    assert Policy() == Policy(
        base_ms=5_000,
        max_ms=3_600_000,
        for_ms=72 * 3_600_000,
        key_ms=(7 * 24 + 1) * 3_600_000,
    )


@pytest.mark.parametrize(
    ("failures", "delay"),
    [
        (-1, 5_000),
        (0, 5_000),
        (1, 10_000),
        (9, 2_560_000),
        (10, 3_600_000),
        (10**9, 3_600_000),
    ],
)
def test_probes_come_at_doubling_intervals(failures: int, delay: int) -> None:
    assert probe_delay(failures, POLICY) == delay


def test_a_base_above_the_cap_is_capped() -> None:
    assert probe_delay(0, Policy(base_ms=10, max_ms=3)) == 3


@untimed
@given(st.integers(0, 10**12), rolls, policies)
def test_a_wait_lies_in_the_upper_half_of_its_window(
    failures: int, roll: float, policy: Policy
) -> None:
    window = probe_delay(failures, policy)

    assert window <= 2 * backoff(failures, roll, policy) <= 2 * window
    assert window == min(policy.max_ms, policy.base_ms * 2 ** min(failures, 64))


@untimed
@given(st.integers(0, 100), rolls, rolls)
def test_the_roll_spreads_leads_over_the_window(
    failures: int, one: float, other: float
) -> None:
    low, high = sorted([one, other])

    assert backoff(failures, low, POLICY) <= backoff(failures, high, POLICY)
    assert backoff(3, 0.0, POLICY) == 20_000
    assert backoff(3, 0.5, POLICY) == 30_000
