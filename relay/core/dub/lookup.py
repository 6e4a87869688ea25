"""Whether Dub's list of customers shows if a lead was recorded. Pure.

Dub creates the customer in the call that records the lead, after it has claimed its
dedupe key and found click and link; what records the event comes right after, and
is all that a good answer proves either (``POST /track/lead`` answers 200 with a link
at the same point). So where the recording call is the first that can have made the
customer, ``GET /customers?externalId=`` shows whether it went through. Where an
earlier call has made it, a deferred one say, it shows nothing: Dub shows neither
clicks nor leads of a customer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from relay.core.dub.replies import (
    Answer,
    NoAnswer,
)
from relay.core.dub.retry import (
    DAY,
    HOUR,
)
from relay.core.leads import Attempt, LeadRecord, Mode, Step

LATE_MS: Final = 300_000
"""How long after we gave a call up Dub may still work on it: what its host grants a
function at most by default (Vercel, maxDuration)."""

LOCKED_MS: Final = 7 * DAY + HOUR
"""Dub's dedupe key lives for seven days; an hour on top for clocks that disagree."""


class CustomerMatch(StrEnum):
    """What a look-up shows about the recording call."""

    RECORDED = "recorded"
    NOT_RECORDED = "not recorded"
    UNTOLD = "untold"


@dataclass(frozen=True, slots=True)
class LookupVerdict:
    """What was found, in a plain sentence without personal data."""

    found: CustomerMatch
    reason: str


def can_tell(entry: LeadRecord, attempts: Sequence[Attempt]) -> bool:
    """Return whether a look-up can say anything about a lead in doubt.

    Not after a proving call, which makes the customer, nor for a lead that stands
    on the customer's earlier click.
    """
    proved = any(one.step is Step.PROVE for one in attempts)
    recorded = any(_in_doubt(one) for one in attempts)
    by_itself = entry.lead.click_id != "" and entry.lead.mode is not Mode.DEFERRED
    return entry.in_doubt and by_itself and recorded and not proved


def judge(
    reply: Answer | NoAnswer, entry: LeadRecord, attempts: Sequence[Attempt]
) -> LookupVerdict:
    """Read the answer of ``GET /customers?externalId=…`` for a lead in doubt."""
    customers = _customers(reply)
    if customers is None:
        return LookupVerdict(
            CustomerMatch.UNTOLD, "Dub's list of customers could not be read"
        )
    customer = entry.lead.customer_external_id
    same = [one for one in customers if one[0] == customer]
    if not same and customers:
        # The database behind compares without regard to case; its words decide.
        return LookupVerdict(
            CustomerMatch.UNTOLD, "Dub has only a customer whose id looks alike"
        )
    if not same:
        return LookupVerdict(
            CustomerMatch.NOT_RECORDED,
            "Dub has no such customer: the call that got no answer recorded nothing",
        )
    first, last = _span(attempts)
    if first <= same[0][1] <= last:
        return LookupVerdict(
            CustomerMatch.RECORDED,
            "Dub made the customer in the call that got no answer: it went through",
        )
    return LookupVerdict(
        CustomerMatch.UNTOLD,
        "Dub knew the customer from another call, which shows nothing",
    )


def over_at(attempts: Sequence[Attempt]) -> int:
    """Return from when on no call in doubt can be worked on any more."""
    return _span(attempts)[1]


def unlocked_at(attempts: Sequence[Attempt]) -> int:
    """Return when Dub lets go of the key that a call in doubt has claimed."""
    return over_at(attempts) + LOCKED_MS


def _in_doubt(attempt: Attempt) -> bool:
    """Recognise a recording call that may have counted without proof."""
    answered = attempt.http_status is not None and attempt.http_status < 500
    return attempt.step is Step.RECORD and not answered


def _span(attempts: Sequence[Attempt]) -> tuple[int, int]:
    """Return from when until when calls in doubt can have made a customer."""
    calls = [one for one in attempts if _in_doubt(one)]
    return calls[0].at, max(one.at + one.duration_ms for one in calls) + LATE_MS


def _customers(reply: Answer | NoAnswer) -> list[tuple[str, int]] | None:
    """Read ids and times (epoch ms) of creation; None for anything else."""
    if isinstance(reply, NoAnswer) or reply.status != 200:
        return None
    try:
        return [
            (str(one["externalId"]), _epoch_ms(one["createdAt"]))
            for one in json.loads(reply.body)
        ]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _epoch_ms(stamp: str) -> int:
    return round(datetime.fromisoformat(stamp).timestamp() * 1000)
