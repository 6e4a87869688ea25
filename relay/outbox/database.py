"""One way to speak SQL to every database, and the differences between them.

An operation is written once, in PostgreSQL's SQL, as ``async def operation(db, …)``
over :class:`Database`. SQLite's never suspends, so its writer thread drives the
operation with :func:`driven`; its SQL is made from PostgreSQL's by a short list of
replacements. What only SQLite should read stands in a comment: ``/*sqlite:… */``.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from functools import lru_cache
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    NamedTuple,
    Protocol,
    TypeVar,
    TypeVarTuple,
)

from relay.outbox.contract import OutboxUnavailableError, SchemaError

if TYPE_CHECKING:  # a relay on PostgreSQL does without it
    import sqlite3

Row = tuple[Any, ...]

NO_LIMIT: Final = 2**62
"""A LIMIT that is none: PostgreSQL wants NULL for that, SQLite a negative number."""

Argument = TypeVar("Argument")
Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


class Database(Protocol):
    """A connection, in a transaction where the operation writes.

    Values are bound: ``$1``, ``$2``, …; a list is one value, for ``= ANY($1::text[])``.
    """

    async def fetch(self, statement: str, *values: Any) -> Sequence[Row]:
        """Return the rows of a statement."""

    async def execute(self, statement: str, *values: Any) -> int:
        """Run a statement; return how many rows it changed."""

    async def execute_many(self, statement: str, rows: Sequence[Row]) -> None:
        """Run a statement once for each row of values."""


Operation = Callable[[Database, Sequence[Argument]], Awaitable[Sequence[Result]]]
"""Does the same for many callers in one transaction; one result each, in order.

It must not keep anything outside the database: it may be rolled back and repeated.
"""


def each(
    operation: Callable[[Database, *Arguments], Awaitable[Result]],
) -> Operation[tuple[*Arguments], Result]:
    """Make an operation for one caller into one for many: one after the other."""

    async def for_each(
        db: Database, arguments: Sequence[tuple[*Arguments]]
    ) -> Sequence[Result]:
        return [await operation(db, *one) for one in arguments]

    return for_each


async def fetch_one(db: Database, statement: str, *values: Any) -> Row | None:
    """Return the first row of a statement, None without any."""
    rows = await db.fetch(statement, *values)
    return tuple(rows[0]) if rows else None


def driven(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine that never suspends, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: Result = end.value
        return result
    coroutine.close()
    raise RuntimeError("an operation on SQLite must not suspend")


_FOR_SQLITE: Final = tuple(
    (re.compile(pattern, re.DOTALL), text)
    for pattern, text in (
        (r"/\*sqlite:(.*?)\*/", r"\1"),
        (r"= ANY\(\$(\d+)::\w+\[\]\)", r"IN (SELECT value FROM json_each(?\1))"),
        (r"= ANY\(ARRAY\((.*?)\n\s*\)\)", r"IN (\1)"),
        (r"\bFOR UPDATE( OF \w+)?( SKIP LOCKED)?", ""),
        (r"::\w+(\[\])?", ""),
        (r"\bIS NOT DISTINCT FROM\b", "IS"),
        (r"\bleast\(", "min("),
        (r"\$(\d+)", r"?\1"),
    )
)


@lru_cache(maxsize=512)
def for_sqlite(statement: str) -> str:
    """Return the SQLite form of a statement."""
    for pattern, text in _FOR_SQLITE:
        statement = pattern.sub(text, statement)
    return statement


@contextlib.contextmanager
def sqlite_transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit everything done inside on an SQLite connection, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite itself has rolled back after some errors.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


# --- What callers wait for while their writes are gathered into one commit. ---

MOST_JOBS: Final = 500
"""Jobs after which a commit takes no further ones: the first should not wait
longer than some tens of milliseconds for the last."""

AnyOperation = Operation[Any, Any]


class Job(NamedTuple):
    """One caller's write: what to do, with what, and where the result goes.

    ``locks`` are rows to lock before anything is read, where a database needs that.
    """

    operation: AnyOperation
    argument: Any
    answer: asyncio.Future[Any]
    locks: Sequence[int] = ()


async def run_jobs(jobs: Sequence[Job], db: Database) -> list[Any]:
    """Run the operations of one transaction, each once for all of its callers."""
    results: list[Any] = [None] * len(jobs)
    grouped: dict[AnyOperation, list[int]] = {}
    for place, job in enumerate(jobs):
        grouped.setdefault(job.operation, []).append(place)
    for operation, places in grouped.items():
        done = await operation(db, [jobs[place].argument for place in places])
        for place, result in zip(places, done, strict=True):
            results[place] = result
    return results


def failures(error: Exception, jobs: Sequence[Job]) -> list[Exception] | None:
    """Return each job its error if the database failed; None if a job is to blame.

    One each: raised in many places, an error would collect their tracebacks.
    """
    if isinstance(error, OutboxUnavailableError | SchemaError):
        return [type(error)(*error.args) for _ in jobs]
    return None


def answer(jobs: Sequence[Job], results: Sequence[Any]) -> set[AnyOperation]:
    """Hand results and errors to the callers; return the operations that were done."""
    done = set()
    for job, result in zip(jobs, results, strict=True):
        failed = isinstance(result, Exception)
        if not failed:
            done.add(job.operation)
        if job.answer.done():
            continue  # its caller was cancelled
        if failed:
            job.answer.set_exception(result)
        else:
            job.answer.set_result(result)
    return done
