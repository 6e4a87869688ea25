"""What to do next with a lead, given what Dub's answer meant.

:func:`decide` only decides: it reads no clock, rolls no dice and writes nothing.
Delivery obeys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

from relay.core.dub.replies import (
    Meaning,
    Outcome,
)
from relay.core.leads import LeadRecord, LeadStatus, Mode, Step

SECOND: Final = 1000
HOUR: Final = 3600 * SECOND
DAY: Final = 24 * HOUR

KEY_MS: Final = 7 * DAY
"""How long Dub keeps its dedupe key, and its answer to an ``invoiceId``."""

CLOCKS_MS: Final = HOUR
"""What clocks may disagree by."""

KEY_HELD_MS: Final = KEY_MS + CLOCKS_MS
"""After so long Dub's key is free for sure."""

AT_WORK_MS: Final = 300 * SECOND
"""How long Dub may work on a call that was given up: what its host grants a function
at most (Vercel, maxDuration)."""

UNNAMED: Final = (
    "Stripe names no invoice in a refund since API version 2025-03-31: create the"
    " webhook endpoint with an earlier one, and mark this commission by hand"
)
UNNAMED_DISPUTE: Final = (
    "Stripe names no invoice in a dispute: find the payment's there, and change its"
    " commission at Dub if the partner should get less"
)

MISSING_LEAD_MS: Final = 60 * SECOND
"""The longest wait between two tries of a sale whose customer Dub does not know."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How long to wait and how long to go on, in milliseconds.

    ``base_ms``: a passing fault (a restart, a lost packet) is mostly over after
    five seconds, and a sign-up is still fresh on Dub's dashboard.
    ``max_ms``: after a long outage the last lead leaves within the hour, while
    a dead Dub is asked only once an hour for each lead.
    ``for_ms``: an outage that begins on a Friday evening is outlived.
    ``click_ms``: a click is at Dub within minutes, or was never counted (a bot, a
    made-up id); six hours outlast a bad day of Dub's own store.
    ``sale_ms``: how long a sale waits for its customer's lead.
    ``key_ms``: Dub's dedupe key lives for seven days; an hour on top for
    clocks that disagree, because coming early would renew nothing but answer
    "link: null" and leave the lead in doubt.
    """

    base_ms: int = 5 * SECOND
    max_ms: int = HOUR
    for_ms: int = 72 * HOUR
    click_ms: int = 6 * HOUR
    sale_ms: int = HOUR
    key_ms: int = KEY_HELD_MS


@dataclass(frozen=True, slots=True)
class Proceed:
    """The lead is proved: record it now."""


@dataclass(frozen=True, slots=True)
class Park:
    """Nothing can be sent until a person acts: open the circuit, park the lead.

    ``in_doubt`` is the parked lead's, as in :class:`Move`.
    """

    reason: str
    in_doubt: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """The lead's next state.

    ``due_at`` (epoch ms) is set for WAITING alone. ``reason`` becomes the lead's
    last error, ``note`` one more sentence in its story. ``in_doubt``: a recording
    call of ours may have counted, and still nothing proves it. ``since`` is when
    a new round of attempts begins, None while the present one goes on.
    """

    status: LeadStatus
    due_at: int | None = None
    reason: str | None = None
    in_doubt: bool = False
    note: str | None = None
    since: int | None = None


@dataclass(frozen=True, slots=True)
class _Case:
    """Everything one decision is made from."""

    entry: LeadRecord
    step: Step
    outcome: Outcome
    now: int
    since: int
    roll: float
    policy: Policy

    @property
    def in_doubt(self) -> bool:
        """Whether this call or an earlier one may have counted."""
        return self.entry.in_doubt or self.outcome.may_have_counted


def decide(
    entry: LeadRecord,
    step: Step,
    outcome: Outcome,
    *,
    now: int,
    since: int,
    roll: float,
    policy: Policy,
) -> Proceed | Park | Move:
    """Say what follows from one call's outcome.

    ``entry`` is the lead as it stood *before* this call: its ``in_doubt`` speaks
    of earlier recording calls only. ``now`` and ``since`` are epoch ms; ``since``
    is when this round of attempts began, not when the lead was made: one that was
    parked, or that a person sends again after a month, deserves a whole round.
    ``roll`` lies in [0, 1).

    A deferred lead is delivered by the PROVE step alone: it is the very call. A
    sale has but the SALE step, a refund the REFUND step.
    """
    case = _Case(entry, step, outcome, now, since, roll, policy)
    return _DECISIONS[outcome.meaning](case)


def unrepeatable(entry: LeadRecord, now: int) -> Move | None:
    """End a lead or a sale that may have counted and that Dub would count again.

    Asked before a call: Dub folds repeats for a week, of sales those of one
    ``invoiceId`` alone. None: it may be sent.
    """
    sale = entry.lead.sale
    if not entry.in_doubt or (sale is not None and sale.refund):
        return None
    foldable = sale is None or bool(sale.invoice_id)
    counted_since = entry.lead.created_at if sale else entry.key_claimed_at
    if foldable and not may_have_run_out(counted_since, now):
        return None
    reason = (
        "a call that got no answer may have counted, and Dub would count it again"
        if foldable
        else "a call that got no answer may have counted, and without an invoiceId"
        " Dub would count the sale again"
    )
    return Move(LeadStatus.UNCONFIRMED, reason=reason, in_doubt=True)


def may_have_run_out(since: int | None, now: int) -> bool:
    """Return whether Dub may hold no longer what a call of ours has claimed then.

    ``since`` is epoch ms; None: nothing was claimed.
    """
    return since is not None and now - since >= KEY_MS - CLOCKS_MS


def key_free_at(key_claimed_at: int | None, now: int, key_ms: int) -> int | None:
    """Return when Dub's dedupe key, claimed by a call of ours, is free (epoch ms).

    None: no call of ours holds it any more. Never later than a whole term from now,
    should the clock have been set back since.
    """
    if key_claimed_at is None or key_claimed_at + key_ms <= now:
        return None
    return min(key_claimed_at, now) + key_ms


def backoff(failures: int, roll: float, policy: Policy) -> int:
    """Return the milliseconds to wait after so many earlier failures.

    The window doubles from ``base_ms`` up to ``max_ms``; the wait is jittered
    within its upper half, so that leads which failed together do not come back
    together, and none comes back at once.
    """
    window = probe_delay(failures, policy)
    least = (window + 1) // 2
    return least + int(roll * (window - least))


def probe_delay(failures: int, policy: Policy) -> int:
    """Return the milliseconds until the next probe through an open circuit.

    As :func:`backoff`, without jitter: one probe is alone on all relays.
    """
    # Doubling further than max_ms has bits cannot change the result, but the
    # number itself could grow without bound.
    doublings = min(max(failures, 0), policy.max_ms.bit_length())
    return min(policy.max_ms, policy.base_ms << doublings)


def _taken(case: _Case) -> Proceed | Move:
    """Go on to recording, or finish."""
    if case.step is Step.PROVE and case.entry.lead.mode is not Mode.DEFERRED:
        return Proceed()
    return Move(LeadStatus.DELIVERED)


def _no_link(case: _Case) -> Move:
    """Separate a genuine duplicate from a lead that may be our own."""
    if case.step is Step.PROVE:
        # A deferred call does not look at Dub's dedupe key, so this answer is
        # not one of Dub's; recording after it would be a guess.
        reason = "Dub answered the deferred call without a link"
        return _again(replace(case, outcome=replace(case.outcome, reason=reason)))
    if case.step is Step.SALE:
        return _nothing_sold(case)
    if case.step is Step.REFUND:
        return _nothing_to_refund(case)
    if case.entry.in_doubt:
        return Move(
            LeadStatus.UNCONFIRMED,
            reason="Dub has this lead, or only its lock, from an earlier call of "
            "ours that got no answer",
            in_doubt=True,
        )
    free_at = key_free_at(case.entry.key_claimed_at, case.now, case.policy.key_ms)
    if free_at is not None:
        return wait_for_key(case.entry.key_claimed_at or case.now, free_at)
    reason = "Dub had this customer and event from elsewhere"
    return Move(LeadStatus.DUPLICATE, reason=reason)


def wait_for_key(claimed_at: int, free_at: int) -> Move:
    """Wait until Dub's dedupe key is free, which a call of ours has claimed in vain."""
    reason = (
        "Dub keeps this customer and event locked since our own call of "
        f"{_iso(claimed_at)}, which recorded nothing"
    )
    note = f"{reason}; it is sent again at {_iso(free_at)}."
    return Move(LeadStatus.WAITING, free_at, reason, note=note, since=free_at)


def _nothing_sold(case: _Case) -> Move:
    """Separate a sale of nothing, which Dub passes over, from one of nobody.

    A sale may be here before its customer's lead: it waits for it.
    """
    sale = case.entry.lead.sale
    if sale is not None and sale.amount == 0:
        return Move(LeadStatus.DELIVERED, note="Dub counts no sale of an amount of 0.")
    waited = case.now - case.since
    if waited >= case.policy.sale_ms:
        reason = f"{case.outcome.reason}, after {_duration(waited)}"
        return _end(case, reason)
    delay = backoff(case.entry.attempts, case.roll, case.policy)
    reason = f"{case.outcome.reason}, or not yet"
    due_at = case.now + min(delay, MISSING_LEAD_MS)
    return replace(_wait(case, due_at), reason=reason)


def _nothing_to_refund(case: _Case) -> Move:
    """Wait for a commission, which Dub makes after the sale; then there is none.

    Of a payment alone the invoice is not known: a person has to look.
    """
    if case.now - case.since < case.policy.sale_ms:
        return _again(case)
    sale = case.entry.lead.sale
    if sale is not None and sale.unnamed:
        what = UNNAMED_DISPUTE if sale.by_hand == "dispute" else UNNAMED
        return _end(case, f"{case.outcome.reason}. {what}")
    return Move(
        LeadStatus.DELIVERED,
        note=f"{case.outcome.reason}: there is nothing to take back.",
    )


def _again(case: _Case, longest_ms: int | None = None) -> Move:
    """Try later, until this round of attempts is over."""
    longest_ms = case.policy.for_ms if longest_ms is None else longest_ms
    if (move := _unrepeatable_now(case)) is not None:
        return move
    elapsed = case.now - case.since
    if elapsed >= longest_ms:
        reason = f"gave up after {_duration(elapsed)}: {case.outcome.reason}"
        return _end(case, reason)
    # Calls stand for failures here: nothing else is counted. A try of two calls
    # counts twice, which only reaches the longest wait a few tries earlier.
    delay = backoff(case.entry.attempts, case.roll, case.policy)
    if case.step is Step.SALE and case.outcome.timed_out:
        # Dub looks at the invoice first and writes it down last: two calls at once
        # would both count. A lead's key it claims first.
        delay = max(delay, AT_WORK_MS)
    return _wait(case, max(case.now + delay, case.outcome.retry_at or 0))


def _unrepeatable_now(case: _Case) -> Move | None:
    """End what this call may have counted, if Dub would count a repeat of it."""
    claimed = case.now if case.outcome.claims_key else case.entry.key_claimed_at
    sent = replace(case.entry, in_doubt=case.in_doubt, key_claimed_at=claimed)
    move = unrepeatable(sent, case.now)
    if move is None:
        return None
    return replace(move, reason=f"{case.outcome.reason}: {move.reason}")


def _throttled(case: _Case) -> Move:
    """Wait as long as Dub asks; it is not the lead's fault, so never give up."""
    if (move := _unrepeatable_now(case)) is not None:
        return move
    asked = case.outcome.retry_at
    if asked is not None and asked > case.now:
        return _wait(case, asked)
    # No time given, or one that our clock has passed already: do not hammer.
    delay = backoff(case.entry.attempts, case.roll, case.policy)
    return _wait(case, case.now + delay)


def _click_missing(case: _Case) -> Move:
    """Wait for the click to arrive, or for Dub to release its dedupe key."""
    if case.step is not Step.RECORD:
        reason = (
            f"{case.outcome.reason}. An id that stays unknown comes from a visit "
            "that Dub did not count (a bot, a test, another workspace)"
        )
        outcome = replace(case.outcome, reason=reason)
        longest_ms = min(case.policy.click_ms, case.policy.for_ms)
        return _again(replace(case, outcome=outcome), longest_ms)
    # Dub claimed its key and then failed to find the click. Had an earlier call
    # of ours counted, the key would have been taken: so nothing is in doubt.
    due_at = case.now + case.policy.key_ms
    note = (
        "Dub recorded nothing but keeps this customer and event locked for a week, "
        f"and would ignore the lead; it is sent again at {_iso(due_at)}."
    )
    return Move(
        LeadStatus.WAITING, due_at, case.outcome.reason, note=note, since=due_at
    )


def _operator(case: _Case) -> Park:
    """Stop everything: every other lead would fail as well."""
    return Park(case.outcome.reason, in_doubt=case.in_doubt)


def _final(case: _Case) -> Move:
    """End it; warn when Dub may have locked what it refused."""
    note = None
    refused_late = case.step is Step.RECORD and case.outcome.claims_key
    if refused_late and not case.in_doubt:
        # The link is checked after the dedupe key was claimed.
        until = _iso(case.now + case.policy.key_ms)
        note = (
            "Dub recorded nothing but keeps this customer and event locked for a "
            f"week: sent again before {until} it would be ignored, so `leads retry` "
            "waits until then."
        )
    return replace(_end(case, case.outcome.reason), note=note)


def _wait(case: _Case, due_at: int) -> Move:
    """Try again at that time."""
    return Move(LeadStatus.WAITING, due_at, case.outcome.reason, in_doubt=case.in_doubt)


def _end(case: _Case, reason: str) -> Move:
    """Return a lead up; one that may have counted is not called rejected."""
    status = LeadStatus.UNCONFIRMED if case.in_doubt else LeadStatus.REJECTED
    return Move(status, reason=reason, in_doubt=case.in_doubt)


_DECISIONS: Final[Mapping[Meaning, Callable[[_Case], Proceed | Park | Move]]] = (
    MappingProxyType(
        {
            Meaning.TAKEN: _taken,
            Meaning.NO_LINK: _no_link,
            Meaning.AGAIN: _again,
            Meaning.THROTTLED: _throttled,
            Meaning.CLICK_MISSING: _click_missing,
            Meaning.OPERATOR: _operator,
            Meaning.FINAL: _final,
        },
    )
)


def _duration(ms: int) -> str:
    """Write a span of time in the largest unit that holds it at least twice."""
    for name, size in (("days", DAY), ("hours", HOUR), ("minutes", 60 * SECOND)):
        if ms >= 2 * size:
            return f"{ms // size} {name}"
    return f"{ms // SECOND} seconds"


def _iso(ms: int) -> str:
    """Write epoch milliseconds as ISO 8601 in UTC, to the second."""
    stamp = datetime.fromtimestamp(ms // SECOND, UTC)
    return stamp.isoformat(timespec="seconds").replace("+00:00", "Z")
