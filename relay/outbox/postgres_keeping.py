"""How personal data leaves PostgreSQL, and how all of it is walked through."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import asyncpg

from relay.core.leads import OPEN
from relay.outbox.contract import Query
from relay.outbox.keeping import (
    Forgotten,
    Kept,
    Scrubbed,
    Wanted,
    both,
    erasure,
    kept,
)
from relay.outbox.postgres_delivery import next_in_line
from relay.outbox.postgres_reading import where
from relay.outbox.postgres_session import Connection, connect
from relay.outbox.postgres_writer import each
from relay.outbox.queries import sql
from relay.outbox.rows import Row

VACUUM_S: Final = 3600.0
"""How long VACUUM may take: it reads the pages that have changed."""

# Whose rows are locked is being erased by another relay, or confirmed: next time.
OVERDUE: Final = sql(
    """
    SELECT seq, id, source, customer, dedupe_key, idempotency_key, sale, status,
        in_doubt
    FROM leads
    WHERE erased_at IS NULL AND status IN {settled} AND created_at < $1
    ORDER BY created_at, seq LIMIT $2 FOR UPDATE SKIP LOCKED
    """
)

_FOUND: Final = """
    SELECT seq, id, source, customer, dedupe_key, idempotency_key, sale, status,
        in_doubt, erased_at
    FROM leads WHERE {} ORDER BY seq FOR UPDATE
"""

_ERASE: Final = """
    UPDATE leads SET
        customer = $1, dedupe_key = $2, idempotency_key = $3, sale = $4, notes = $5,
        status = $6, last_error = $7, erased_at = $8,
        person = '{}', body_hash = NULL, answer = NULL, due_at = NULL, token = NULL
    WHERE seq = $9
"""


@each
async def erase_due(connection: Connection, before: int, limit: int, now: int) -> int:
    """Erase what is settled and was captured before then, oldest first."""
    rows = await connection.fetch(OVERDUE, before, limit)
    await _erase(connection, [kept(row) for row in rows], "its time was over", now)
    return len(rows)


@each
async def forget(connection: Connection, wanted: Wanted, now: int) -> Forgotten:
    """Erase one customer's or one lead's data, whatever the state."""
    rows = await _found(connection, wanted)
    leads = [kept(tuple(row)[:-1]) for row in rows if row["erased_at"] is None]
    await _erase(connection, leads, "on request", now)
    behind = {lead.customer for lead in leads if lead.status in OPEN}
    await next_in_line(connection, [(customer, now) for customer in behind])
    counted = Counter(lead.status for lead in leads)
    return Forgotten(counted, before=len(rows) - len(leads))


async def _found(connection: Connection, wanted: Wanted) -> list[Any]:
    if wanted.lead_id is not None:
        return [*await connection.fetch(_FOUND.format("id = $1"), wanted.lead_id)]
    statement = _FOUND.format("customer = ANY($1::text[])")
    return [*await connection.fetch(statement, both([wanted.customer or ""]))]


async def _erase(connection: Connection, leads: list[Kept], why: str, now: int) -> None:
    await connection.executemany(
        _ERASE, [(*erasure(one, why, now), one.seq) for one in leads]
    )


async def scrub(url: str) -> Scrubbed:
    """VACUUM what was erased; raise OutboxUnavailableError without a server.

    The old versions of the rows are then out of the tables and indexes, unless a
    transaction somewhere may still see them. The server's write-ahead log and its
    backups hold them until those go.
    """
    connection = await connect(url)
    try:
        await connection.execute("SET statement_timeout = 0")
        await connection.execute("VACUUM leads, attempts", timeout=VACUUM_S)
    except asyncpg.PostgresError as error:
        return Scrubbed(clean=False, reason=f"VACUUM: {type(error).__name__}")
    finally:
        connection.terminate()
    return Scrubbed(clean=True)


async def page(
    connection: Connection, query: Query, below: int | None, limit: int
) -> list[Row]:
    """Read up to limit entries below a seq, newest first: the entry, then its seq."""
    tests, values = where(query)
    if below is not None:
        values.append(below)
        tests += f" AND l.seq < ${len(values)}"
    parts = [
        sql("SELECT {entry}, l.seq FROM leads AS l WHERE"),
        tests,
        f"ORDER BY l.seq DESC LIMIT ${len(values) + 1}::bigint",
    ]
    rows = await connection.fetch(" ".join(parts), *values, limit)
    return [tuple(row) for row in rows]


async def persons(
    connection: Connection, above: int, limit: int
) -> list[tuple[int, str, str]]:
    """Read seq, id and person of the next leads, oldest first."""
    rows = await connection.fetch(
        """
        SELECT seq, id, person FROM leads
        WHERE seq > $1 AND erased_at IS NULL ORDER BY seq LIMIT $2
        """,
        above,
        limit,
    )
    return [(row[0], row[1], row[2]) for row in rows]


@each
async def replace_persons(
    connection: Connection, changes: list[tuple[str, int, str]]
) -> int:
    """Write persons anew (new, seq, old) that are still as they were read."""
    rows = await connection.fetch(
        """
        UPDATE leads SET person = given.new
        FROM unnest($1::text[], $2::bigint[], $3::text[]) AS given (new, seq, old)
        WHERE leads.seq = given.seq AND leads.person = given.old
        RETURNING leads.seq
        """,
        *map(list, zip(*changes, strict=True)),
    )
    return len(rows)
