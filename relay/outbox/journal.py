"""What is kept beside the leads: the audit log, samples for plots, alerts."""

from __future__ import annotations

from typing import Final

from relay.core import jsontext
from relay.outbox.contract import Act, Alert, Sample
from relay.outbox.database import Database, each
from relay.outbox.records import readable

_ALERT: Final = "cause, message_id, body, since, over, due_at, attempts"

_INSERT: Final = f"""
    INSERT INTO alerts ({_ALERT}) VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT DO NOTHING
"""  # noqa: S608 - of constants

_AS_IT_WAS: Final = """
    cause = $1 AND message_id = $2 AND due_at IS NOT DISTINCT FROM $3::bigint
"""

_REPLACE: Final = f"""
    UPDATE alerts SET
        message_id = $4, body = $5, since = $6, over = $7, due_at = $8, attempts = $9
    WHERE {_AS_IT_WAS}
"""  # noqa: S608 - of constants

_DELETE: Final = f"DELETE FROM alerts WHERE {_AS_IT_WAS}"  # noqa: S608 - of constants


@each
async def record(db: Database, act: Act) -> None:
    """Write down what a person did."""
    await db.execute(
        """
        INSERT INTO acts (at, actor, name, subject, detail)
        VALUES ($1, $2, $3, $4, $5)
        """,
        act.at,
        *map(readable, (act.actor, act.name, act.subject, act.detail)),
    )


async def acts(db: Database, limit: int) -> list[Act]:
    """Return what people did, newest first."""
    rows = await db.fetch(
        "SELECT at, actor, name, subject, detail FROM acts ORDER BY at DESC LIMIT $1",
        limit,
    )
    return [Act(*row) for row in rows]


@each
async def sample(db: Database, taken: Sample, keep_since: int) -> None:
    """Keep a sample, and drop those that are too old."""
    await db.execute(
        """
        INSERT INTO samples (at, relay, seen) VALUES ($1, $2, $3)
        ON CONFLICT (at, relay) DO UPDATE SET seen = excluded.seen
        """,
        taken.at,
        taken.relay,
        jsontext.encode(dict(taken.seen)).decode(),
    )
    await db.execute("DELETE FROM samples WHERE at < $1", keep_since)


async def samples(db: Database, since: int) -> list[Sample]:
    """Return every relay's samples since then, oldest first."""
    rows = await db.fetch(
        "SELECT at, relay, seen FROM samples WHERE at >= $1 ORDER BY at, relay", since
    )
    return [Sample(at, relay, jsontext.decode(seen)) for at, relay, seen in rows]


async def alerts(db: Database) -> list[Alert]:
    """Return every cause that is not over, and every message to be sent."""
    rows = await db.fetch(f"SELECT {_ALERT} FROM alerts")  # noqa: S608 - of constants
    return [
        Alert(cause, message_id, body, since, bool(over), due_at, attempts)
        for cause, message_id, body, since, over, due_at, attempts in rows
    ]


@each
async def swap_alert(db: Database, old: Alert | None, new: Alert | None) -> bool:
    """Put the new row in the old one's place, if that is still as it was."""
    row = () if new is None else _row(new)
    if old is None:
        return bool(row) and await db.execute(_INSERT, *row) == 1
    as_it_was = (old.cause, old.message_id, old.due_at)
    if new is None:
        return await db.execute(_DELETE, *as_it_was) == 1
    return await db.execute(_REPLACE, *as_it_was, *row[1:]) == 1


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
