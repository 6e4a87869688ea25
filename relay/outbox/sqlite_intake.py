"""How leads come into the SQLite file: put, and the release of held ones."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

from relay.core.leads import LeadStatus, require_move
from relay.outbox.contract import Offer, Receipt, Taken
from relay.outbox.dedupe import Earlier, Ledger
from relay.outbox.keeping import both
from relay.outbox.queries import UNCOUNTED, sql
from relay.outbox.rows import Row, request_key
from relay.outbox.writer import each

Pending = tuple[Offer, Row]
"""An offer and its row, which is made outside the transaction."""

_EARLIER: Final = """
    SELECT id, status, customer, dedupe_key, created_at, idempotency_key, body_hash
    FROM leads WHERE idempotency_key IN (SELECT value FROM json_each(?))
    UNION ALL
    SELECT id, status, customer, dedupe_key, created_at, idempotency_key, body_hash
    FROM leads
    WHERE customer IN (SELECT value FROM json_each(?))
        AND dedupe_key IN (SELECT value FROM json_each(?))
"""

INSERT: Final = sql("INSERT INTO leads ({offer}) VALUES ({offer_marks})")

_REPLACE: Final = sql("UPDATE leads SET ({offer}) = ({offer_marks}) WHERE id = ?")


def put(
    connection: sqlite3.Connection, arguments: Sequence[Pending]
) -> Sequence[Receipt]:
    """Take in the offers that repeat no earlier lead and no other of them."""
    offers = [offer for offer, _ in arguments]
    ledger = Ledger(earlier_leads(connection, offers))
    receipts = [ledger.enter(offer) for offer in offers]
    connection.executemany(
        INSERT,
        [
            row
            for (_, row), receipt in zip(arguments, receipts, strict=True)
            if receipt.taken is Taken.NEW
        ],
    )
    return receipts


@each
def release(
    connection: sqlite3.Connection, lead_id: str, final: Pending | None
) -> Receipt | None:
    """Resolve a held lead; the final offer bears its id."""
    held = connection.execute(
        "SELECT 1 FROM leads WHERE id = ? AND status = 'held'", (lead_id,)
    ).fetchone()
    if held is None:
        return None
    if final is None:
        _remove(connection, lead_id)
        return None
    offer, row = final
    require_move(LeadStatus.HELD, offer.status)
    earlier = earlier_leads(connection, [offer])
    receipt = Ledger(one for one in earlier if one.lead_id != lead_id).enter(offer)
    if receipt.taken is Taken.NEW:
        connection.execute(_REPLACE, (*row, lead_id))
    elif receipt.taken is Taken.DUPLICATE:
        _remove(connection, lead_id)
    return receipt


def _remove(connection: sqlite3.Connection, lead_id: str) -> None:
    connection.execute("DELETE FROM leads WHERE id = ?", (lead_id,))


def earlier_leads(
    connection: sqlite3.Connection, offers: Sequence[Offer]
) -> list[Earlier]:
    """Find every lead that one of the offers may repeat, in one statement."""
    requests = [key for key in map(request_key, offers) if key is not None]
    counted = [
        offer
        for offer in offers
        if offer.dedupe_since is not None and offer.status not in UNCOUNTED
    ]
    rows = connection.execute(
        _EARLIER,
        (
            json.dumps(both(requests)),
            json.dumps(both(offer.lead.customer_external_id for offer in counted)),
            json.dumps(both(offer.dedupe_key for offer in counted)),
        ),
    )
    return [Earlier(row[0], LeadStatus(row[1]), *row[2:]) for row in rows]
