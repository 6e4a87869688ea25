"""What people do and see, in PostgreSQL: pausing, the audit log, samples."""

from __future__ import annotations

from relay.core import jsontext
from relay.outbox.contract import Act, Sample
from relay.outbox.postgres_session import Connection
from relay.outbox.postgres_writer import each
from relay.outbox.rows import readable


@each
async def pause(connection: Connection, paused: bool) -> None:  # noqa: FBT001
    """Write whether a person has stopped delivery."""
    await connection.execute("UPDATE gate SET paused = $1", paused)


@each
async def record(connection: Connection, act: Act) -> None:
    """Write down what a person did."""
    await connection.execute(
        """
        INSERT INTO acts (at, actor, name, subject, detail)
        VALUES ($1, $2, $3, $4, $5)
        """,
        act.at,
        *map(readable, (act.actor, act.name, act.subject, act.detail)),
    )


async def acts(connection: Connection, limit: int) -> list[Act]:
    """What people did, newest first."""
    rows = await connection.fetch(
        "SELECT at, actor, name, subject, detail FROM acts ORDER BY at DESC LIMIT $1",
        limit,
    )
    return [Act(*tuple(row)) for row in rows]


@each
async def sample(connection: Connection, taken: Sample, keep_since: int) -> None:
    """Keep a sample, and drop those that are too old."""
    await connection.execute(
        """
        INSERT INTO samples (at, relay, seen) VALUES ($1, $2, $3)
        ON CONFLICT (at, relay) DO UPDATE SET seen = excluded.seen
        """,
        taken.at,
        taken.relay,
        jsontext.encode(dict(taken.seen)).decode(),
    )
    await connection.execute("DELETE FROM samples WHERE at < $1", keep_since)


async def samples(connection: Connection, since: int) -> list[Sample]:
    """Every relay's samples since then, oldest first."""
    rows = await connection.fetch(
        "SELECT at, relay, seen FROM samples WHERE at >= $1 ORDER BY at, relay", since
    )
    return [Sample(at, relay, jsontext.decode(seen)) for at, relay, seen in rows]
