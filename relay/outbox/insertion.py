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
from relay.outbox.contract import Offer, Receipt, Taken
from relay.outbox.database import Database, Row, each
from relay.outbox.dedupe import Earlier, Ledger
from relay.outbox.records import (
    OFFER_COLUMNS,
    UNCOUNTED,
    both,
    from_to,
    request_key,
    sql,
)

Pending = tuple[Offer, Row]
"""An offer and its row, which is made outside the transaction."""

EARLIER: Final = """
    SELECT id, status, customer, dedupe_key, created_at, idempotency_key, body_hash
    FROM leads WHERE idempotency_key = ANY(${}::text[])
    UNION ALL
    SELECT id, status, customer, dedupe_key, created_at, idempotency_key, body_hash
    FROM leads WHERE customer = ANY(${}::text[]) AND dedupe_key = ANY(${}::text[])
"""
"""Leads that a new one may repeat; the numbers are those of its three values."""

_FIND: Final = EARLIER.format(1, 2, 3)

_INSERT: Final = sql("INSERT INTO leads ({offer}) VALUES ({offer_values})")

_REPLACE: Final = sql(
    "UPDATE leads SET ({offer}) = ({offer_values}) WHERE id = {after_offer}"
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

_ID: Final = OFFER_COLUMNS.index("id")

from_to({LeadStatus.HELD}, LeadStatus.QUEUED)


async def put(db: Database, arguments: Sequence[Pending]) -> list[Receipt]:
    """Insert the offers that repeat no earlier lead and no other of them."""
    receipts = entered(
        [offer for offer, _ in arguments],
        await _earlier_leads(db, [offer for offer, _ in arguments]),
    )
    await db.execute_many(_INSERT, new_rows(arguments, receipts))
    return receipts


async def hold(db: Database, rows: Sequence[Row]) -> list[Receipt]:
    """Insert sign-ups as held; nothing that is only held repeats another lead."""
    await db.execute_many(_INSERT, rows)
    return [Receipt(Taken.NEW, row[_ID], LeadStatus.HELD) for row in rows]


@each
async def release(db: Database, lead_id: str, final: Pending | None) -> Receipt | None:
    """Resolve a held lead; the final offer bears its id."""
    if not await db.fetch(HELD, [lead_id]):
        return None
    if final is None:
        await db.execute(_REMOVE, [lead_id])
        return None
    offer, row = final
    require_move(LeadStatus.HELD, offer.status)
    earlier = await _earlier_leads(db, [offer])
    [receipt] = entered([offer], (one for one in earlier if one.lead_id != lead_id))
    if receipt.taken is Taken.NEW:
        await db.execute(_REPLACE, *row, lead_id)
    elif receipt.taken is Taken.DUPLICATE:
        await db.execute(_REMOVE, [lead_id])
    return receipt


async def release_as_held(
    db: Database, offers: Sequence[Offer]
) -> list[Receipt | None]:
    """Queue held leads as they are; those that repeat an earlier one are removed.

    The usual end of a proxied sign-up: many share a statement, and no row is
    written anew.
    """
    rows = await db.fetch(HELD, [offer.lead.id for offer in offers])
    held = {row[0] for row in rows}
    # Held leads, these too, make no other one a repeat.
    ledger = Ledger(await _earlier_leads(db, offers))
    receipts = [
        ledger.enter(offer) if offer.lead.id in held else None for offer in offers
    ]
    await db.execute(_QUEUE, _ids(offers, receipts, Taken.NEW))
    if repeats := _ids(offers, receipts, Taken.DUPLICATE):
        await db.execute(_REMOVE, repeats)
    return receipts


def _ids(
    offers: Sequence[Offer], receipts: Sequence[Receipt | None], taken: Taken
) -> list[str]:
    pairs = zip(offers, receipts, strict=True)
    return [offer.lead.id for offer, got in pairs if got and got.taken is taken]


def entered(offers: Sequence[Offer], earlier: Iterable[Earlier]) -> list[Receipt]:
    """Answer offers one after the other, in the light of earlier leads."""
    ledger = Ledger(earlier)
    return [ledger.enter(offer) for offer in offers]


def new_rows(arguments: Sequence[Pending], receipts: Sequence[Receipt]) -> list[Row]:
    """Return the rows of what is new."""
    pairs = zip(arguments, receipts, strict=True)
    return [row for (_, row), receipt in pairs if receipt.taken is Taken.NEW]


async def _earlier_leads(db: Database, offers: Sequence[Offer]) -> list[Earlier]:
    """Find every lead that one of the offers may repeat, in one statement."""
    return [earlier_of(row) for row in await db.fetch(_FIND, *sought(offers))]


def sought(offers: Sequence[Offer]) -> tuple[list[str], list[str], list[str]]:
    """Return the values of :data:`EARLIER`: request keys, customers, dedupe keys."""
    counted = [
        offer
        for offer in offers
        if offer.dedupe_since is not None and offer.status not in UNCOUNTED
    ]
    return (
        both(key for key in map(request_key, offers) if key is not None),
        both(offer.lead.customer_external_id for offer in counted),
        both(offer.dedupe_key for offer in counted),
    )


def earlier_of(row: Row) -> Earlier:
    """Read a row of :data:`EARLIER`."""
    return Earlier(row[0], LeadStatus(row[1]), *row[2:])
