"""Brings a database to the schema that this relay knows, and no further.

Migrations are numbered SQL files, ``migrations/<dialect>/0001_<what>.sql``, which
only ever get company: a file that has been released is never edited.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from importlib import resources
from typing import NamedTuple

from relay.outbox.contract import SchemaTooNewError


class Migration(NamedTuple):
    """One step; version is the number the database has after it."""

    version: int
    sql: str


def migrations(dialect: str) -> list[Migration]:
    """Give every migration of a dialect ("sqlite", "postgres"), in order."""
    folder = resources.files("relay.outbox") / "migrations" / dialect
    return [
        Migration(int(file.name.split("_", 1)[0]), file.read_text("utf-8"))
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".sql")
    ]


def pending(steps: list[Migration], version: int) -> list[Migration]:
    """Give the steps that a database of this version lacks.

    Raises SchemaTooNewError when it has had steps that are unknown here.
    """
    newest = steps[-1].version
    if version > newest:
        raise SchemaTooNewError(
            f"the database has schema version {version}, this relay knows "
            f"{newest}: upgrade this relay, or give it another database"
        )
    return [step for step in steps if step.version > version]


def statements(sql: str) -> Iterator[str]:
    """Split a file into statements, as SQLite tells where they end."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def migrate_sqlite(connection: sqlite3.Connection) -> None:
    """Apply what is missing, in one transaction, once among all processes."""
    steps = migrations("sqlite")
    if not pending(steps, version(connection)):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have migrated while this one waited for the lock.
        for step in pending(steps, version(connection)):
            for statement in statements(step.sql):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {step.version}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def version(connection: sqlite3.Connection) -> int:
    """Give the version of an SQLite file's schema, 0 if it has none of ours."""
    found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return found
