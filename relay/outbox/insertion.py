"""How leads come in: put, hold, and the release of held ones.

Several relays may store leads of one customer at the same moment. On PostgreSQL the
transaction locks the customer's row of ``lines`` first, so that the second relay sees
what the first has committed: that makes one of two equal sign-ups the repeat of the
other, and a customer's leads visible in the order of their seq.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from relay.core.leads import LeadStatus, require_move
from relay.outbox.contract import ImportedLead, Inserted, InsertResult, NewLead
from relay.outbox.database import Database, Row, each, fetch_one
from relay.outbox.dedupe import Earlier, Ledger
from relay.outbox.records import (
    NEW_LEAD_COLUMNS,
    UNCOUNTED,
    both,
    credit_row,
    from_to,
    readable,
    request_key,
    sql,
)

Pending = tuple[NewLead, Row]
"""A new lead and its row, which is made outside the transaction."""

# (|| '': the index would be asked for each pair of a customer and a key.)
EARLIER: Final = """
    SELECT id, status, customer, dedupe_key, created_at, idempotency_key, body_hash
    FROM leads WHERE idempotency_key = ANY(${}::text[])
    UNION ALL
    SELECT id, status, customer, dedupe_key, created_at, idempotency_key, body_hash
    FROM leads WHERE customer = ANY(${}::text[]) AND dedupe_key = ANY(${}::text[])
    UNION ALL
    SELECT lead_id, 'delivered', customer, dedupe_key, created_at, NULL, NULL
    FROM removed
    WHERE customer = ANY(${}::text[]) AND (dedupe_key || '') = ANY(${}::text[])
"""
"""Leads that a new one may repeat, gone ones too. The numbers are those of its three
values, the last two of them twice."""

_FIND: Final = EARLIER.format(1, 2, 3, 2, 3)

_INSERT: Final = sql("INSERT INTO leads ({new_lead}) VALUES ({new_lead_values})")

_REPLACE: Final = sql(
    "UPDATE leads SET ({new_lead}) = ({new_lead_values}) WHERE id = {after_new_lead}"
)

# (|| '': SQLite's planner would walk every held lead, not look up the ids.)
HELD: Final = """
    SELECT id FROM leads WHERE id = ANY($1::text[]) AND (status || '') = 'held'
    ORDER BY seq FOR UPDATE
"""

# What :func:`relay.outbox.records.row_of` returns of a queued lead: due when it came.
_QUEUE: Final = """
    UPDATE leads SET status = 'queued', due_at = created_at
    WHERE id = ANY($1::text[])
"""

_REMOVE: Final = "DELETE FROM leads WHERE id = ANY($1::text[])"

_ID: Final = NEW_LEAD_COLUMNS.index("id")

from_to({LeadStatus.HELD}, LeadStatus.QUEUED)


async def put(db: Database, arguments: Sequence[Pending]) -> list[InsertResult]:
    """Insert the new leads that repeat no earlier lead and no other of them."""
    results = entered(
        [new_lead for new_lead, _ in arguments],
        await _earlier_leads(db, [new_lead for new_lead, _ in arguments]),
    )
    await db.execute_many(_INSERT, new_rows(arguments, results))
    return results


async def hold(db: Database, rows: Sequence[Row]) -> list[InsertResult]:
    """Insert sign-ups as held; nothing that is only held repeats another lead."""
    await db.execute_many(_INSERT, rows)
    return [InsertResult(Inserted.NEW, row[_ID], LeadStatus.HELD) for row in rows]


_SAME_ID: Final = "SELECT status FROM leads WHERE id = $1"

_IMPORTED: Final = """
    UPDATE leads SET
        status = $1, due_at = $2::bigint, round_at = $3::bigint,
        in_doubt = $4::boolean,
        key_claimed_at = CASE WHEN $4::boolean THEN created_at ELSE NULL END,
        delivered_at = $5::bigint, event_id = $6::text, confirmed_by = $7::text,
        credit = $8::text, link_id = $9::text, partner_id = $10::text
    WHERE id = $11
"""


@each
async def import_lead(db: Database, imported: ImportedLead, row: Row) -> InsertResult:
    """Insert a lead of another ledger in the state that it had there."""
    result = await find_imported(db, imported)
    if result.outcome is Inserted.NEW:
        await db.execute(_INSERT, *row)
        opened = imported.since if imported.status is LeadStatus.QUEUED else None
        await db.execute(
            _IMPORTED,
            *(imported.status.value, opened, imported.since, imported.in_doubt),
            *(imported.delivered_at, readable(imported.event_id)),
            *(imported.confirmed_by, *credit_row(imported.link), result.lead_id),
        )
    return result


async def find_imported(db: Database, imported: ImportedLead) -> InsertResult:
    """Return what an import makes of a lead; nothing is changed."""
    new_lead = imported.new_lead
    lead_id = new_lead.lead.id
    row = await fetch_one(db, _SAME_ID, lead_id)
    if row is not None:
        return InsertResult(Inserted.DUPLICATE, lead_id, LeadStatus(row[0]))
    [result] = entered([new_lead], await _earlier_leads(db, [new_lead]))
    if result.outcome is Inserted.NEW:
        return result._replace(status=imported.status)
    return result


@each
async def release(
    db: Database, lead_id: str, final: Pending | None
) -> InsertResult | None:
    """Resolve a held lead; the final lead bears its id."""
    if not await db.fetch(HELD, [lead_id]):
        return None if final is None else await _stored(db, lead_id)
    if final is None:
        await db.execute(_REMOVE, [lead_id])
        return None
    new_lead, row = final
    require_move(LeadStatus.HELD, new_lead.status)
    earlier = await _earlier_leads(db, [new_lead])
    [result] = entered([new_lead], (one for one in earlier if one.lead_id != lead_id))
    if result.outcome is Inserted.NEW:
        await db.execute(_REPLACE, *row, lead_id)
    elif result.outcome is Inserted.DUPLICATE:
        await db.execute(_REMOVE, [lead_id])
    return result


async def release_as_held(
    db: Database, new_leads: Sequence[NewLead]
) -> list[InsertResult | None]:
    """Queue held leads as they are; those that repeat an earlier one are removed.

    The usual end of a proxied sign-up: many share a statement, and no row is
    written anew.
    """
    rows = await db.fetch(HELD, [new_lead.lead.id for new_lead in new_leads])
    held = {row[0] for row in rows}
    # Held leads, these too, make no other one a repeat.
    ledger = Ledger(await _earlier_leads(db, new_leads))
    results = [
        ledger.enter(new_lead)
        if new_lead.lead.id in held
        else await _stored(db, new_lead.lead.id)
        for new_lead in new_leads
    ]
    await db.execute(_QUEUE, _ids(new_leads, results, Inserted.NEW))
    repeats = _ids(new_leads, results, Inserted.DUPLICATE)
    if gone := [one for one in repeats if one in held]:
        await db.execute(_REMOVE, gone)
    return results


async def _stored(db: Database, lead_id: str) -> InsertResult | None:
    """Return what became of a lead that is not held any more; None: never was here."""
    row = await fetch_one(db, _SAME_ID, lead_id)
    if row is None:
        return None
    return InsertResult(Inserted.DUPLICATE, lead_id, LeadStatus(row[0]))


def _ids(
    new_leads: Sequence[NewLead],
    results: Sequence[InsertResult | None],
    outcome: Inserted,
) -> list[str]:
    pairs = zip(new_leads, results, strict=True)
    return [
        new_lead.lead.id for new_lead, got in pairs if got and got.outcome is outcome
    ]


def entered(
    new_leads: Sequence[NewLead], earlier: Iterable[Earlier]
) -> list[InsertResult]:
    """Answer new leads one after the other, in the light of earlier leads."""
    ledger = Ledger(earlier)
    return [ledger.enter(new_lead) for new_lead in new_leads]


def new_rows(
    arguments: Sequence[Pending], results: Sequence[InsertResult]
) -> list[Row]:
    """Return the rows of what is new."""
    pairs = zip(arguments, results, strict=True)
    return [row for (_, row), result in pairs if result.outcome is Inserted.NEW]


async def _earlier_leads(db: Database, new_leads: Sequence[NewLead]) -> list[Earlier]:
    """Find every lead that one of the new leads may repeat, in one statement."""
    return [earlier_of(row) for row in await db.fetch(_FIND, *sought(new_leads))]


def sought(new_leads: Sequence[NewLead]) -> tuple[list[str], list[str], list[str]]:
    """Return the values of :data:`EARLIER`: request keys, customers, dedupe keys."""
    counted = [
        new_lead
        for new_lead in new_leads
        if new_lead.dedupe_since is not None and new_lead.status not in UNCOUNTED
    ]
    return (
        both(key for key in map(request_key, new_leads) if key is not None),
        both(new_lead.lead.customer_external_id for new_lead in counted),
        both(new_lead.dedupe_key for new_lead in counted),
    )


def earlier_of(row: Row) -> Earlier:
    """Read a row of :data:`EARLIER`."""
    return Earlier(row[0], LeadStatus(row[1]), *row[2:])
