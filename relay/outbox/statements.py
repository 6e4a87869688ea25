"""What all SQL shares: columns, and lists of states.

The lists are made from the one table of moves, so that no statement can move a
lead where :data:`relay.core.leads.MOVES` does not let it go.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from relay.core.leads import MOVES, OPEN, RETRYABLE, SETTLED, LeadStatus, require_move

ENTRY_COLUMNS: Final = (
    *("id", "source", "customer", "event", "click_id", "mode"),
    *("person", "notes", "origin", "created_at"),
    *("status", "attempts", "last_error", "due_at", "delivered_at", "in_doubt"),
    *("round_at", "erased_at", "sale", "answer"),
)
"""What :func:`relay.outbox.records.entry_of` reads, in this order."""

OFFER_COLUMNS: Final = (
    *("id", "source", "customer", "event", "click_id", "mode"),
    *("person", "notes", "origin", "created_at"),
    *("status", "last_error", "due_at", "round_at"),
    *("dedupe_key", "idempotency_key", "body_hash", "sale"),
)
"""What :func:`relay.outbox.records.row_of` writes, in this order."""


def from_to(old: Iterable[LeadStatus], new: LeadStatus) -> frozenset[LeadStatus]:
    """Give old back; raise IllegalMoveError if one of them may not become new."""
    states = frozenset(old)
    for status in states:
        require_move(status, new)
    return states


SENDABLE: Final = from_to(OPEN, LeadStatus.SENDING)
PARKABLE: Final = from_to({LeadStatus.QUEUED, LeadStatus.WAITING}, LeadStatus.PARKED)
CONFIRMABLE: Final = frozenset(
    s for s in LeadStatus if LeadStatus.CONFIRMED in MOVES[s]
)
RESENDABLE: Final = from_to(RETRYABLE, LeadStatus.QUEUED)

UNCOUNTED: Final = frozenset({LeadStatus.HELD, LeadStatus.REJECTED})
"""States whose leads make no later one a duplicate: nothing came of them yet."""


def _listed(states: Iterable[LeadStatus]) -> str:
    # In the order of Status: SQLite uses an index on some of the rows only for
    # a query that writes its condition letter by letter as the index does.
    wanted = frozenset(states)
    return "(" + ", ".join(f"'{s.value}'" for s in LeadStatus if s in wanted) + ")"


_TYPES: Final = {
    **dict.fromkeys(("created_at", "due_at", "round_at"), "bigint"),
    "body_hash": "bytea",
}
"""PostgreSQL's types of the columns of an offer that are no text."""


def _typed(suffix: str = "") -> str:
    return ", ".join(
        f"${place}::{_TYPES.get(name, 'text')}{suffix}"
        for place, name in enumerate(OFFER_COLUMNS, 1)
    )


_PARTS: Final = {
    "entry": ", ".join(f"l.{name}" for name in ENTRY_COLUMNS),
    "offer": ", ".join(OFFER_COLUMNS),
    "offer_values": _typed(),
    # A row from each place of as many arrays.
    "offer_arrays": _typed("[]"),
    "after_offer": f"${len(OFFER_COLUMNS) + 1}",
    "open": _listed(OPEN),
    "sendable": _listed(SENDABLE),
    "parkable": _listed(PARKABLE),
    "confirmable": _listed(CONFIRMABLE),
    "resendable": _listed(RESENDABLE),
    "settled": _listed(SETTLED),
}


def sql(text: str) -> str:
    """Put the shared parts into a statement: ``{entry}``, ``{open}``, ...

    Only constants of this module go in; values are always bound.
    """
    return text.format_map(_PARTS)


# When an older open lead of the same customer is due, 0 when that one is parked,
# NULL when there is none: then the lead l is first in its customer's line.
_PARTS["behind"] = sql(
    """(
        SELECT coalesce(o.due_at, 0) FROM leads AS o
        WHERE o.customer = l.customer AND o.status IN {open} AND o.seq < l.seq
        LIMIT 1
    )"""
)
