"""Fills a database with leads of many states past the outbox, in seconds."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from relay.core.clock import now_ms
from relay.outbox.backends.postgres_session import connect, migrate
from relay.outbox.backends.sqlite_file import connect_writer, make_file

FILL_S = 1800.0
"""Ten million rows take minutes."""

# Of a hundred leads one each waits, is parked, held or rejected, two are queued; one
# of ten thousand is of a rare event. Customers, clicks and requests are random.
INSERT = """
    INSERT INTO leads (
        id, source, customer, event, click_id, mode, person, notes, origin, created_at,
        status, due_at, delivered_at, round_at, dedupe_key, idempotency_key
    )
    SELECT
        'lead_' || {padded}, 'hook', 'user_' || {random}, CASE x % 10000 WHEN 77
        THEN 'Demo' ELSE 'Sign Up' END, {random}, 'async',
        '{{"customer_email": "ada' || x || '@example.com", "customer_name": "Ada"}}',
        '[]', '{{"click": "clickId"}}', {since} + x,
        CASE x % 100 WHEN 1 THEN 'waiting' WHEN 2 THEN 'parked' WHEN 3 THEN 'held'
            WHEN 4 THEN 'rejected' WHEN 5 THEN 'queued' WHEN 6 THEN 'queued'
            ELSE 'delivered' END,
        CASE WHEN x % 100 IN (1, 5, 6) THEN {since} + x END,
        CASE WHEN x % 100 NOT IN (1, 2, 3, 4, 5, 6) THEN {since} + x END,
        {since} + x, 'lead_' || x, 'hook:' || {random}
    FROM {numbers}
"""

SQLITE = INSERT.format(
    padded="printf('%026d', x)",
    random="lower(hex(randomblob(8)))",
    since="?2",
    numbers="(WITH RECURSIVE n (x) AS"
    " (SELECT 0 UNION ALL SELECT x + 1 FROM n WHERE x + 1 < ?1) SELECT x FROM n)",
)
POSTGRES = INSERT.format(
    padded="lpad(x::text, 26, '0')",
    random="substr(md5(random()::text), 1, 16)",
    since="$2::bigint",
    numbers="generate_series(0, $1::bigint - 1) AS n (x)",
)

SAMPLE = """
    INSERT INTO samples (at, relay, seen) SELECT {now} - {now} % 60000 - x * 60000, 'a',
        '{{"landings": 31.0, "captured.new": 12.0, "captured.unattributed": 3.0, "calls'
        || '.ok": 24.0, "call_seconds": 2.41, "oldest_s": 0.8, "leads.queued": 20.0, '
        || '"leads.delivered": 940.0, "before.delivered": 900.0}}'
    FROM {numbers}
"""
"""A day of what one relay sees."""

CALLED = """
    INSERT INTO attempts (lead_seq, n, at, step, duration_ms, outcome, http_status)
    SELECT seq, n, delivered_at, step, 120, 'taken', 200
    FROM leads CROSS JOIN (
        SELECT 1 AS n, 'prove' AS step UNION ALL SELECT 2, 'record'
    ) AS calls
    WHERE status = 'delivered'
    ORDER BY seq, n
"""
"""The two calls of each lead that was delivered."""

PICKED = """
    SELECT id, customer, click_id FROM leads ORDER BY seq DESC LIMIT 1 OFFSET {}
"""


def fill(
    url: str,
    size: int,
    deep: int,
    since: int | None = None,
    *,
    calls: bool = False,
) -> dict[str, str]:
    """Make so many leads; give a cursor, and a customer and a click from the middle.

    They come a millisecond after the other, from ``since`` on or up to now; with
    ``calls`` each that was delivered has its two.
    """
    since = now_ms() - size if since is None else since
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        rows = _sqlite(path, size, since, deep, calls=calls)
    else:
        rows = asyncio.run(_postgres(url, size, since, deep, calls=calls))
    last, middle = rows
    return {"deep": last[0], "customer": middle[1], "click": middle[2]}


def _sqlite(
    path: Path, size: int, since: int, deep: int, *, calls: bool
) -> Sequence[tuple[str, str, str]]:
    make_file(path)
    with contextlib.closing(connect_writer(path)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -500000")
        connection.execute("BEGIN")
        with _sorted_indexes(connection):
            connection.execute(SQLITE, (size, since))
            if calls:
                connection.execute(CALLED)
        numbers = "(SELECT seq AS x FROM leads LIMIT 100)"
        minutes = (
            f"(SELECT a.x * 100 + b.x AS x FROM {numbers} a, {numbers} b LIMIT 1440)"
        )
        connection.execute(SAMPLE.format(now="?1", numbers=minutes), (since + size,))
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return [
            connection.execute(PICKED.format(place)).fetchone()
            for place in (deep - 1, size // 2)
        ]


@contextlib.contextmanager
def _sorted_indexes(connection: sqlite3.Connection) -> Iterator[None]:
    """Make the indexes after the rows: they are sorted then, not searched each time."""
    indexes = connection.execute(
        "SELECT name, sql FROM sqlite_master"
        " WHERE type = 'index' AND tbl_name = 'leads' AND sql IS NOT NULL"
    ).fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    yield
    for _, statement in indexes:
        connection.execute(statement)


async def _postgres(
    url: str, size: int, since: int, deep: int, *, calls: bool
) -> Sequence[tuple[str, str, str]]:
    await migrate(url)
    connection = await connect(url)
    await connection.execute("SET statement_timeout = 0")
    await connection.execute("SET maintenance_work_mem = '512MB'")
    indexes = await connection.fetch(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'leads'"
        " AND schemaname = current_schema() AND indexname <> 'leads_pkey'"
    )
    for name, _ in indexes:
        await connection.execute(f"DROP INDEX {name}")
    await connection.execute(POSTGRES, size, since, timeout=FILL_S)
    for _, statement in indexes:
        await connection.execute(statement, timeout=FILL_S)
    if calls:
        await connection.execute(CALLED, timeout=FILL_S)
    minutes = "generate_series(1, 1440) AS n (x)"
    await connection.execute(SAMPLE.format(now="$1::bigint", numbers=minutes), since)
    await connection.execute("VACUUM ANALYZE", timeout=FILL_S)
    rows = [
        await connection.fetchrow(PICKED.format(place))
        for place in (deep - 1, size // 2)
    ]
    await connection.close()
    return [tuple(row or ()) for row in rows]
