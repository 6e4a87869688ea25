"""How personal data leaves the SQLite file, and how all of it is walked through."""

from __future__ import annotations

import sqlite3
from collections import Counter
from typing import Final

from relay.core.leads import OPEN
from relay.outbox.contract import Query
from relay.outbox.keeping import (
    Forgotten,
    Kept,
    Wanted,
    both,
    erasure,
    kept,
    traces,
)
from relay.outbox.queries import sql
from relay.outbox.rows import Row
from relay.outbox.sqlite_delivery import next_in_line
from relay.outbox.sqlite_reading import where
from relay.outbox.writer import each

OVERDUE: Final = sql(
    """
    SELECT seq, id, source, customer, dedupe_key, idempotency_key, sale, status,
        in_doubt
    FROM leads INDEXED BY leads_kept
    WHERE erased_at IS NULL AND status IN {settled} AND created_at < ?
    ORDER BY created_at LIMIT ?
    """
)

_OF_CUSTOMER: Final = """
    SELECT seq, id, source, customer, dedupe_key, idempotency_key, sale, status,
        in_doubt, erased_at
    FROM leads WHERE customer IN (?, ?)
"""

_OF_LEAD: Final = """
    SELECT seq, id, source, customer, dedupe_key, idempotency_key, sale, status,
        in_doubt, erased_at
    FROM leads WHERE id = ?
"""

_ERASE: Final = """
    UPDATE leads SET
        customer = ?, dedupe_key = ?, idempotency_key = ?, sale = ?, notes = ?,
        status = ?, last_error = ?, erased_at = ?,
        person = '{}', body_hash = NULL, answer = NULL, due_at = NULL, token = NULL
    WHERE seq = ?
"""


@each
def erase_due(connection: sqlite3.Connection, before: int, limit: int, now: int) -> int:
    """Erase what is settled and was captured before then, oldest first."""
    rows = connection.execute(OVERDUE, (before, limit)).fetchall()
    _erase(connection, [kept(row) for row in rows], "its time was over", now)
    return len(rows)


@each
def forget(connection: sqlite3.Connection, wanted: Wanted, now: int) -> Forgotten:
    """Erase one customer's or one lead's data, whatever the state."""
    if wanted.lead_id is not None:
        rows = connection.execute(_OF_LEAD, (wanted.lead_id,)).fetchall()
    else:
        names = both([wanted.customer or ""])
        rows = connection.execute(_OF_CUSTOMER, names).fetchall()
    leads = [kept(row[:-1]) for row in rows if row[-1] is None]
    _erase(connection, leads, "on request", now)
    for customer in {lead.customer for lead in leads if lead.status in OPEN}:
        next_in_line(connection, customer, now)
    counted = Counter(lead.status for lead in leads)
    return Forgotten(counted, len(rows) - len(leads), traces(wanted, leads))


def _erase(
    connection: sqlite3.Connection, leads: list[Kept], why: str, now: int
) -> None:
    connection.executemany(
        _ERASE, [(*erasure(one, why, now), one.seq) for one in leads]
    )


def page(
    connection: sqlite3.Connection, query: Query, below: int | None, limit: int
) -> list[Row]:
    """Read up to limit entries below a seq, newest first: the entry, then its seq."""
    tests, values = where(query)
    if below is not None:
        tests, values = f"{tests} AND l.seq < ?", [*values, below]
    parts = [
        sql("SELECT {entry}, l.seq FROM leads AS l WHERE"),
        tests,
        "ORDER BY l.seq DESC LIMIT ?",
    ]
    return connection.execute(" ".join(parts), (*values, limit)).fetchall()


def persons(
    connection: sqlite3.Connection, above: int, limit: int
) -> list[tuple[int, str, str]]:
    """Read seq, id and person of the next leads, oldest first."""
    return connection.execute(
        """
        SELECT seq, id, person FROM leads
        WHERE seq > ? AND erased_at IS NULL ORDER BY seq LIMIT ?
        """,
        (above, limit),
    ).fetchall()


@each
def replace_persons(
    connection: sqlite3.Connection, changes: list[tuple[str, int, str]]
) -> int:
    """Write persons anew (new, seq, old) that are still as they were read."""
    return connection.executemany(
        "UPDATE leads SET person = ? WHERE seq = ? AND person = ?", changes
    ).rowcount
