"""What is read from the SQLite file, in a few threads of its own."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar, TypeVarTuple

from relay.core.leads import OPEN, SETTLED, Attempt, LeadRecord
from relay.core.pacing import Budget
from relay.outbox.contract import Gate, OutboxUnavailableError, Query
from relay.outbox.keeping import both
from relay.outbox.queries import sql
from relay.outbox.rows import attempt_of, entry_of
from relay.outbox.sealing import Seal
from relay.outbox.sqlite_file import Connect, SqliteFile

READERS: Final = 2
"""Threads: one long listing must not hold up delivery's short questions."""

_NEWEST_FIRST: Final = "ORDER BY l.seq DESC LIMIT ?"

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


class Readers:
    """Runs reads in threads, each with a connection for the time being."""

    def __init__(self, path: Path, connect: Connect) -> None:
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="outbox-reader")
        self._files = [SqliteFile(path, connect) for _ in range(READERS)]
        self._free: queue.SimpleQueue[SqliteFile] = queue.SimpleQueue()
        for file in self._files:
            self._free.put(file)

    async def run(
        self,
        read: Callable[[sqlite3.Connection, *Arguments], Result],
        *arguments: *Arguments,
    ) -> Result:
        """Give what read gives; raise OutboxUnavailableError if it could not read."""
        loop = asyncio.get_running_loop()
        try:
            answer = loop.run_in_executor(self._pool, self._read, read, *arguments)
        except RuntimeError as error:
            raise OutboxUnavailableError("the outbox is closed") from error
        return await answer

    async def stop(self) -> None:
        """Wait for the reads under way and close the connections."""
        await asyncio.to_thread(self._pool.shutdown)
        for file in self._files:
            file.close()

    def _read(
        self,
        read: Callable[[sqlite3.Connection, *Arguments], Result],
        *arguments: *Arguments,
    ) -> Result:
        # Never empty: there are as many files as threads.
        file = self._free.get()
        try:
            with file.reading() as connection:
                return read(connection, *arguments)
        finally:
            self._free.put(file)


def get(connection: sqlite3.Connection, lead_id: str, seal: Seal) -> LeadRecord | None:
    """One entry, or None."""
    row = connection.execute(
        sql("SELECT {entry} FROM leads AS l WHERE l.id = ?"), (lead_id,)
    ).fetchone()
    return None if row is None else entry_of(row, seal)


def attempts(connection: sqlite3.Connection, lead_id: str) -> list[Attempt]:
    """Every call made for a lead, oldest first."""
    rows = connection.execute(
        """
        SELECT at, step, duration_ms, outcome, http_status, code FROM attempts
        WHERE lead_seq = (SELECT seq FROM leads WHERE id = ?) ORDER BY n
        """,
        (lead_id,),
    )
    return [attempt_of(row) for row in rows]


def entries(
    connection: sqlite3.Connection, query: Query, seal: Seal
) -> list[LeadRecord]:
    """Entries, newest first."""
    tests, values = where(query)
    parts = [sql("SELECT {entry} FROM leads AS l WHERE"), tests, _NEWEST_FIRST]
    # A negative limit is none.
    limit = -1 if query.limit is None else query.limit
    rows = connection.execute(" ".join(parts), (*values, limit))
    return [entry_of(row, seal) for row in rows]


# Each part of the index is asked (migrations/sqlite/0007_looking.sql).
_CLICK: Final = """
    l.seq IN (
        SELECT seq FROM leads WHERE click_id = ? AND seq >> 10 IN (
            WITH RECURSIVE parts (n) AS (
                SELECT max(seq) >> 10 FROM leads
                UNION ALL SELECT n - 1 FROM parts WHERE n > 0
            )
            SELECT n FROM parts
        )
    )
"""


def where(query: Query) -> tuple[str, list[Any]]:
    """Give the condition of a query, and its values."""
    status, event = _by_index(query)
    wanted: list[tuple[str, Any]] = [
        (_CLICK, query.click),
        (f"{status}l.status = ?", query.status),
        ("l.created_at >= ?", query.since),
        (f"{event}l.event = ?", query.event),
        ("l.seq < (SELECT seq FROM leads WHERE id = ?)", query.before),
    ]
    given = [(test, value) for test, value in wanted if value is not None]
    tests, values = ["TRUE", *(test for test, _ in given)], [v for _, v in given]
    if query.customer is not None:
        # Also what was theirs before it was erased.
        tests.append("l.customer IN (?, ?)")
        values += both([query.customer])
    return " AND ".join(tests), values


def _by_index(query: Query) -> tuple[str, str]:
    """Give a unary plus for each of status and event whose index is not to be used.

    SQLite knows no numbers: a customer and a click have few leads, and of the states,
    those in which leads end have most.
    """
    if query.customer is not None or query.click is not None:
        return "+", "+"
    if query.status is None or query.event is None:
        return "", ""
    return ("+", "") if query.status in SETTLED else ("", "+")


def oldest_open(connection: sqlite3.Connection) -> int | None:
    """When the oldest open lead was created."""
    found = [
        connection.execute(
            "SELECT created_at FROM leads WHERE status = ? ORDER BY seq LIMIT 1",
            (status.value,),
        ).fetchone()
        for status in OPEN
    ]
    return min((row[0] for row in found if row is not None), default=None)


def next_due(connection: sqlite3.Connection) -> int | None:
    """When the next entry becomes due."""
    row = connection.execute(
        """
        SELECT due_at FROM leads WHERE due_at IS NOT NULL ORDER BY due_at LIMIT 1
        """
    ).fetchone()
    return None if row is None else row[0]


def gate(connection: sqlite3.Connection) -> Gate:
    """Read the one gate."""
    closed, reason, probe_at, failures, parks, paused = connection.execute(
        "SELECT closed, reason, probe_at, failures, parks, paused FROM gate"
    ).fetchone()
    return Gate(bool(closed), reason, probe_at, failures, bool(parks), bool(paused))


def budget(connection: sqlite3.Connection) -> Budget:
    """Read the one budget."""
    return Budget(
        *connection.execute(
            "SELECT spent_until, paused_until, share, lowered_at FROM budget"
        ).fetchone()
    )
