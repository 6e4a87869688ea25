"""Moves all leads from an SQLite file into an empty PostgreSQL database.

The file is marked before the first lead leaves it (:data:`MOVED`), and the database
until the last one has come (the table ``moves``): no relay starts on either in
between, nor ever again on the file. So a move that was interrupted goes on where it
stopped, and no lead can be sent from both.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from relay.core.leads import LeadStatus
from relay.outbox.backends.postgres_session import (
    Connection,
    connect,
    migrate,
    translated,
)
from relay.outbox.backends.snapshot import alone
from relay.outbox.backends.sqlite_file import MOVED
from relay.outbox.contract import OutboxError
from relay.outbox.migrations import migrate_sqlite

BATCH: Final = 1_000
"""Leads in one transaction: some megabytes, some tens of milliseconds."""

SINGLES: Final = ("circuit", "budget", "audit_log", "removed")
"""Tables beside the leads, which are copied as they are at the end."""


class MoveError(OutboxError):
    """The move cannot be made, or its result is not what it should be."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What a move has brought over, counted in the new database and checked."""

    leads: Mapping[LeadStatus, int]
    attempts: int
    before: bool = False
    """Whether an earlier run had finished the move already."""


async def move(source: Path, url: str, progress: Callable[[int], None]) -> Moved:
    """Move everything, or go on with a move that was interrupted.

    ``progress`` is called now and then with how many leads are over. Raises MoveError,
    InUseError, SchemaTooNewError or OutboxUnavailableError.
    """
    with alone(source) as file:
        migrate_sqlite(file)
        await migrate(url)
        connection = await connect(url)
        try:
            with translated():
                return await _Move(file, connection).run(progress)
        finally:
            connection.terminate()


class _Move:
    """A move under way: the locked file and a connection to the new database."""

    def __init__(self, file: sqlite3.Connection, connection: Connection) -> None:
        self._file = file
        self._connection = connection

    async def run(self, progress: Callable[[int], None]) -> Moved:
        if await self._finished_before():
            return Moved(await self._counts(), await self._attempts(), before=True)
        self._file.execute(f"PRAGMA application_id = {MOVED}")
        last = await self._connection.fetchval(
            "SELECT coalesce(max(seq), 0) FROM leads"
        )
        while rows := self._next(last):
            await self._copy(rows)
            last = rows[-1]["seq"]
            progress(last)
        async with self._connection.transaction():
            for table in SINGLES:
                await self._copy_single(table)
            moved = await self._verified()
            await self._connection.execute("UPDATE moves SET finished = TRUE")
        return moved

    async def _finished_before(self) -> bool:
        """Begin, go on, or refuse; True when there is nothing left to move."""
        first = self._one("SELECT id FROM leads ORDER BY seq LIMIT 1") or "no leads"
        async with self._connection.transaction():
            row = await self._connection.fetchrow(
                "SELECT source, finished FROM moves FOR UPDATE"
            )
            if row is None and not await self._any_leads():
                await self._begin(first)
                return False
        if row is None or row["source"] != first:
            raise MoveError(
                "the new database holds leads that are not from this file: "
                "move into an empty one"
            )
        return bool(row["finished"])

    async def _any_leads(self) -> bool:
        found = await self._connection.fetchval("SELECT 1 FROM leads LIMIT 1")
        return found is not None

    async def _begin(self, source: str) -> None:
        await self._connection.execute(
            "INSERT INTO moves (id, source, finished) VALUES (1, $1, FALSE)", source
        )
        # Leads that come later go behind those that are moved.
        last = self._one("SELECT max(seq) FROM leads") or 0
        await self._connection.execute(
            "SELECT setval(pg_get_serial_sequence('leads', 'seq'), $1)", last + 1
        )

    def _next(self, last: int) -> list[sqlite3.Row]:
        return self._rows(
            "SELECT * FROM leads WHERE seq > ? ORDER BY seq LIMIT ?", last, BATCH
        )

    async def _copy(self, leads: Sequence[sqlite3.Row]) -> None:
        calls = self._rows(
            "SELECT * FROM attempts WHERE lead_seq BETWEEN ? AND ?",
            leads[0]["seq"],
            leads[-1]["seq"],
        )
        async with self._connection.transaction():
            await self._insert("leads", leads)
            await self._insert("attempts", calls)

    async def _insert(self, table: str, rows: Sequence[sqlite3.Row]) -> None:
        if not rows:
            return
        types = await self._types(table, rows[0].keys())
        names = ", ".join(types)
        marks = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(types.values(), 1))
        columns = [
            [_value(row[name], kind) for row in rows] for name, kind in types.items()
        ]
        await self._connection.execute(
            # Names of columns from the two schemas, never from what is stored.
            f"INSERT INTO {table} ({names}) SELECT * FROM unnest({marks})",  # noqa: S608
            *columns,
        )

    async def _copy_single(self, table: str) -> None:
        cursor = self._file.execute(f"SELECT * FROM {table}")  # noqa: S608 - of SINGLES
        cursor.row_factory = sqlite3.Row
        await self._connection.execute(f"DELETE FROM {table}")  # noqa: S608 - as above
        while rows := cursor.fetchmany(BATCH):
            await self._insert(table, rows)

    async def _types(self, table: str, names: Sequence[str]) -> dict[str, str]:
        """Return the type of each column there; the two schemas must have the same."""
        there = await self._connection.prepare(f"SELECT * FROM {table} LIMIT 0")  # noqa: S608
        types = {one.name: one.type.name for one in there.get_attributes()}
        if set(types) != set(names):
            unequal = ", ".join(sorted(set(types) ^ set(names)))
            raise MoveError(f"the two databases differ in {table}: {unequal}")
        return {name: types[name] for name in names}

    async def _verified(self) -> Moved:
        """Compare the counts of both databases; raise MoveError if they differ."""
        rows = self._rows(
            "SELECT status, count(*) AS number FROM leads GROUP BY status"
        )
        left = {LeadStatus(row["status"]): row["number"] for row in rows}
        moved = Moved(await self._counts(), await self._attempts())
        attempts = self._one("SELECT count(*) FROM attempts")
        if left != dict(moved.leads) or attempts != moved.attempts:
            raise MoveError(
                f"the counts differ: {_words(left)}, {attempts} calls in the file, "
                f"{_words(moved.leads)}, {moved.attempts} calls in the new database"
            )
        return moved

    async def _counts(self) -> dict[LeadStatus, int]:
        rows = await self._connection.fetch(
            "SELECT status, count(*) FROM leads GROUP BY status"
        )
        return {LeadStatus(status): number for status, number in rows}

    async def _attempts(self) -> int:
        return int(await self._connection.fetchval("SELECT count(*) FROM attempts"))

    def _rows(self, statement: str, *values: object) -> list[sqlite3.Row]:
        cursor = self._file.execute(statement, values)
        cursor.row_factory = sqlite3.Row
        return cursor.fetchall()

    def _one(self, statement: str) -> Any:
        row = self._file.execute(statement).fetchone()
        return None if row is None else row[0]


def _value(value: Any, kind: str) -> Any:
    # SQLite has no booleans.
    return bool(value) if kind == "bool" else value


def _words(counts: Mapping[LeadStatus, int]) -> str:
    return (
        ", ".join(f"{counts[one]} {one}" for one in LeadStatus if one in counts) or "0"
    )
