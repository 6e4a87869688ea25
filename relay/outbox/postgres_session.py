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
from typing import Final, TypeAlias, TypeVar

import asyncpg

from relay.outbox.contract import OutboxUnavailableError, UnstorableError

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
"""So much longer than the server itself we wait: its own word tells more."""

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
"""Classes of SQLSTATE whose messages tell of the server, never of what is stored."""

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Result = TypeVar("Result")


class Session:
    """One connection, made anew after trouble. For one task at a time.

    ``greet`` looks at each new connection before it is used.
    """

    def __init__(
        self,
        url: str,
        greet: Callable[[Connection], Awaitable[None]],
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._connect = partial(connect, url, greet, timeout_s)
        self._connection: Connection | None = None

    async def commit(
        self,
        work: Callable[[Connection], Awaitable[Result]],
        lines: Iterable[int] = (),
    ) -> Result:
        """Do the work in a transaction, again if another one got in the way.

        The lines are locked before it begins.
        """
        begin = "; ".join([_BEGIN, *_locking(sorted(set(lines)))])

        async def commit() -> Result:
            async with self._using(begin) as connection:
                return await _commit(connection, work)

        with translated():
            for _ in range(TRIES - 1):
                with contextlib.suppress(*_IN_THE_WAY):
                    return await commit()
            return await commit()

    async def read(self, work: Callable[[Connection], Awaitable[Result]]) -> Result:
        """Do work that changes nothing."""
        with translated():
            async with self._using(_PING) as connection:
                return await work(connection)

    async def close(self) -> None:
        """Let go of the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.close(timeout=TIMEOUT_S)
            except _TROUBLE:
                connection.terminate()

    @contextlib.asynccontextmanager
    async def _using(self, first: str) -> AsyncIterator[Connection]:
        """Give the connection, on which the first statement has been run.

        Drop it after trouble, and when its user is cancelled: the server rolls back
        what a connection that is gone had begun.
        """
        connection = await self._begun(first)
        good = False
        try:
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
        return await _run(await self._connect(), first)


async def _run(connection: Connection, statement: str) -> Connection:
    try:
        await connection.execute(statement)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def _commit(
    connection: Connection, work: Callable[[Connection], Awaitable[Result]]
) -> Result:
    try:
        result = await work(connection)
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
        raise OutboxUnavailableError(f"cannot connect: {_told(error)}") from error
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
            raise OutboxUnavailableError(_told(error)) from error
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


def _told(error: Exception) -> str:
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
