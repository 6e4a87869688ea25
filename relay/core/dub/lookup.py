"""Whether Dub's list of customers shows that a lead was not recorded. Pure.

Dub creates the customer in the call that records the lead, after it has claimed its
dedupe key and found click and link. So where the recording call is the first that can
have made the customer, and ``GET /customers?externalId=`` has none, nothing was
recorded. A customer who is there proves nothing: another call may have made it, and
whose clock the time of its creation is, nobody can say to the second.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from relay.core.dub.replies import (
    Answer,
    NoAnswer,
)
from relay.core.dub.retry import AT_WORK_MS, KEY_HELD_MS
from relay.core.leads import Attempt, LeadRecord, Mode, Step


class CustomerMatch(StrEnum):
    """What a look-up shows about the recording call."""

    NOT_RECORDED = "not recorded"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class LookupVerdict:
    """What was found, in a plain sentence without personal data."""

    found: CustomerMatch
    reason: str


def can_show(entry: LeadRecord, attempts: Sequence[Attempt]) -> bool:
    """Return whether a look-up can say anything about a lead in doubt.

    Not after a proving call, which makes the customer, nor for a lead that stands
    on the customer's earlier click.
    """
    proved = any(one.step is Step.PROVE for one in attempts)
    recorded = any(_in_doubt(one) for one in attempts)
    by_itself = entry.lead.click_id != "" and entry.lead.mode is not Mode.DEFERRED
    return entry.in_doubt and by_itself and recorded and not proved


def judge(reply: Answer | NoAnswer, entry: LeadRecord) -> LookupVerdict:
    """Read the answer of ``GET /customers?externalId=…`` for a lead in doubt."""
    customers = _customers(reply)
    if customers is None:
        return LookupVerdict(
            CustomerMatch.UNKNOWN, "Dub's list of customers could not be read"
        )
    customer = entry.lead.customer_external_id
    if customer not in customers and customers:
        # The database behind compares without regard to case; its words decide.
        return LookupVerdict(
            CustomerMatch.UNKNOWN, "Dub has only a customer whose id looks alike"
        )
    if not customers:
        return LookupVerdict(
            CustomerMatch.NOT_RECORDED,
            "Dub has no such customer: the call that got no answer recorded nothing",
        )
    return LookupVerdict(
        CustomerMatch.UNKNOWN,
        "Dub knows the customer, perhaps from another call, which shows nothing",
    )


def over_at(attempts: Sequence[Attempt]) -> int:
    """Return from when on no call in doubt can be worked on any more."""
    calls = [one for one in attempts if _in_doubt(one)]
    return max(one.at + one.duration_ms for one in calls) + AT_WORK_MS


def unlocked_at(attempts: Sequence[Attempt]) -> int:
    """Return when Dub lets go of the key that a call in doubt has claimed."""
    return over_at(attempts) + KEY_HELD_MS


def _in_doubt(attempt: Attempt) -> bool:
    """Recognise a recording call that may have counted without proof."""
    status = attempt.http_status
    refused = attempt.code is not None and status is not None and status < 500
    answered = status == 200 or refused
    return attempt.step is Step.RECORD and not answered


def _customers(reply: Answer | NoAnswer) -> list[str] | None:
    """Read the external ids; None for anything that is no list of customers."""
    if isinstance(reply, NoAnswer) or reply.status != 200:
        return None
    try:
        return [str(one["externalId"]) for one in json.loads(reply.body)]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
