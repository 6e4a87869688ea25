"""What the operator's webhook is told, as PostgreSQL keeps it."""

from __future__ import annotations

from typing import Final

from relay.core.leads import LeadStatus
from relay.outbox.contract import Alert
from relay.outbox.postgres_session import Connection
from relay.outbox.postgres_writer import each

_INSERT: Final = """
    INSERT INTO alerts (cause, message_id, body, since, over, due_at, attempts)
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING
"""

_REPLACE: Final = """
    UPDATE alerts SET
        message_id = $1, body = $2, since = $3, over = $4, due_at = $5, attempts = $6
    WHERE cause = $7 AND message_id = $8 AND due_at IS NOT DISTINCT FROM $9
"""

_DELETE: Final = """
    DELETE FROM alerts
    WHERE cause = $1 AND message_id = $2 AND due_at IS NOT DISTINCT FROM $3
"""


async def alerts(connection: Connection) -> list[Alert]:
    """Every cause that is not over, and every message that is to be sent."""
    rows = await connection.fetch(
        "SELECT cause, message_id, body, since, over, due_at, attempts FROM alerts"
    )
    return [Alert(*row) for row in rows]


@each
async def swap(connection: Connection, old: Alert | None, new: Alert | None) -> bool:
    """Put the new row in the old one's place, if that is still as it was."""
    stands = () if old is None else (old.cause, old.message_id, old.due_at)
    row = () if new is None else _row(new)
    if old is None:
        done = await connection.execute(_INSERT, *row) if new else "INSERT 0 0"
    elif new is None:
        done = await connection.execute(_DELETE, *stands)
    else:
        done = await connection.execute(_REPLACE, *row[1:], *stands)
    return done.endswith(" 1")


async def reasons(connection: Connection, status: LeadStatus) -> dict[str, int]:
    """How many leads of a state there are for each reason."""
    rows = await connection.fetch(
        """
        SELECT coalesce(last_error, ''), count(*) FROM leads
        WHERE status = $1 GROUP BY 1
        """,
        status.value,
    )
    return dict(map(tuple, rows))


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
