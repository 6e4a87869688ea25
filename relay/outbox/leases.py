"""What every store has in common when leads are claimed and settled. Pure."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final, NamedTuple

from relay.core.leads import IllegalMoveError, LeadStatus, require_move
from relay.core.pacing import Budget, Pace, affordable
from relay.outbox.contract import Claim, NewLead, Settlement
from relay.outbox.database import Row
from relay.outbox.records import (
    ENTRY_COLUMNS,
    credit_row,
    encode_notes,
    readable,
    sql,
)

CLAIM_PAGE: Final = 64
"""Due leads looked at in one go, at least; a claim rarely wants more."""

CLAIM_PAGES: Final = 10
"""Pages after which a claim gives what it has found.

Others wait to write meanwhile. Each page that held leads in vain is put off, so
the next claim goes on behind it.
"""

FRESH_SHARE: Final = 4
"""One in so many claimed leads is the newest that was never tried. A backlog, of an
import or of a night with Dub down, then costs a fresh sign-up no wait, and is
itself slowed by a quarter at most."""

FRESH_SCAN: Final = 1_000
"""Newest leads looked at for those: some milliseconds at most."""

LAST_SCAN: Final = 64
"""Next due leads looked at for what need not wait any longer."""

LAST_MS: Final = 3_600_000
"""How far ahead of its time that is claimed: an hour, as long as any waits there."""

OLDEST: Final = sql(
    """
    SELECT {entry}, l.seq, {behind} FROM leads AS l
    WHERE l.due_at <= $1
    ORDER BY l.due_at, l.seq
    """
)
"""Leads that may be claimed, the longest due first; without a limit yet."""

# Few are looked at: the others are put off, behind leads of their customers. (+ 0: it
# is to walk them by seq.)
NEWEST: Final = sql(
    f"""
    SELECT {{entry}}, l.seq, {{behind}} FROM leads AS l
    WHERE l.status = 'queued' AND l.due_at + 0 <= $1 AND l.seq >= (
        SELECT min(seq) FROM (
            SELECT seq FROM leads WHERE status = 'queued'
            ORDER BY seq DESC LIMIT {FRESH_SCAN}
        ) AS newest
    )
    ORDER BY l.seq DESC
    """  # noqa: S608 - of constants
)
"""The newest that were never tried; without a limit yet."""

# (|| '': SQLite's planner would walk every queued lead.)
LAST: Final = sql(
    f"""
    SELECT {{entry}}, l.seq, NULL FROM leads AS l
    WHERE l.seq IN (
        SELECT seq FROM (
            SELECT seq FROM leads WHERE due_at <= $1
            ORDER BY due_at, seq LIMIT {LAST_SCAN}
        ) AS next
    )
        AND (l.status || '') = 'queued'
        AND l.due_at = l.round_at AND l.due_at > l.created_at
        AND {{behind}} IS NULL
    ORDER BY l.due_at, l.seq
    """  # noqa: S608 - of constants
)
"""Of those that are due before long, what came to stand behind others (``waits_ms``);
without a limit yet. To be claimed when nothing is due."""

_STATUS: Final = ENTRY_COLUMNS.index("status")
_DUE_AT: Final = ENTRY_COLUMNS.index("due_at")


class Leased(NamedTuple):
    """Rows of leads as they were claimed, and the token that settles them."""

    rows: list[Row]
    token: str


class Wish(NamedTuple):
    """What a claim wants: how many leads, and from when until when they are leased.

    ``claimed`` is how many this relay has claimed before: every fourth is a fresh one.
    """

    limit: int
    now: int
    until: int
    pace: Pace | None
    claimed: int

    def fresh(self, limit: int) -> int:
        """Return how many of so many leads are to be the newest."""
        return (self.claimed + limit) // FRESH_SHARE - self.claimed // FRESH_SHARE


class Lease(NamedTuple):
    """A claim under way: its token, and from when until when it holds."""

    token: str
    now: int
    until: int

    def ahead(self, ms: int) -> Lease:
        """Return it for leads that are due so much later."""
        return self._replace(now=self.now + ms)


class Due(NamedTuple):
    """A lead that could go; behind is when one before it is due, None if none is."""

    row: Row
    seq: int
    behind: int | None

    def put_off(self, lease: Lease) -> int:
        """Return when to look again at a lead that waits behind another.

        Left as it is, it would be walked over by each claim, and next_due would
        ask for claims that find nothing. settle makes the next in line due again;
        should it not, because the one ahead is parked or ended some other way, it
        is looked at again after a lease's time.
        """
        behind = self.behind or 0
        return behind if behind > lease.now else lease.until

    def claimed(self, lease: Lease) -> Row:
        """Return the row as it is after the lease."""
        row: list[Any] = list(self.row)
        row[_STATUS], row[_DUE_AT] = LeadStatus.SENDING.value, lease.until
        return tuple(row)


def lease_of(claim: Claim) -> tuple[str, str]:
    """Return what shows that a lead may be settled: its id and the token."""
    return claim.entry.lead.id, claim.token


def final_new_lead(new_lead: NewLead, lead_id: str) -> NewLead:
    """Return the new lead that takes a held lead's place, under that one's id."""
    return replace(new_lead, lead=replace(new_lead.lead, id=lead_id))


def due(row: Row) -> Due:
    """Read a lead that could go: its entry, its seq, and what it is behind."""
    *entry, seq, behind = row
    return Due(tuple(entry), seq, behind)


def can_pay(budget: Budget, pace: Pace, limit: int, now: int) -> int:
    """Return how many of so many leads the budget affords."""
    return min(limit, affordable(budget, pace.plan, now) // pace.calls)


def ending(end: Settlement, made: int, notes: str, now: int) -> Row:
    """Return what a settlement writes over what the lead has made and noted so far.

    In this order: status, due_at, attempts, notes, last_error, delivered_at,
    in_doubt, round_at, answer, key_claimed_at, credit, link_id, partner_id; None from
    delivered_at on leaves what is there, and KEEP does in key_claimed_at. Raises
    IllegalMoveError for a state in which no delivery ends.
    """
    require_end(end.status)
    again = end.status in {LeadStatus.QUEUED, LeadStatus.WAITING}
    # Without a time the lead would never be due.
    due_at = (now if end.due_at is None else end.due_at) if again else None
    if end.notes:
        notes = encode_notes([*json.loads(notes), *end.notes])
    return (
        *(end.status.value, due_at, made + len(end.attempts), notes),
        *(readable(end.last_error), end.delivered_at, end.in_doubt, end.since),
        readable(end.answer),
        end.key_claimed_at,
        *credit_row(end.link),
    )


def require_end(status: LeadStatus) -> None:
    """Raise IllegalMoveError for a state in which no delivery ends."""
    require_move(LeadStatus.SENDING, status)
    if status in {LeadStatus.SENDING, LeadStatus.CONFIRMED}:
        # MOVES means a claim by the first, Dub's webhook by the second.
        raise IllegalMoveError(f"a delivery cannot end in {status}")
