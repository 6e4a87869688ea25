"""What holds for many leads at once in PostgreSQL: gate, budget, parking, webhooks."""

from __future__ import annotations

from typing import Final

from relay.core.pacing import Budget, throttled
from relay.outbox.contract import Gate, OutboxUnavailableError
from relay.outbox.postgres_session import Connection
from relay.outbox.postgres_writer import each
from relay.outbox.queries import sql
from relay.outbox.rows import readable

# Whose rows are locked is being claimed or settled: then it is no longer due.
# (|| '': the planner thinks that the state finds fewer leads than the time.)
PARK: Final = sql(
    """
    UPDATE leads SET status = 'parked', due_at = NULL WHERE seq = ANY(ARRAY(
        SELECT seq FROM leads
        WHERE due_at <= $1 AND (status || '') IN {parkable}
        ORDER BY due_at, seq LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
    """
)

UNPARK: Final = """
    UPDATE leads SET status = 'queued', due_at = $1, round_at = $1
    WHERE seq = ANY(ARRAY(
        SELECT seq FROM leads WHERE status = 'parked'
        ORDER BY seq LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
"""

_SET_GATE: Final = """
    UPDATE gate SET closed = $1, reason = $2, probe_at = $3, failures = $4, parks = $5
"""

_REQUEUE: Final = sql(
    """
    UPDATE leads SET status = 'queued', due_at = $1, round_at = $1,
        in_doubt = in_doubt AND sale IS NULL
    WHERE id = $2 AND status IN {resendable}
    """
)


@each
async def park_due(connection: Connection, now: int, limit: int) -> int:
    """Park what is due."""
    return _changed(await connection.execute(PARK, now, limit))


@each
async def unpark(connection: Connection, now: int, limit: int) -> int:
    """Put what is parked back in line, oldest first, with a new round.

    While it was parked it was not tried in vain.
    """
    return _changed(await connection.execute(UNPARK, now, limit))


@each
async def set_gate(connection: Connection, gate: Gate) -> None:
    """Write the one gate."""
    await connection.execute(
        _SET_GATE,
        gate.closed,
        readable(gate.reason),
        gate.probe_at,
        gate.failures,
        gate.parks,
    )


@each
async def throttle(connection: Connection, plan: int, now: int, until: int) -> None:
    """Lower the shared rate, and pause."""
    spent = await lock_budget(connection)
    await write_budget(connection, throttled(spent, plan, now, until))


async def lock_budget(connection: Connection) -> Budget:
    """Read the one budget; nobody else spends of it until this transaction ends."""
    row = await connection.fetchrow(
        "SELECT spent_until, paused_until, share, lowered_at FROM budget FOR UPDATE"
    )
    if row is None:
        raise OutboxUnavailableError("the database has lost its rows")
    return Budget(*row)


async def write_budget(connection: Connection, spent: Budget) -> None:
    """Write the one budget, which must be locked."""
    await connection.execute(
        """
        UPDATE budget
        SET spent_until = $1, paused_until = $2, share = $3, lowered_at = $4
        """,
        float(spent.spent_until),
        spent.paused_until,
        float(spent.share),
        spent.lowered_at,
    )


@each
async def requeue(connection: Connection, lead_id: str, now: int) -> bool:
    """Begin a new round for a lead that rests."""
    return _changed(await connection.execute(_REQUEUE, now, lead_id)) == 1


@each
async def touch(_connection: Connection) -> None:
    """Do nothing: to connect is enough."""


@each
async def beat(connection: Connection) -> None:
    """Commit something harmless that reaches the disk."""
    await connection.execute("UPDATE pulse SET beats = beats + 1")


def _changed(tag: str) -> int:
    """Read how many rows a statement changed: "UPDATE 3"."""
    return int(tag.rpartition(" ")[2])
