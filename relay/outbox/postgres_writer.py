"""One connection that writes, and gathers what is waiting into one commit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

from relay.outbox.contract import OutboxUnavailableError
from relay.outbox.jobs import MOST_JOBS, Job, answer, by_work, failures
from relay.outbox.postgres_session import Connection, Session

Argument = TypeVar("Argument")
Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

Work = Callable[[Connection, Sequence[Argument]], Awaitable[Sequence[Result]]]
"""Does the same for many callers in one transaction; one result each, in order.

It must not keep anything outside the database: it may be rolled back and repeated.
"""

_Job = Job[Work[Any, Any]]


def each(
    work: Callable[[Connection, *Arguments], Awaitable[Result]],
) -> Work[tuple[*Arguments], Result]:
    """Make work for one caller into work for many: one after the other."""

    async def for_each(
        connection: Connection, arguments: Sequence[tuple[*Arguments]]
    ) -> Sequence[Result]:
        return [await work(connection, *one) for one in arguments]

    return for_each


class Writer:
    """Runs work in a task of its own on one connection.

    ``committed`` is called after each commit, with what was done.
    """

    def __init__(
        self, session: Session, committed: Callable[[set[Work[Any, Any]]], None]
    ) -> None:
        self._session = session
        self._committed = committed
        self._gathering: list[_Job] = []
        self._writing: asyncio.Task[None] | None = None
        self._stopping = False

    def submit(
        self,
        work: Work[Argument, Result],
        argument: Argument,
        lines: Sequence[int] = (),
    ) -> asyncio.Future[Result]:
        """Give the future result of work, set once it is committed.

        Fails with OutboxUnavailableError, or with what the work raised.
        """
        if self._stopping:
            raise OutboxUnavailableError("the outbox is closed")
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._gathering.append(Job(work, argument, result, lines))
        if self._writing is None:
            # It begins in the loop's next turn: the callers of this one go together.
            self._writing = asyncio.create_task(self._write())
        return result

    async def stop(self) -> None:
        """Finish what was submitted and close the connection."""
        self._stopping = True
        if self._writing is not None:
            await self._writing
        await self._session.close()

    async def _write(self) -> None:
        while self._gathering:
            jobs = self._gathering[:MOST_JOBS]
            del self._gathering[:MOST_JOBS]
            await self._serve(jobs)
        self._writing = None

    async def _serve(self, jobs: list[_Job]) -> None:
        results: Sequence[Any]
        try:
            results = await self._commit(jobs)
        except Exception as error:  # noqa: BLE001 - it is the callers' to handle
            # One bad job must fail none but its own caller.
            results = failures(error, jobs) or await self._alone(jobs, error)
        self._committed(answer(jobs, results))

    async def _commit(self, jobs: list[_Job]) -> list[Any]:
        lines = (line for job in jobs for line in job.lines)
        return await self._session.commit(partial(_work, jobs), lines)

    async def _alone(self, jobs: list[_Job], error: Exception) -> list[Any]:
        if len(jobs) == 1:
            return [error]
        return [await self._commit_alone(job) for job in jobs]

    async def _commit_alone(self, job: _Job) -> Any:
        try:
            return (await self._commit([job]))[0]
        except Exception as error:  # noqa: BLE001 - it is the caller's to handle
            return error


async def _work(jobs: list[_Job], connection: Connection) -> list[Any]:
    results: list[Any] = [None] * len(jobs)
    for work, places, arguments in by_work(jobs):
        done = await work(connection, arguments)
        for place, result in zip(places, done, strict=True):
            results[place] = result
    return results
