"""Counts by state and leads by click, kept up to a seq and caught up by whoever looks.

An index of click ids would make each new lead rewrite another page of it, and a
trigger that counts new leads costs as much: a tenth and a thirtieth of what ingest
takes. So nothing is done for a new lead. Whoever asks reads the leads beyond the seq
one by one, and when those are many, takes them in: at once for a whole batch, which
shares the pages. Triggers keep what was taken in right
(``migrations/sqlite/0007_looking.sql``).
"""

from __future__ import annotations

import sqlite3
from typing import Final, NamedTuple

from relay.core.leads import Status
from relay.outbox.writer import each

MANY: Final = 1_000
"""Leads that are not taken in yet are read in a millisecond or two up to here."""

COUNTED: Final = 16_384
CLICKED: Final = 4_096
"""Leads taken in by one commit: some 10 ms of the thread in which ingest waits."""

_NEXT: Final = """
    SELECT coalesce(max(seq), 0), count(*) FROM (
        SELECT seq FROM leads WHERE seq > (SELECT {0} FROM derived) ORDER BY seq LIMIT ?
    )
"""


class Counted(NamedTuple):
    """Leads by state, and how many of them had to be counted one by one."""

    leads: dict[Status, int]
    late: int


def counts(connection: sqlite3.Connection) -> Counted:
    """How many entries are in each state."""
    rows = connection.execute(
        """
        SELECT status, sum(leads), sum(late) FROM (
            SELECT status, leads, 0 AS late FROM tallies
            UNION ALL
            SELECT status, count(*), count(*) FROM leads
            WHERE seq > (SELECT tallies FROM derived) GROUP BY status
        )
        GROUP BY status
        """
    ).fetchall()
    leads = {Status(status): number for status, number, _ in rows if number}
    return Counted(leads, sum(late for _, _, late in rows))


def unclicked(connection: sqlite3.Connection) -> int:
    """How many leads are not known by their click yet, or a few more."""
    found: int = connection.execute(
        "SELECT coalesce(max(seq), 0) - (SELECT clicks FROM derived) FROM leads"
    ).fetchone()[0]
    return found


@each
def tally(connection: sqlite3.Connection) -> bool:
    """Take some leads into the counts; tell whether there may be more."""
    upto, many = connection.execute(_NEXT.format("tallies"), (COUNTED,)).fetchone()
    connection.execute(
        """
        INSERT INTO tallies SELECT status, count(*) FROM leads
        WHERE seq > (SELECT tallies FROM derived) AND seq <= ? GROUP BY status
        ON CONFLICT DO UPDATE SET leads = leads + excluded.leads
        """,
        (upto,),
    )
    connection.execute("UPDATE derived SET tallies = max(tallies, ?)", (upto,))
    full: bool = many == COUNTED
    return full


@each
def take_clicks(connection: sqlite3.Connection) -> bool:
    """Take the clicks of some leads in; tell whether there may be more."""
    upto, many = connection.execute(_NEXT.format("clicks"), (CLICKED,)).fetchone()
    connection.execute(
        """
        INSERT OR IGNORE INTO clicks SELECT click_id, seq FROM leads
        WHERE seq > (SELECT clicks FROM derived) AND seq <= ? ORDER BY click_id
        """,
        (upto,),
    )
    connection.execute("UPDATE derived SET clicks = max(clicks, ?)", (upto,))
    full: bool = many == CLICKED
    return full
