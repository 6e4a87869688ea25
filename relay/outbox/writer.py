"""One thread that writes, and gathers what is waiting into one commit."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar, TypeVarTuple

from relay.outbox.contract import OutboxUnavailableError
from relay.outbox.jobs import MOST_JOBS, Job, answer, by_work, failures
from relay.outbox.sqlite_file import SqliteFile

Argument = TypeVar("Argument")
Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

Work = Callable[[sqlite3.Connection, Sequence[Argument]], Sequence[Result]]
"""Does the same for many callers in one transaction; one result each, in order.

It must not keep anything outside the database: it may be rolled back and repeated.
"""


_Job = Job[Work[Any, Any]]


def each(
    work: Callable[[sqlite3.Connection, *Arguments], Result],
) -> Work[tuple[*Arguments], Result]:
    """Make work for one caller into work for many: one after the other."""

    def for_each(
        connection: sqlite3.Connection, arguments: Sequence[tuple[*Arguments]]
    ) -> Sequence[Result]:
        return [work(connection, *one) for one in arguments]

    return for_each


_END: Final[list[_Job]] = []


class Writer:
    """Runs work in its thread and answers in the event loop.

    ``committed`` is called in the loop after each commit, with what was done.
    """

    def __init__(
        self, file: SqliteFile, committed: Callable[[set[Work[Any, Any]]], None]
    ) -> None:
        self._file = file
        self._committed = committed
        self._loop = asyncio.get_running_loop()
        self._gathering: list[_Job] = []
        self._queue: queue.SimpleQueue[list[_Job]] = queue.SimpleQueue()
        self._stopping = False
        # daemon: a program that forgot to close must still be able to end;
        # what it did not commit it did not promise.
        self._thread = threading.Thread(
            target=self._run, name="outbox-writer", daemon=True
        )
        self._thread.start()

    def submit(
        self, work: Work[Argument, Result], argument: Argument
    ) -> asyncio.Future[Result]:
        """Give the future result of work, set once it is committed.

        Fails with OutboxUnavailableError, or with what the work raised.
        """
        if self._stopping:
            raise OutboxUnavailableError("the outbox is closed")
        if not self._gathering:
            # The callers of one turn of the loop are handed over together:
            # waking the thread for each would make many small commits.
            self._loop.call_soon(self._hand_over)
        result: asyncio.Future[Result] = self._loop.create_future()
        self._gathering.append(Job(work, argument, result))
        return result

    async def stop(self) -> None:
        """Finish what was submitted and close the file."""
        if not self._stopping:
            self._stopping = True
            self._hand_over()
            self._queue.put(_END)
        await asyncio.to_thread(self._thread.join)

    def _hand_over(self) -> None:
        if self._gathering:
            jobs, self._gathering = self._gathering, []
            self._queue.put(jobs)

    # --- In the thread. ---

    def _run(self) -> None:
        while jobs := self._gather():
            self._serve(jobs)
        self._file.close()

    def _gather(self) -> list[_Job]:
        """Wait for jobs, take along all that wait; none mean the end."""
        jobs = self._queue.get()
        while jobs and len(jobs) < MOST_JOBS and not self._queue.empty():
            more = self._queue.get()
            if not more:
                self._queue.put(more)  # the end, for the next time
                break
            jobs += more
        return jobs

    def _serve(self, jobs: list[_Job]) -> None:
        try:
            results = self._commit(jobs)
        except Exception as error:  # noqa: BLE001 - it is the callers' to handle
            # One bad job must fail none but its own caller.
            results = failures(error, jobs) or self._alone(jobs, error)
        # A loop that was closed over our heads has nobody waiting any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._answer, jobs, results)

    def _commit(self, jobs: list[_Job]) -> list[Any]:
        results: list[Any] = [None] * len(jobs)
        with self._file.transaction() as connection:
            for work, places, arguments in by_work(jobs):
                done = work(connection, arguments)
                for place, result in zip(places, done, strict=True):
                    results[place] = result
        return results

    def _alone(self, jobs: list[_Job], error: Exception) -> list[Any]:
        return [error] if len(jobs) == 1 else [self._commit_alone(job) for job in jobs]

    def _commit_alone(self, job: _Job) -> Any:
        try:
            return self._commit([job])[0]
        except Exception as error:  # noqa: BLE001 - it is the caller's to handle
            return error

    # --- In the event loop. ---

    def _answer(self, jobs: list[_Job], results: list[Any]) -> None:
        self._committed(answer(jobs, results))
