"""What is read from PostgreSQL, on a few connections of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar, TypeVarTuple

from relay.core.leads import OPEN, Attempt, LeadRecord, LeadStatus
from relay.core.pacing import Budget
from relay.outbox.contract import Gate, OutboxUnavailableError, Query
from relay.outbox.keeping import both
from relay.outbox.postgres_session import Connection, Session
from relay.outbox.queries import sql
from relay.outbox.rows import attempt_of, entry_of
from relay.outbox.sealing import Seal

# Each state by its name: a plan for any state walks all leads for one that has none.
_OLDEST_OPEN: Final = " UNION ALL ".join(
    f"(SELECT created_at FROM leads WHERE status = '{one.value}' ORDER BY seq LIMIT 1)"  # noqa: S608 - of constants
    for one in sorted(OPEN)
).join(("SELECT min(created_at) FROM (", ") AS firsts"))

READERS: Final = 2
"""Connections: one long listing must not hold up delivery's short questions."""

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


class Readers:
    """Runs reads, each on a connection of its own for the time being."""

    def __init__(self, make: Callable[[], Session]) -> None:
        self._free: asyncio.LifoQueue[Session] = asyncio.LifoQueue()
        for _ in range(READERS):
            self._free.put_nowait(make())
        self._stopping = False

    async def run(
        self,
        read: Callable[[Connection, *Arguments], Awaitable[Result]],
        *arguments: *Arguments,
    ) -> Result:
        """Give what read gives; raise OutboxUnavailableError if it could not read."""
        if self._stopping:
            raise OutboxUnavailableError("the outbox is closed")
        session = await self._free.get()
        try:
            return await session.read(lambda connection: read(connection, *arguments))
        finally:
            self._free.put_nowait(session)

    async def stop(self) -> None:
        """Wait for the reads under way and close the connections."""
        self._stopping = True
        for _ in range(READERS):
            await (await self._free.get()).close()


async def get(connection: Connection, lead_id: str, seal: Seal) -> LeadRecord | None:
    """One entry, or None."""
    row = await connection.fetchrow(
        sql("SELECT {entry} FROM leads AS l WHERE l.id = $1"), lead_id
    )
    return None if row is None else entry_of(tuple(row), seal)


async def attempts(connection: Connection, lead_id: str) -> list[Attempt]:
    """Every call made for a lead, oldest first."""
    rows = await connection.fetch(
        """
        SELECT at, step, duration_ms, outcome, http_status, code FROM attempts
        WHERE lead_seq = (SELECT seq FROM leads WHERE id = $1) ORDER BY n
        """,
        lead_id,
    )
    return [attempt_of(tuple(row)) for row in rows]


async def entries(connection: Connection, query: Query, seal: Seal) -> list[LeadRecord]:
    """Entries, newest first."""
    tests, values = where(query)
    parts = [
        sql("SELECT {entry} FROM leads AS l WHERE"),
        tests,
        # No limit is NULL.
        f"ORDER BY l.seq DESC LIMIT ${len(values) + 1}::bigint",
    ]
    rows = await connection.fetch(" ".join(parts), *values, query.limit)
    return [entry_of(tuple(row), seal) for row in rows]


def where(query: Query) -> tuple[str, list[Any]]:
    """Give the condition of a query, and its values."""
    # Also what was the customer's before it was erased.
    names = None if query.customer is None else both([query.customer])
    wanted: list[tuple[str, Any]] = [
        ("l.status = ${}", query.status),
        ("l.customer = ANY(${}::text[])", names),
        ("l.created_at >= ${}", query.since),
        ("l.click_id = ${}", query.click),
        ("l.event = ${}", query.event),
        ("l.seq < (SELECT seq FROM leads WHERE id = ${})", query.before),
    ]
    given = [(test, value) for test, value in wanted if value is not None]
    tests = [test.format(place) for place, (test, _) in enumerate(given, 1)]
    return " AND ".join(["TRUE", *tests]), [value for _, value in given]


async def counts(connection: Connection) -> dict[LeadStatus, int]:
    """How many entries are in each state."""
    # As changes, one by one (migrations/postgres/0006_looking.sql).
    rows = await connection.fetch(
        "SELECT status, sum(leads)::bigint FROM tallies GROUP BY status"
    )
    return {LeadStatus(status): number for status, number in rows if number}


async def oldest_open(connection: Connection) -> int | None:
    """When the oldest open lead was created."""
    oldest: int | None = await connection.fetchval(_OLDEST_OPEN)
    return oldest


async def next_due(connection: Connection) -> int | None:
    """When the next entry becomes due."""
    due: int | None = await connection.fetchval(
        "SELECT due_at FROM leads WHERE due_at IS NOT NULL ORDER BY due_at LIMIT 1"
    )
    return due


async def gate(connection: Connection) -> Gate:
    """Read the one gate."""
    row = await connection.fetchrow(
        "SELECT closed, reason, probe_at, failures, parks, paused FROM gate"
    )
    return Gate(*_there(row))


async def budget(connection: Connection) -> Budget:
    """Read the one budget."""
    row = await connection.fetchrow(
        "SELECT spent_until, paused_until, share, lowered_at FROM budget"
    )
    return Budget(*_there(row))


def _there(row: Any) -> tuple[Any, ...]:
    if row is None:
        raise OutboxUnavailableError("the database has lost its rows")
    return tuple(row)
