"""Connections to one PostgreSQL server, and what its errors mean.

Nothing outside sees asyncpg's errors: trouble with the server becomes
OutboxUnavailableError, trouble with one row UnstorableError.
"""

from __future__ import annotations

import contextlib
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

import asyncpg

from relay.core.clock import SharedClock, ticks_ms
from relay.outbox.contract import OutboxUnavailableError, UnstorableError
from relay.outbox.database import Database, Row
from relay.outbox.migrations import HISTORY, migrations, pending

TIMEOUT_S: Final = 5.0
"""How long to wait for a connection or a statement. They take milliseconds; a
caller whose lead cannot be taken should hear so before its own time limit,
commonly 10 s and more."""

ABANDONED_S: Final = 10
"""After so long without a word the server ends a transaction: a relay whose machine
vanished must not hold its locks until the network has noticed."""

TRIES: Final = 4
"""How often a transaction is tried that another one got in the way of. Its rows are
committed or gone when it is tried again, so the second time is nearly always good."""

GRACE_S: Final = 1.0
"""So much longer than the server itself we wait: its own word says more."""

PLANNING: Final = """
    SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off;
"""
"""Every frequent statement has its index, which must be walked in order. Without
this, what was planned while a table was small would read all of it once it is large.
And where there is no other way than to read all, of a table of one row, the planner
must not think that so dear a statement is worth compiling (some 80 ms).
"""

_PING: Final = "SELECT 1"

# READ COMMITTED: what is read after the wait for a lock is what is there by then.
_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"

# In order, so that two transactions never wait for each other.
_LOCK_LINES: Final = "SELECT n FROM lines WHERE n = ANY('{{{}}}') ORDER BY n FOR UPDATE"

_ROW_FAULTS: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    # A text too long for an index.
    asyncpg.ProgramLimitExceededError,
    UnicodeEncodeError,
    OverflowError,
)

_IN_THE_WAY: Final = (
    asyncpg.TransactionRollbackError,  # a deadlock, or an engine that serialises
    asyncpg.UniqueViolationError,  # another relay was first by an instant
)

_TROUBLE: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)

_CUT: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    ConnectionError,
)
"""What the first statement on a connection says that was cut meanwhile."""

_SPEAKING: Final = frozenset({"08", "25", "28", "3D", "42", "53", "55", "57", "58"})
"""Classes of SQLSTATE whose messages speak of the server, never of what is stored."""

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Result = TypeVar("Result")


class PostgresDatabase:
    """A connection as operations see it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def fetch(self, statement: str, *values: Any) -> list[Row]:
        """Return the rows of a statement."""
        return [*map(tuple, await self._connection.fetch(statement, *values))]

    async def execute(self, statement: str, *values: Any) -> int:
        """Run a statement; return how many rows it changed."""
        tag = await self._connection.execute(statement, *values)
        # "UPDATE 3", "INSERT 0 1"
        return int(tag.rpartition(" ")[2])

    async def execute_many(self, statement: str, rows: Sequence[Row]) -> None:
        """Run a statement once for each row of values, at one trip to the server."""
        if rows:
            await self._connection.executemany(statement, rows)


class PostgresSession:
    """One connection, made anew after trouble. For one task at a time.

    ``greet`` looks at each new connection before it is used.
    """

    def __init__(
        self,
        url: str,
        greet: Callable[[Connection], Awaitable[None]],
        clock: SharedClock,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._connect = partial(connect, url, greet, timeout_s)
        self._clock = clock
        self._connection: Connection | None = None

    async def commit(
        self,
        work: Callable[[Database], Awaitable[Result]],
        locks: Iterable[int] = (),
    ) -> Result:
        """Do the work in a transaction, again if another one got in the way.

        Those rows of ``lines`` are locked before it begins.
        """
        begin = "; ".join([_BEGIN, *_locking(sorted(set(locks)))])

        async def commit() -> Result:
            async with self._using(begin) as connection:
                return await _commit(connection, work)

        with translated():
            for _ in range(TRIES - 1):
                with contextlib.suppress(*_IN_THE_WAY):
                    return await commit()
            return await commit()

    async def read(self, work: Callable[[Database], Awaitable[Result]]) -> Result:
        """Do work that changes nothing."""
        with translated():
            async with self._using(_PING) as connection:
                return await work(PostgresDatabase(connection))

    async def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.close(timeout=TIMEOUT_S)
            except _TROUBLE:
                connection.terminate()

    @contextlib.asynccontextmanager
    async def _using(self, first: str) -> AsyncIterator[Connection]:
        """Yield the connection, on which the first statement has been run.

        Drop it after trouble, and when its user is cancelled: the server rolls back
        what a connection that is gone had begun.
        """
        connection = await self._begun(first)
        good = False
        try:
            if self._clock.stale:
                await _read_clock(connection, self._clock)
            yield connection
            good = True
        except Exception as error:
            good = not _is_trouble(error)
            raise
        finally:
            if good:
                self._connection = connection
            else:
                connection.terminate()

    async def _begun(self, first: str) -> Connection:
        """Run the first statement, on a new connection if the old one was cut.

        That shows at its next use; no harm is done as long as nothing was asked of it.
        """
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            with contextlib.suppress(*_CUT):
                return await _run(connection, first)
        # It may be another server, after a failover.
        self._clock.forget()
        return await _run(await self._connect(), first)


async def _read_clock(connection: Connection, clock: SharedClock) -> None:
    asked = ticks_ms()
    server = await connection.fetchval(
        "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
    )
    clock.set(server, asked, ticks_ms())


async def _run(connection: Connection, statement: str) -> Connection:
    try:
        await connection.execute(statement)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def _commit(
    connection: Connection, work: Callable[[Database], Awaitable[Result]]
) -> Result:
    try:
        result = await work(PostgresDatabase(connection))
    except Exception as error:
        if not _is_trouble(error):
            await connection.execute("ROLLBACK")
        raise
    await connection.execute("COMMIT")
    return result


async def connect(
    url: str,
    greet: Callable[[Connection], Awaitable[None]] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Connection:
    """Make a connection as the outbox wants it; greet has a look at it."""
    try:
        connection = await asyncpg.connect(
            url, timeout=timeout_s, command_timeout=timeout_s + GRACE_S
        )
    except (*_TROUBLE, ValueError) as error:
        raise OutboxUnavailableError(f"cannot connect: {_described(error)}") from error
    try:
        await connection.execute(_limits(timeout_s))
        # Another engine that speaks PostgreSQL's protocol may not know these.
        with contextlib.suppress(asyncpg.PostgresError):
            await connection.execute(PLANNING)
        if greet is not None:
            await greet(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


def _limits(timeout_s: float) -> str:
    return f"""
        SET statement_timeout = {round(timeout_s * 1000)};
        SET idle_in_transaction_session_timeout = {ABANDONED_S * 1000};
    """


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn asyncpg's errors into the outbox's."""
    try:
        yield
    except Exception as error:
        if _is_trouble(error):
            raise OutboxUnavailableError(_described(error)) from error
        if isinstance(error, asyncpg.TransactionRollbackError):
            raise OutboxUnavailableError("other writers are in the way") from error
        if _is_row_fault(error):
            raise UnstorableError(f"not storable: {type(error).__name__}") from error
        raise


def _locking(lines: Sequence[int]) -> Iterator[str]:
    if lines:
        yield _LOCK_LINES.format(",".join(map(str, lines)))


def _is_trouble(error: Exception) -> bool:
    expected = isinstance(error, _IN_THE_WAY) or _is_row_fault(error)
    return isinstance(error, _TROUBLE) and not expected


def _is_row_fault(error: Exception) -> bool:
    # asyncpg refuses a number that no column can hold with two errors in one.
    refused = isinstance(error, asyncpg.InterfaceError) and isinstance(
        error, ValueError
    )
    return refused or isinstance(error, _ROW_FAULTS)


def _described(error: Exception) -> str:
    """Say what is wrong with the server, without anything that is stored."""
    if isinstance(error, TimeoutError):
        return "the server did not answer in time"
    if isinstance(error, asyncpg.PostgresError):
        code = error.sqlstate or ""
        text = error.message if code[:2] in _SPEAKING else type(error).__name__
        return f"{text} (SQLSTATE {code})"
    if isinstance(error, OSError):
        # Its text names addresses and reasons.
        return str(error) or type(error).__name__
    if isinstance(error, asyncpg.InterfaceError):
        return "the connection is closed or of no use"
    return type(error).__name__


# --- The schema. ---

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
    """Return the version of the database's schema, 0 if it has none of ours."""
    try:
        found = await connection.fetchval("SELECT version FROM schema_version")
    except asyncpg.UndefinedTableError:
        return 0
    return int(found or 0)


async def migrate(url: str) -> tuple[int, int]:
    """Apply what is missing, once among all relays.

    Returns the versions before and after. Raises SchemaError or
    OutboxUnavailableError.
    """
    connection = await connect(url)
    try:
        with translated():
            before = await version(connection)
            if pending(STEPS, before, await _history(connection)):
                await _apply(connection)
            return before, await version(connection)
    finally:
        connection.terminate()


async def _apply(connection: Connection) -> None:
    with contextlib.suppress(*_MADE_AT_ONCE):
        await connection.execute(_MAKE_VERSION + HISTORY)
    async with connection.transaction():
        # A migration may take longer than any statement of a running relay, and
        # the relay that comes second waits for the first.
        await connection.execute("SET LOCAL statement_timeout = 0")
        current = await connection.fetchval(
            "SELECT version FROM schema_version FOR UPDATE", timeout=_LONG_S
        )
        for step in pending(STEPS, current, await _history(connection)):
            await connection.execute(step.sql, timeout=_LONG_S)
            await connection.execute(
                "INSERT INTO schema_history VALUES ($1, $2)",
                step.version,
                step.checksum,
            )
            await connection.execute(
                "UPDATE schema_version SET version = $1", step.version
            )


async def _history(connection: Connection) -> dict[int, str]:
    """Return the checksums of the steps that the database has had."""
    try:
        rows = await connection.fetch("SELECT version, checksum FROM schema_history")
    except asyncpg.UndefinedTableError:
        return {}
    return {row[0]: row[1] for row in rows}


_LONG_S: Final = 600.0
"""How long a migration may take: an index over many millions of leads."""


async def require_schema(connection: Connection) -> None:
    """Raise unless the schema is the one this relay knows, and ready to be used.

    Every new connection is asked: a newer relay may have migrated meanwhile, or
    the server may be another one.
    """
    if pending(STEPS, await version(connection), await _history(connection)):
        raise OutboxUnavailableError("the database has lost its tables, or is another")
    if await connection.fetchval("SELECT count(*) FROM moves WHERE NOT finished"):
        raise OutboxUnavailableError(
            "leads were being moved into this database and not all have arrived: "
            "run `dub-relay migrate --from` again"
        )
