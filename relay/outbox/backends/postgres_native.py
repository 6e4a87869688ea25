"""What only PostgreSQL does in its way: insert-or-find, claims under locks, counts.

Relays claim at the same moment: a claim takes only leads that nobody else has locked,
and looks again, once it has them, whether they are still due and first in their queue.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, Final
from zlib import crc32

import asyncpg

from relay.core.leads import LeadStatus
from relay.core.pacing import spend
from relay.outbox.backends.postgres_session import connect
from relay.outbox.contract import InsertResult, NewLead, Scrubbed
from relay.outbox.database import Database, Row
from relay.outbox.deliveries import lock_budget, write_budget
from relay.outbox.insertion import (
    EARLIER,
    Pending,
    earlier_of,
    entered,
    new_rows,
    sought,
)
from relay.outbox.leases import (
    CLAIM_PAGE,
    CLAIM_PAGES,
    LAST,
    LAST_MS,
    NEWEST,
    OLDEST,
    Due,
    Lease,
    Leased,
    Wish,
    can_pay,
    due,
)
from relay.outbox.records import NEW_LEAD_COLUMNS, UNCOUNTED, sql

LINES: Final = 16_384
"""Rows of the table ``lines``. Two relays that commit 64 leads each meet on one of
them in every fifth commit, and then one waits some milliseconds."""

VACUUM_S: Final = 3600.0
"""How long VACUUM may take: it reads the pages that have changed."""

_INSERT: Final = sql(
    "INSERT INTO leads ({new_lead}) SELECT * FROM unnest({new_lead_arrays})"
)

_COLUMNS: Final = len(NEW_LEAD_COLUMNS)

_INSERT_OR_FIND: Final = f"""
    WITH earlier AS MATERIALIZED (
        {EARLIER.format(*(_COLUMNS + place for place in (1, 2, 3, 2, 3)))}
    ), entered AS (
        {_INSERT} WHERE NOT EXISTS (SELECT 1 FROM earlier)
    )
    SELECT * FROM earlier
"""  # noqa: S608 - its parts are constants
"""Most new leads repeat nothing: then they are in, at one trip to the server. If any
may repeat an earlier lead, nothing is inserted, and the ledger has to say which."""

# Limits are written into the statement: the planner must know that they are small.
DUE: Final = f"{OLDEST} LIMIT"

NEWEST_DUE: Final = f"{NEWEST} LIMIT"

LAST_DUE: Final = f"{LAST} LIMIT"

# Looked at again under the lock: another relay may have been here since.
_LEASE: Final = sql(
    """
    UPDATE leads AS l SET status = 'sending', due_at = $2, token = $3
    WHERE l.seq = ANY(ARRAY(
        SELECT l.seq FROM leads AS l
        WHERE l.seq = ANY($1::bigint[]) AND l.status IN {sendable}
            AND l.due_at <= $4
            AND {behind} IS NULL
        ORDER BY l.seq FOR UPDATE OF l SKIP LOCKED
    ))
    RETURNING l.seq, {entry}
    """
)

_PUT_OFF: Final = sql(
    """
    UPDATE leads AS l SET due_at = p.due_at
    FROM unnest($1::bigint[], $2::bigint[]) AS p (seq, due_at)
    WHERE l.seq = p.seq AND {behind} IS NOT NULL AND l.seq = ANY(ARRAY(
        SELECT o.seq FROM leads AS o
        WHERE o.seq = ANY($1::bigint[]) AND o.due_at <= $3
        ORDER BY o.seq FOR UPDATE SKIP LOCKED
    ))
    """
)


def locks_of(new_lead: NewLead) -> tuple[int, ...]:
    """Return the row of ``lines`` to lock for a new lead; none for one that only rests.

    Every relay must return the same: the table and this function change together.
    """
    if new_lead.status in UNCOUNTED:
        return ()
    return (crc32(new_lead.lead.customer_external_id.encode()) % LINES,)


async def put(db: Database, arguments: Sequence[Pending]) -> list[InsertResult]:
    """Insert the new leads that repeat no earlier lead and no other of them."""
    new_leads = [new_lead for new_lead, _ in arguments]
    results = entered(new_leads, ())
    columns = _columns(new_rows(arguments, results))
    rows = await db.fetch(_INSERT_OR_FIND, *columns, *sought(new_leads))
    if rows:
        results = entered(new_leads, map(earlier_of, rows))
        if new := new_rows(arguments, results):
            await db.execute(_INSERT, *_columns(new))
    return results


def _columns(rows: Sequence[Row]) -> Sequence[Sequence[Any]]:
    """Return rows as one array for each column."""
    return list(zip(*rows, strict=True)) or [()] * _COLUMNS


async def claim(db: Database, wish: Wish) -> Leased:
    """Lease what is due and first in its customer's queue, oldest due first."""
    limit, now, pace = wish.limit, wish.now, wish.pace
    lease = Lease(secrets.token_hex(16), now, wish.until)
    if pace is not None:
        # Claims that pay go one after the other, over all relays.
        spent = await lock_budget(db)
        limit = can_pay(spent, pace, limit, now)
    fresh = await _first(db, NEWEST_DUE, wish.fresh(limit), lease)
    rows = await _first(db, DUE, limit - len(fresh), lease) + fresh[::-1]
    rows += await _first(db, LAST_DUE, limit - len(rows), lease.ahead(LAST_MS))
    if pace is not None and rows:
        calls = len(rows) * pace.calls
        await write_budget(db, spend(spent, pace.plan, now, calls))
    return Leased(rows, lease.token)


async def _first(db: Database, statement: str, limit: int, lease: Lease) -> list[Row]:
    """Lease up to limit leads that are first in their queues, in that order."""
    found: list[Row] = []
    page = max(limit, CLAIM_PAGE)
    for _ in range(CLAIM_PAGES if limit > 0 else 0):
        rows = await db.fetch(f"{statement} {page:d}", lease.now)
        ready = [due(row) for row in rows]
        first = [one for one in ready if one.behind is None][: limit - len(found)]
        leased = await _lease(db, first, lease)
        behind = [one for one in ready if one.behind is not None]
        await _put_off(db, behind, lease)
        found += leased
        # Of a page that others have locked, nothing would be new the next time.
        if len(found) == limit or len(ready) < page or not (leased or behind):
            break
    return found


async def _lease(db: Database, first: Sequence[Due], lease: Lease) -> list[Row]:
    """Lease those that are still there for it; return their rows, in this order."""
    if not first:
        return []
    seqs = [one.seq for one in first]
    rows = await db.fetch(_LEASE, seqs, lease.until, lease.token, lease.now)
    taken = {row[0]: row[1:] for row in rows}
    return [taken[seq] for seq in seqs if seq in taken]


async def _put_off(db: Database, behind: Sequence[Due], lease: Lease) -> None:
    """Make what waits behind another lead due when that one is."""
    if behind:
        await db.execute(
            _PUT_OFF,
            [one.seq for one in behind],
            [one.put_off(lease) for one in behind],
            lease.now,
        )


async def counts(db: Database) -> dict[LeadStatus, int]:
    """Count the entries in each state."""
    # Kept as changes, one by one (schema/postgres.sql).
    rows = await db.fetch(
        "SELECT status, sum(leads)::bigint FROM tallies GROUP BY status"
    )
    return {LeadStatus(status): number for status, number in rows if number}


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
