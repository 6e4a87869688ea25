"""How leads come into PostgreSQL: put, and the release of held ones.

Several relays may take leads of one customer at the same moment. Before anything is
read, the transaction locks the customer's line (:func:`line`), so that the second
relay sees what the first has committed: that makes one of two equal sign-ups the
repeat of the other. It also makes a customer's leads visible in the order of their
seq, so that no claim can see a later one while an earlier one is still to come.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final
from zlib import crc32

from relay.core.leads import LeadStatus, require_move
from relay.outbox.contract import Offer, Receipt, Taken
from relay.outbox.dedupe import Earlier, Ledger
from relay.outbox.keeping import both
from relay.outbox.postgres_session import Connection
from relay.outbox.postgres_writer import each
from relay.outbox.queries import OFFER_COLUMNS, UNCOUNTED, sql
from relay.outbox.rows import Row, request_key

Pending = tuple[Offer, Row]
"""An offer and its row, which is made outside the transaction."""

LINES: Final = 16_384
"""Rows of the table ``lines``. Two relays that commit 64 leads each meet on one of
them in every fifth commit, and then one waits some milliseconds."""

_EARLIER: Final = """
    SELECT id, status, customer, dedupe_key, created_at, idempotency_key, body_hash
    FROM leads WHERE idempotency_key = ANY(${}::text[])
    UNION ALL
    SELECT id, status, customer, dedupe_key, created_at, idempotency_key, body_hash
    FROM leads WHERE customer = ANY(${}::text[]) AND dedupe_key = ANY(${}::text[])
"""

_FIND: Final = _EARLIER.format(1, 2, 3)

_INSERT: Final = sql("INSERT INTO leads ({offer}) SELECT * FROM unnest({offer_arrays})")

_COLUMNS: Final = len(OFFER_COLUMNS)

_INSERT_OR_FIND: Final = f"""
    WITH earlier AS MATERIALIZED (
        {_EARLIER.format(_COLUMNS + 1, _COLUMNS + 2, _COLUMNS + 3)}
    ), entered AS (
        {_INSERT} WHERE NOT EXISTS (SELECT 1 FROM earlier)
    )
    SELECT * FROM earlier
"""  # noqa: S608 - its parts are constants
"""Most offers repeat nothing: then they are in, at one trip to the server. If any may
repeat an earlier lead, nothing is inserted, and the ledger has to tell which."""

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
    receipts = _entered(offers)
    columns = _columns(arguments, receipts)
    rows = await connection.fetch(_INSERT_OR_FIND, *columns, *_sought(offers))
    if rows:
        receipts = _entered(offers, map(_earlier, rows))
        columns = _columns(arguments, receipts)
        if columns[0]:
            await connection.execute(_INSERT, *columns)
    return receipts


def _entered(offers: Sequence[Offer], earlier: Iterable[Earlier] = ()) -> list[Receipt]:
    ledger = Ledger(earlier)
    return [ledger.enter(offer) for offer in offers]


def _columns(
    arguments: Sequence[Pending], receipts: Sequence[Receipt]
) -> Sequence[Sequence[Any]]:
    """Give the rows of what is new as one array for each column."""
    rows = [
        row
        for (_, row), receipt in zip(arguments, receipts, strict=True)
        if receipt.taken is Taken.NEW
    ]
    return list(zip(*rows, strict=True)) or [()] * _COLUMNS


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
    require_move(LeadStatus.HELD, offer.status)
    earlier = map(_earlier, await connection.fetch(_FIND, *_sought([offer])))
    receipt = Ledger(one for one in earlier if one.lead_id != lead_id).enter(offer)
    if receipt.taken is Taken.NEW:
        await connection.execute(_REPLACE, *row, lead_id)
    elif receipt.taken is Taken.DUPLICATE:
        await _remove(connection, lead_id)
    return receipt


async def _remove(connection: Connection, lead_id: str) -> None:
    await connection.execute("DELETE FROM leads WHERE id = $1", lead_id)


def _sought(offers: Sequence[Offer]) -> tuple[list[str], list[str], list[str]]:
    """Give what a lead that one of the offers may repeat is found by."""
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


def _earlier(row: Sequence[Any]) -> Earlier:
    return Earlier(row[0], LeadStatus(row[1]), *tuple(row)[2:])
