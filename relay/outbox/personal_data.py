"""How long a person's data is kept, what stays when it goes, and new keys for it.

A lead that is erased keeps its id, event, click, states and calls. What names the
customer becomes a hash, so that the same sign-up still counts as a repeat.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from relay.core.clock import iso
from relay.core.leads import OPEN, RETRYABLE, LeadRecord, LeadStatus
from relay.outbox.contract import Forgotten, Query, Rekeyed, Wanted
from relay.outbox.database import Database, Row, each
from relay.outbox.deliveries import next_in_queue
from relay.outbox.encryption import Seal, SealedError
from relay.outbox.records import (
    both,
    encode_notes,
    entry_of,
    pseudonym,
    sql,
    without_invoice,
)

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


def kept(row: Any) -> Kept:
    """Read the columns that :class:`Kept` has, in its order."""
    *names, status, in_doubt = row
    return Kept._make([*names, LeadStatus(status), bool(in_doubt)])


def erasure(lead: Kept, why: str, now: int) -> Row:
    """Return what an erasure writes.

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
    """Return what a row or an index of a database would show of these leads.

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
    """Return the state after: what still waits can never be sent any more."""
    if lead.status in OPEN or lead.status is LeadStatus.HELD:
        return LeadStatus.UNCONFIRMED if lead.in_doubt else LeadStatus.REJECTED
    return lead.status


_KEPT: Final = """
    seq, id, source, customer, dedupe_key, idempotency_key, sale, status, in_doubt
"""

# A lead whose row is locked is being erased by another relay, or confirmed: next time.
OVERDUE: Final = sql(
    f"""
    SELECT {_KEPT} FROM leads /*sqlite:INDEXED BY leads_kept*/
    WHERE erased_at IS NULL AND status IN {{settled}} AND created_at < $1
    ORDER BY created_at, seq LIMIT $2 FOR UPDATE SKIP LOCKED
    """  # noqa: S608 - of constants
)

_FOUND: Final = f"SELECT {_KEPT}, erased_at FROM leads WHERE "  # noqa: S608 - as above

_ERASE: Final = """
    UPDATE leads SET
        customer = $1, dedupe_key = $2, idempotency_key = $3, sale = $4, notes = $5,
        status = $6, last_error = $7, erased_at = $8,
        person = '{}', body_hash = NULL, answer = NULL, due_at = NULL, token = NULL
    WHERE seq = $9
"""


@each
async def erase_due(db: Database, before: int, limit: int, now: int) -> int:
    """Erase what is settled and was captured before then, oldest first."""
    rows = await db.fetch(OVERDUE, before, limit)
    await _erase(db, [kept(row) for row in rows], "its time was over", now)
    return len(rows)


@each
async def forget(db: Database, wanted: Wanted, now: int) -> Forgotten:
    """Erase one customer's or one lead's data, whatever the state."""
    if wanted.lead_id is not None:
        test, value = "id = ANY($1::text[])", [wanted.lead_id]
    else:
        test, value = "customer = ANY($1::text[])", both([wanted.customer or ""])
    rows = await db.fetch(f"{_FOUND} {test} ORDER BY seq FOR UPDATE", value)
    leads = [kept(row[:-1]) for row in rows if row[-1] is None]
    await _erase(db, leads, "on request", now)
    await next_in_queue(
        db, [(lead.customer, now) for lead in leads if lead.status in OPEN]
    )
    counted = Counter(lead.status for lead in leads)
    return Forgotten(counted, len(rows) - len(leads), traces(wanted, leads))


async def _erase(db: Database, leads: list[Kept], why: str, now: int) -> None:
    await db.execute_many(_ERASE, [(*erasure(one, why, now), one.seq) for one in leads])


@each
async def replace_persons(db: Database, changes: list[Change]) -> int:
    """Write persons anew that are still as they were read; return how many."""
    statement = "UPDATE leads SET person = $1 WHERE seq = $2 AND person = $3"
    return sum([await db.execute(statement, *change) for change in changes])


PAGE: Final = 500
"""Entries read at once: about a megabyte, some milliseconds."""

Read = Callable[[Query, int | None, int], Awaitable[Sequence[Row]]]
"""Reads entries below a seq, newest first: each row's last column is its seq."""

Change = tuple[str, int, str]
"""A person as it is to be, the lead's seq, and the person as it was read."""

Replace = Callable[[tuple[list[Change]]], Awaitable[int]]


async def scanned(read: Read, query: Query, seal: Seal) -> AsyncIterator[LeadRecord]:
    """Return every entry of a query, up to its limit."""
    left, below = query.limit, None
    everything = replace(query, limit=None)
    while left is None or left > 0:
        size = PAGE if left is None else min(PAGE, left)
        rows = await read(everything, below, size)
        for *row, _ in rows:
            yield entry_of(row, seal)
        if len(rows) < size:
            return
        below = rows[-1][-1]
        left = None if left is None else left - len(rows)


async def rekeyed(
    found: Sequence[tuple[int, str, str]], seal: Seal, write: Replace
) -> Rekeyed:
    """Write anew what is not under the first key; found: seq, id and person each."""
    changes: list[Change] = []
    unreadable = 0
    for seq, lead_id, person in found:
        if seal.is_current(person):
            continue
        try:
            plain = seal.open(person, lead_id)
        except SealedError:
            unreadable += 1
        else:
            changes.append((seal.close(plain, lead_id), seq, person))
    changed = await write((changes,)) if changes else 0
    last = found[-1][0] if found else None
    return Rekeyed(last, changed, unreadable, busy=len(changes) - changed)
