"""Brings a database to the schema that this relay knows, and no further.

The steps are numbered SQL files, ``schema/<dialect>/0001_<what>.sql``. The database
remembers a checksum of each: one that was made by another text of a step is refused
at once, instead of failing at some later statement.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Final, NamedTuple

from relay.outbox.contract import SchemaChangedError, SchemaTooNewError
from relay.outbox.database import sqlite_transaction

HISTORY: Final = """
    CREATE TABLE IF NOT EXISTS schema_history (
        version INTEGER PRIMARY KEY, checksum TEXT NOT NULL
    );
"""


class Migration(NamedTuple):
    """One step; version is the number the database has after it."""

    version: int
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of its statements, whatever their comments and spaces."""
        lines = (line.partition("--")[0].split() for line in self.sql.splitlines())
        text = " ".join(word for line in lines for word in line)
        return hashlib.sha256(text.encode()).hexdigest()


def migrations(dialect: str) -> list[Migration]:
    """Return every migration of a dialect ("sqlite", "postgres"), in order."""
    folder = resources.files("relay.outbox") / "schema" / dialect
    return [
        Migration(int(file.name.split("_", 1)[0]), file.read_text("utf-8"))
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".sql")
    ]


def pending(
    steps: Sequence[Migration], version: int, history: Mapping[int, str]
) -> list[Migration]:
    """Return the steps that a database of this version lacks.

    ``history`` has the checksum of each step it has had. Raises SchemaTooNewError when
    it has had steps that are unknown here, SchemaChangedError when one was another.
    """
    newest = steps[-1].version
    if version > newest:
        raise SchemaTooNewError(
            f"the database has schema version {version}, this relay knows "
            f"{newest}: upgrade this relay, or give it another database"
        )
    for step in steps:
        if step.version <= version and history.get(step.version) != step.checksum:
            raise SchemaChangedError(
                f"the database's schema {step.version} was made by another version of "
                "this relay: use that one, or export its leads and start with an"
                " empty database"
            )
    return [step for step in steps if step.version > version]


def statements(sql: str) -> Iterator[str]:
    """Split a file into statements, where SQLite says that they end."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def migrate_sqlite(connection: sqlite3.Connection) -> None:
    """Apply what is missing, in one transaction, once among all processes."""
    steps = migrations("sqlite")
    if not pending(steps, version(connection), _history(connection)):
        return
    with sqlite_transaction(connection):
        # Another process may have migrated while this one waited for the lock.
        for step in pending(steps, version(connection), _history(connection)):
            for statement in (HISTORY, *statements(step.sql)):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO schema_history VALUES (?, ?)",
                (step.version, step.checksum),
            )
            connection.execute(f"PRAGMA user_version = {step.version}")


def version(connection: sqlite3.Connection) -> int:
    """Return the version of an SQLite file's schema, 0 if it has none of ours."""
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return found


def _history(connection: sqlite3.Connection) -> dict[int, str]:
    there = connection.execute(
        "SELECT 1 FROM sqlite_master WHERE name = 'schema_history'"
    ).fetchone()
    if there is None:
        return {}
    return dict(connection.execute("SELECT version, checksum FROM schema_history"))
