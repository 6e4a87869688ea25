"""What only SQLite does in its way: claims, counts, and getting erased bytes out.

Claims need no locks here, for there is one writer. Counts are caught up by the
reader: a trigger that counts each new lead would cost ingest four percent.
"""

from __future__ import annotations

import contextlib
import mmap
import secrets
import sqlite3
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from relay.core.leads import LeadStatus
from relay.core.pacing import spend
from relay.outbox.backends.sqlite_file import connect_writer, unavailable
from relay.outbox.contract import Scrubbed
from relay.outbox.database import Database, each, fetch_one
from relay.outbox.deliveries import lock_budget, write_budget
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
from relay.outbox.records import sql

DUE: Final = f"{OLDEST} LIMIT $2"

NEWEST_DUE: Final = f"{NEWEST} LIMIT $2"

LAST_DUE: Final = f"{LAST} LIMIT $2"

_LEASE: Final = sql(
    """
    UPDATE leads SET status = 'sending', due_at = $1, token = $2
    WHERE seq = ANY($3::bigint[]) AND status IN {sendable}
    """
)

_PUT_OFF: Final = "UPDATE leads SET due_at = $1 WHERE seq = $2"


@each
async def claim(db: Database, wish: Wish) -> Leased:
    """Lease what is due and first in its customer's queue, oldest due first."""
    limit, now, pace = wish.limit, wish.now, wish.pace
    if pace is not None:
        spent = await lock_budget(db)
        limit = can_pay(spent, pace, limit, now)
    if limit <= 0:
        return Leased([], "")
    lease = Lease(secrets.token_hex(16), now, wish.until)
    fresh = await _first(db, NEWEST_DUE, wish.fresh(limit), lease)
    found = await _first(db, DUE, limit - len(fresh), lease) + fresh[::-1]
    found += await _first(db, LAST_DUE, limit - len(found), lease.ahead(LAST_MS))
    if pace is not None and found:
        calls = len(found) * pace.calls
        await write_budget(db, spend(spent, pace.plan, now, calls))
    return Leased([one.claimed(lease) for one in found], lease.token)


async def _first(db: Database, statement: str, limit: int, lease: Lease) -> list[Due]:
    """Lease up to limit leads that are first in their queues, in that order."""
    found: list[Due] = []
    page = max(limit, CLAIM_PAGE)
    for _ in range(CLAIM_PAGES if limit else 0):
        ready = [due(row) for row in await db.fetch(statement, lease.now, page)]
        first = [one for one in ready if one.behind is None][: limit - len(found)]
        await _lease(db, first, lease)
        await _put_off(db, ready, lease)
        found += first
        if len(found) == limit or len(ready) < page:
            break
    return found


async def _lease(db: Database, first: Sequence[Due], lease: Lease) -> None:
    if first:
        seqs = [one.seq for one in first]
        await db.execute(_LEASE, lease.until, lease.token, seqs)


async def _put_off(db: Database, ready: Iterable[Due], lease: Lease) -> None:
    """Make what waits behind another lead due when that one is."""
    behind = [(one.put_off(lease), one.seq) for one in ready if one.behind is not None]
    await db.execute_many(_PUT_OFF, behind)


# --- Leads by state, counted up to a seq (schema/sqlite.sql). ---

MANY: Final = 1_000
"""Up to here, leads are counted one by one: it takes a millisecond."""

BATCH: Final = 16_384
"""Leads counted by one commit: some 10 ms of the thread in which ingest waits."""


class Counted(NamedTuple):
    """Leads by state, and how many of them had to be counted one by one."""

    leads: dict[LeadStatus, int]
    late: int


async def counts(db: Database) -> Counted:
    """Count the entries in each state."""
    # Plus: else SQLite groups by walking an index over all leads.
    rows = await db.fetch(
        """
        SELECT status, sum(leads), sum(late) FROM (
            SELECT status, leads, 0 AS late FROM tallies
            UNION ALL
            SELECT status, count(*), count(*) FROM leads
            WHERE seq > (SELECT upto FROM tallied) GROUP BY +status
        )
        GROUP BY status
        """
    )
    leads = {LeadStatus(status): number for status, number, _ in rows if number}
    return Counted(leads, sum(late for _, _, late in rows))


@each
async def catch_up(db: Database) -> bool:
    """Add a batch of leads to the counts; return whether there may be more."""
    row = await fetch_one(
        db,
        """
        SELECT coalesce(max(seq), 0), count(*) FROM (
            SELECT seq FROM leads WHERE seq > (SELECT upto FROM tallied)
            ORDER BY seq LIMIT $1
        )
        """,
        BATCH,
    )
    upto, number = row or (0, 0)
    await db.execute(
        """
        INSERT INTO tallies SELECT status, count(*) FROM leads
        WHERE seq > (SELECT upto FROM tallied) AND seq <= $1 GROUP BY +status
        ON CONFLICT DO UPDATE SET leads = leads + excluded.leads
        """,
        upto,
    )
    await db.execute("UPDATE tallied SET upto = max(upto, $1)", upto)
    full: bool = number == BATCH
    return full


# --- Erased bytes. ``secure_delete`` overwrites a row where it was, but SQLite may
# have moved the row before, while a page was split, and leaves a copy in that page's
# free space (seen in one of some hundred leads). So the file is searched, and rebuilt
# where that is needed. ---

SCRUB_S: Final = 30.0
"""How long to wait for readers that still need the write-ahead log."""

VACUUM_BYTES: Final = 256 * 1024 * 1024
"""The largest file that is rebuilt at once: that takes some two seconds, in which a
running relay's commits wait, and they give up after five."""

TOO_LARGE: Final = (
    "a copy is left in the file's free space, and the file is too large to be rebuilt "
    "beside a running relay: stop the relays, run `sqlite3 FILE VACUUM`"
)


def scrub(path: Path, traces: Sequence[bytes]) -> Scrubbed:
    """Get erased bytes out of the file, relays running or not.

    Raises OutboxUnavailableError.
    """
    try:
        with contextlib.closing(connect_writer(path)) as connection:
            return _scrubbed(connection, path, traces)
    except sqlite3.Error as error:
        raise unavailable(error) from error


def _scrubbed(
    connection: sqlite3.Connection, path: Path, traces: Sequence[bytes]
) -> Scrubbed:
    done = _checkpoint(connection)
    if not done.clean or not _any_in(path, traces):
        return done
    # The indexes are where it happens most, and are quickly made anew.
    for index in ("leads_customer", "leads_request"):
        connection.execute(f"REINDEX {index}")
    done = _checkpoint(connection)
    if not done.clean or not _any_in(path, traces):
        return done
    if path.stat().st_size > VACUUM_BYTES:
        return Scrubbed(clean=False, reason=TOO_LARGE)
    connection.execute("VACUUM")
    return _checkpoint(connection)


def _checkpoint(connection: sqlite3.Connection) -> Scrubbed:
    """Move the log into the file and cut it to nothing."""
    give_up = time.monotonic() + SCRUB_S
    while True:
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            return Scrubbed(clean=True)
        if time.monotonic() > give_up:
            reason = "a long reading keeps the write-ahead log; run it again"
            return Scrubbed(clean=False, reason=reason)
        time.sleep(0.1)


def _any_in(path: Path, traces: Sequence[bytes]) -> bool:
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return any(content.find(trace) >= 0 for trace in traces)
