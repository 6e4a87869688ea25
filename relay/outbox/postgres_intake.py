"""How leads come into PostgreSQL: put, and the release of held ones.

Several relays may take leads of one customer at the same moment. Before anything is
read, the transaction locks the customer's line (:func:`line`), so that the second
relay sees what the first has committed: that makes one of two equal sign-ups the
repeat of the other. It also makes a customer's leads visible in the order of their
seq, so that no claim can see a later one while an earlier one is still to come.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from zlib import crc32

from relay.core.leads import Status, require_move
from relay.outbox.contract import Offer, Receipt, Taken
from relay.outbox.dedupe import Earlier, Ledger
from relay.outbox.keeping import both
from relay.outbox.postgres_session import Connection
from relay.outbox.postgres_writer import each
from relay.outbox.queries import UNCOUNTED, sql
from relay.outbox.rows import Row, request_key

Pending = tuple[Offer, Row]
"""An offer and its row, which is made outside the transaction."""

LINES: Final = 16_384
"""Rows of the table ``lines``. Two relays that commit 64 leads each meet on one of
them in every fifth commit, and then one waits some milliseconds."""

_EARLIER: Final = """
    SELECT id, status, customer, dedupe_key, created_at, idempotency_key, body_hash
    FROM leads WHERE idempotency_key = ANY($1::text[])
    UNION ALL
    SELECT id, status, customer, dedupe_key, created_at, idempotency_key, body_hash
    FROM leads WHERE customer = ANY($2::text[]) AND dedupe_key = ANY($3::text[])
"""

_INSERT: Final = sql("INSERT INTO leads ({offer}) SELECT * FROM unnest({offer_arrays})")

_REPLACE: Final = sql(
    "UPDATE leads SET ({offer}) = ROW ({offer_values}) WHERE id = {after_offer}"
)


def line(offer: Offer) -> tuple[int, ...]:
    """Give the row of ``lines`` to lock for an offer; none for one that only rests.

    Every relay must give the same: the table and this function change together.
    """
    if offer.status in UNCOUNTED:
        return ()
    return (crc32(offer.lead.customer_external_id.encode()) % LINES,)


async def put(connection: Connection, arguments: Sequence[Pending]) -> list[Receipt]:
    """Take in the offers that repeat no earlier lead and no other of them."""
    offers = [offer for offer, _ in arguments]
    ledger = Ledger(await _earlier(connection, offers))
    receipts = [ledger.enter(offer) for offer in offers]
    rows = [
        row
        for (_, row), receipt in zip(arguments, receipts, strict=True)
        if receipt.taken is Taken.NEW
    ]
    if rows:
        await connection.execute(_INSERT, *map(list, zip(*rows, strict=True)))
    return receipts


@each
async def release(
    connection: Connection, lead_id: str, final: Pending | None
) -> Receipt | None:
    """Resolve a held lead; the final offer bears its id."""
    held = await connection.fetchval(
        "SELECT 1 FROM leads WHERE id = $1 AND status = 'held' FOR UPDATE", lead_id
    )
    if held is None:
        return None
    if final is None:
        await _remove(connection, lead_id)
        return None
    offer, row = final
    require_move(Status.HELD, offer.status)
    earlier = await _earlier(connection, [offer])
    receipt = Ledger(one for one in earlier if one.lead_id != lead_id).enter(offer)
    if receipt.taken is Taken.NEW:
        await connection.execute(_REPLACE, *row, lead_id)
    elif receipt.taken is Taken.DUPLICATE:
        await _remove(connection, lead_id)
    return receipt


async def _remove(connection: Connection, lead_id: str) -> None:
    await connection.execute("DELETE FROM leads WHERE id = $1", lead_id)


async def _earlier(connection: Connection, offers: Sequence[Offer]) -> list[Earlier]:
    """Find every lead that one of the offers may repeat, in one statement."""
    counted = [
        offer
        for offer in offers
        if offer.dedupe_since is not None and offer.status not in UNCOUNTED
    ]
    rows = await connection.fetch(
        _EARLIER,
        both(key for key in map(request_key, offers) if key is not None),
        both(offer.lead.customer_external_id for offer in counted),
        both(offer.dedupe_key for offer in counted),
    )
    return [Earlier(row[0], Status(row[1]), *tuple(row)[2:]) for row in rows]
