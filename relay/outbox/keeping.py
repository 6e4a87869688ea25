"""How long a person's data is kept, and what stays when it goes. Pure.

A lead that is erased keeps its id, event, click, states and calls. What names the
customer becomes a hash, so that the same sign-up still counts as a repeat.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from relay.core.clock import iso
from relay.core.leads import OPEN, RETRYABLE, LeadStatus
from relay.outbox.rows import Row, encode_notes, without_invoice

ERASED: Final = "erased:"
"""Begins what stands in the place of a name."""

ON_THE_WAY: Final = frozenset(
    {LeadStatus.QUEUED, LeadStatus.SENDING, LeadStatus.WAITING}
)
"""States from which a lead would get to Dub by itself; erased, it does not."""

FORGOTTEN: Final = "the customer's data was erased on request before Dub had the lead"


class Kept(NamedTuple):
    """What must be known of a lead to erase its personal data."""

    seq: int
    id: str
    source: str
    customer: str
    dedupe_key: str
    idempotency_key: str | None
    sale: str | None
    status: LeadStatus
    in_doubt: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose data is to be erased: one customer's, or one lead's."""

    customer: str | None = None
    lead_id: str | None = None


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was erased, counted by the state before. ``before``: erased long since.

    ``traces`` are bytes that would show a copy that was left in a file.
    """

    leads: Mapping[LeadStatus, int]
    before: int = 0
    traces: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """Whether the erased bytes are out of the database's files; if not, why."""

    clean: bool
    reason: str = ""


def pseudonym(name: str) -> str:
    """Give what stands for a name once it is erased: SHA-256, cut to 128 bits.

    Without a key: whoever holds the database and guesses a name can test the guess
    (docs/keeping.md).
    """
    return ERASED + hashlib.sha256(name.encode()).hexdigest()[:32]


def both(names: Iterable[str]) -> list[str]:
    """Give each name with what stands for it once it is erased."""
    return [each for name in names for each in (name, pseudonym(name))]


def kept(row: Any) -> Kept:
    """Read the columns that :class:`Kept` has, in its order."""
    *names, status, in_doubt = row
    return Kept._make([*names, LeadStatus(status), bool(in_doubt)])


def erasure(lead: Kept, why: str, now: int) -> Row:
    """Give what an erasure writes.

    In this order: customer, dedupe_key, idempotency_key, sale, notes, status,
    last_error, erased_at. The caller blanks person and body_hash, ends a lease and a
    due time.
    """
    status = _after(lead)
    request = lead.idempotency_key
    return (
        pseudonym(lead.customer),
        pseudonym(lead.dedupe_key),
        None if request is None else pseudonym(request),
        None if lead.sale is None else without_invoice(lead.sale),
        encode_notes([f"The personal data was erased at {iso(now)}: {why}."]),
        status.value,
        FORGOTTEN if status in RETRYABLE else None,
        now,
    )


def traces(wanted: Wanted, leads: Iterable[Kept]) -> tuple[bytes, ...]:
    """Give what a row or an index of a database would show of these leads.

    A name alone is no trace: u_1 is a part of u_12. But a row holds id, source and
    customer one after the other, an index customer and state.
    """
    found = set()
    customers = {wanted.customer or ""}
    for lead in leads:
        customers.add(lead.customer)
        found |= {f"{lead.id}{lead.source}{lead.customer}", lead.dedupe_key}
        found.add(lead.idempotency_key or "")
    found |= {f"{one}{status}" for one in customers if one for status in LeadStatus}
    return tuple(text.encode() for text in sorted(found) if text)


def _after(lead: Kept) -> LeadStatus:
    """Give the state after: what still waits can never be sent any more."""
    if lead.status in OPEN or lead.status is LeadStatus.HELD:
        return LeadStatus.UNCONFIRMED if lead.in_doubt else LeadStatus.REJECTED
    return lead.status
