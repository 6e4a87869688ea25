"""What the operator's webhook is told, as the SQLite file keeps it."""

from __future__ import annotations

import sqlite3
from typing import Final

from relay.core.leads import LeadStatus
from relay.outbox.contract import Alert
from relay.outbox.writer import each

_INSERT: Final = """
    INSERT INTO alerts VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""

_REPLACE: Final = """
    UPDATE alerts SET
        message_id = ?, body = ?, since = ?, over = ?, due_at = ?, attempts = ?
    WHERE cause = ? AND message_id = ? AND due_at IS ?
"""

_DELETE: Final = """
    DELETE FROM alerts WHERE cause = ? AND message_id = ? AND due_at IS ?
"""


def alerts(connection: sqlite3.Connection) -> list[Alert]:
    """Every cause that is not over, and every message that is to be sent."""
    rows = connection.execute(
        "SELECT cause, message_id, body, since, over, due_at, attempts FROM alerts"
    )
    return [
        Alert(cause, message_id, body, since, bool(over), due_at, attempts)
        for cause, message_id, body, since, over, due_at, attempts in rows
    ]


@each
def swap(connection: sqlite3.Connection, old: Alert | None, new: Alert | None) -> bool:
    """Put the new row in the old one's place, if that is still as it was."""
    stands = () if old is None else (old.cause, old.message_id, old.due_at)
    row = () if new is None else _row(new)
    if old is None:
        done = connection.execute(_INSERT, row) if new else None
    elif new is None:
        done = connection.execute(_DELETE, stands)
    else:
        done = connection.execute(_REPLACE, (*row[1:], *stands))
    return done is not None and done.rowcount == 1


def reasons(connection: sqlite3.Connection, status: LeadStatus) -> dict[str, int]:
    """How many leads of a state there are for each reason."""
    rows = connection.execute(
        """
        SELECT coalesce(last_error, ''), count(*) FROM leads
        WHERE status = ? GROUP BY 1
        """,
        (status.value,),
    )
    return dict(rows.fetchall())


def _row(alert: Alert) -> tuple[object, ...]:
    return (
        alert.cause,
        alert.message_id,
        alert.body,
        alert.since,
        alert.over,
        alert.due_at,
        alert.attempts,
    )
