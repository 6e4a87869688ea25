"""The usual way of a proxied sign-up through the SQLite file.

It is written down whole before the site sees it, and let go by a change of its
state: many of both share a statement, and neither rewrites a row.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

from relay.core.leads import LeadStatus
from relay.outbox.contract import Offer, Receipt, Taken
from relay.outbox.dedupe import Ledger
from relay.outbox.queries import OFFER_COLUMNS, from_to
from relay.outbox.rows import Row
from relay.outbox.sqlite_intake import INSERT, earlier_leads

_ID: Final = OFFER_COLUMNS.index("id")

_WAITING: Final = """
    SELECT id FROM leads
    WHERE id IN (SELECT value FROM json_each(?)) AND status = 'held'
"""

# What :func:`relay.outbox.rows.row_of` gives a queued lead: due when it came.
_LET_GO: Final = """
    UPDATE leads SET status = 'queued', due_at = created_at
    WHERE id IN (SELECT value FROM json_each(?))
"""

_REMOVE: Final = "DELETE FROM leads WHERE id IN (SELECT value FROM json_each(?))"

from_to({LeadStatus.HELD}, LeadStatus.QUEUED)


def hold(connection: sqlite3.Connection, rows: Sequence[Row]) -> Sequence[Receipt]:
    """Write sign-ups down; nothing that is only held repeats another lead."""
    connection.executemany(INSERT, rows)
    return [Receipt(Taken.NEW, row[_ID], LeadStatus.HELD) for row in rows]


def let_go(
    connection: sqlite3.Connection, offers: Sequence[Offer]
) -> Sequence[Receipt | None]:
    """Queue held leads as they are; those that repeat an earlier one go away."""
    held = {lead_id for (lead_id,) in connection.execute(_WAITING, (_ids(offers),))}
    # Held leads, these too, make no other one a repeat.
    ledger = Ledger(earlier_leads(connection, offers))
    receipts = [
        ledger.enter(offer) if offer.lead.id in held else None for offer in offers
    ]
    pairs = list(zip(offers, receipts, strict=True))
    queued = [offer for offer, got in pairs if got and got.taken is Taken.NEW]
    repeats = [offer for offer, got in pairs if got and got.taken is Taken.DUPLICATE]
    connection.execute(_LET_GO, (_ids(queued),))
    if repeats:
        connection.execute(_REMOVE, (_ids(repeats),))
    return receipts


def _ids(offers: Sequence[Offer]) -> str:
    return json.dumps([offer.lead.id for offer in offers])
