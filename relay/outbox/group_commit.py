"""What callers wait for while their writes are gathered into one commit.

A commit costs the same for one lead as for a hundred: the wait for the disk. So
while one is under way the next callers gather, and go together in the next. There
is no delay on purpose; alone, a caller waits for its own commit only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from relay.outbox.contract import OutboxUnavailableError, SchemaError
from relay.outbox.database import Database, Operation

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
