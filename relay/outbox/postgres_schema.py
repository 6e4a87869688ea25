"""Brings a PostgreSQL database to the schema that this relay knows."""

from __future__ import annotations

import contextlib
from typing import Final

import asyncpg

from relay.outbox.contract import OutboxUnavailableError
from relay.outbox.postgres_session import Connection, connect, translated
from relay.outbox.schema import Migration, migrations, pending

STEPS: Final = migrations("postgres")

_MAKE_VERSION: Final = """
    CREATE TABLE IF NOT EXISTS schema_version (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        version INTEGER NOT NULL
    );
    INSERT INTO schema_version (id, version) VALUES (1, 0) ON CONFLICT DO NOTHING;
"""

_MADE_AT_ONCE: Final = (
    asyncpg.UniqueViolationError,
    asyncpg.DuplicateObjectError,
    asyncpg.DuplicateTableError,
)
"""What IF NOT EXISTS says when two do it at the same moment: it is there then."""


async def version(connection: Connection) -> int:
    """Give the version of the database's schema, 0 if it has none of ours."""
    try:
        found = await connection.fetchval("SELECT version FROM schema_version")
    except asyncpg.UndefinedTableError:
        return 0
    return int(found or 0)


async def migrate(url: str) -> tuple[int, int]:
    """Apply what is missing, once among all relays; give the versions around it.

    Raises SchemaTooNewError or OutboxUnavailableError.
    """
    connection = await connect(url)
    try:
        with translated():
            before = await version(connection)
            if pending(STEPS, before):
                await _apply(connection)
            return before, await version(connection)
    finally:
        connection.terminate()


async def _apply(connection: Connection) -> None:
    with contextlib.suppress(*_MADE_AT_ONCE):
        await connection.execute(_MAKE_VERSION)
    async with connection.transaction():
        # A migration may take longer than any statement of a running relay, and
        # whoever comes second waits for the first.
        await connection.execute("SET LOCAL statement_timeout = 0")
        current = await connection.fetchval(
            "SELECT version FROM schema_version FOR UPDATE", timeout=_LONG_S
        )
        for step in pending(STEPS, current):
            await _take(connection, step)


async def _take(connection: Connection, step: Migration) -> None:
    await connection.execute(step.sql, timeout=_LONG_S)
    await connection.execute("UPDATE schema_version SET version = $1", step.version)


_LONG_S: Final = 600.0
"""How long a migration may take: an index over many millions of leads."""


async def require_schema(connection: Connection) -> None:
    """Raise unless the schema is the one this relay knows, and ready to be used.

    Every new connection is asked: a newer relay may have migrated meanwhile, or
    the server may be another one.
    """
    if pending(STEPS, await version(connection)):
        raise OutboxUnavailableError("the database has lost its tables, or is another")
    if await connection.fetchval("SELECT count(*) FROM moves WHERE NOT finished"):
        raise OutboxUnavailableError(
            "leads were being moved into this database and not all have arrived: "
            "run `dub-relay migrate --from` again"
        )
