"""Leads by state, counted up to a seq and caught up by whoever looks.

A trigger that counts each new lead would cost ingest four percent. So nothing is done
for a new lead: whoever asks counts those beyond the seq one by one and, when they are
many, takes them into the counts. Triggers keep those right when leads move
(``migrations/sqlite/0007_looking.sql``).
"""

from __future__ import annotations

import sqlite3
from typing import Final, NamedTuple

from relay.core.leads import LeadStatus
from relay.outbox.writer import each

MANY: Final = 1_000
"""Up to here, leads are counted one by one: it takes a millisecond."""

BATCH: Final = 16_384
"""Leads taken in by one commit: some 10 ms of the thread in which ingest waits."""


class Counted(NamedTuple):
    """Leads by state, and how many of them had to be counted one by one."""

    leads: dict[LeadStatus, int]
    late: int


def counts(connection: sqlite3.Connection) -> Counted:
    """How many entries are in each state."""
    # Plus: else SQLite groups by walking an index over all leads.
    rows = connection.execute(
        """
        SELECT status, sum(leads), sum(late) FROM (
            SELECT status, leads, 0 AS late FROM tallies
            UNION ALL
            SELECT status, count(*), count(*) FROM leads
            WHERE seq > (SELECT upto FROM tallied) GROUP BY +status
        )
        GROUP BY status
        """
    ).fetchall()
    leads = {LeadStatus(status): number for status, number, _ in rows if number}
    return Counted(leads, sum(late for _, _, late in rows))


@each
def catch_up(connection: sqlite3.Connection) -> bool:
    """Take a batch of leads into the counts; tell whether there may be more."""
    upto, number = connection.execute(
        """
        SELECT coalesce(max(seq), 0), count(*) FROM (
            SELECT seq FROM leads WHERE seq > (SELECT upto FROM tallied)
            ORDER BY seq LIMIT ?
        )
        """,
        (BATCH,),
    ).fetchone()
    connection.execute(
        """
        INSERT INTO tallies SELECT status, count(*) FROM leads
        WHERE seq > (SELECT upto FROM tallied) AND seq <= ? GROUP BY +status
        ON CONFLICT DO UPDATE SET leads = leads + excluded.leads
        """,
        (upto,),
    )
    connection.execute("UPDATE tallied SET upto = max(upto, ?)", (upto,))
    full: bool = number == BATCH
    return full
