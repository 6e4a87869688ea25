"""What callers wait for while their writes are gathered into one commit.

A commit costs the same for one lead as for a hundred: the wait for the disk. So
while one is under way the next callers gather, and go together in the next. There
is no delay on purpose; alone, a caller waits for its own commit only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

from relay.outbox.contract import OutboxUnavailableError, SchemaTooNewError

MOST_JOBS: Final = 500
"""Jobs after which a commit takes no further ones: the first should not wait
longer than some tens of milliseconds for the last."""

WorkT = TypeVar("WorkT")
Places = Sequence[int]


class Job(NamedTuple, Generic[WorkT]):
    """One caller's write: what to do, with what, and where the result goes.

    ``lines`` are rows to lock before anything is read, where a store needs that.
    """

    work: WorkT
    argument: Any
    answer: asyncio.Future[Any]
    lines: Sequence[int] = ()


def by_work(jobs: Sequence[Job[WorkT]]) -> Iterator[tuple[WorkT, Places, list[Any]]]:
    """Give each kind of work with the places of its jobs and their arguments."""
    grouped: dict[WorkT, list[int]] = {}
    for place, job in enumerate(jobs):
        grouped.setdefault(job.work, []).append(place)
    for work, places in grouped.items():
        yield work, places, [jobs[place].argument for place in places]


def failures(error: Exception, jobs: Sequence[Job[Any]]) -> list[Exception] | None:
    """Give each job its error if the database failed; None if a job is to blame.

    One each: raised in many places, an error would collect their tracebacks.
    """
    if isinstance(error, OutboxUnavailableError | SchemaTooNewError):
        return [type(error)(*error.args) for _ in jobs]
    return None


def answer(jobs: Sequence[Job[WorkT]], results: Sequence[Any]) -> set[WorkT]:
    """Hand results and errors to the callers; give the work that was done."""
    done = set()
    for job, result in zip(jobs, results, strict=True):
        failed = isinstance(result, Exception)
        if not failed:
            done.add(job.work)
        if job.answer.done():
            continue  # its caller was cancelled
        if failed:
            job.answer.set_exception(result)
        else:
            job.answer.set_result(result)
    return done
