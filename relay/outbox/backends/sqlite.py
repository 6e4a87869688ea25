"""The outbox in one SQLite file, for relays on one machine.

Writes go through one thread that commits them in groups, reads through others.
Several processes may use the file; SQLite lets one of them write at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, TypeVarTuple

from relay.core.leads import LeadStatus
from relay.outbox import deliveries
from relay.outbox.backends import sqlite_native
from relay.outbox.backends.sqlite_file import (
    BUSY_MS,
    SqliteFile,
    connect_reader,
    connect_writer,
    make_file,
)
from relay.outbox.contract import Forgotten, OutboxUnavailableError, Scrubbed
from relay.outbox.database import (
    MOST_JOBS,
    AnyOperation,
    Database,
    Job,
    Operation,
    answer,
    driven,
    failures,
    run_jobs,
)
from relay.outbox.encryption import PLAIN, Seal
from relay.outbox.leases import Leased, Wish
from relay.outbox.store import StoredOutbox

READERS: Final = 2
"""Threads: one long listing must not hold up delivery's short questions."""

Argument = TypeVar("Argument")
Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


class SqliteOutbox(StoredOutbox):
    """:class:`relay.outbox.contract.Outbox` on the SQLite file at ``path``.

    ``busy_ms`` is how long to wait for other processes' writes; ``seal`` encrypts
    personal data.
    """

    def __init__(
        self, path: str | Path, *, busy_ms: int = BUSY_MS, seal: Seal = PLAIN
    ) -> None:
        super().__init__(seal)
        self.path = Path(path)
        self._busy_ms = busy_ms

    async def connect(self) -> SqliteChannel:
        """Make the file, open and migrate it."""
        try:
            await asyncio.to_thread(make_file, self.path)
            channel = SqliteChannel(self.path, self._busy_ms, self.committed)
            try:
                await channel.submit(deliveries.touch, ())
            except BaseException:
                await channel.stop()
                raise
        except OutboxUnavailableError as error:
            message = f"cannot open the database {self.path}: {error}"
            raise OutboxUnavailableError(message) from error
        return channel

    async def lease(self, wish: Wish) -> Leased:
        """Lease what is due and first in its customer's queue."""
        return await self.channel.submit(sqlite_native.claim, (wish,))

    async def counts(self) -> Mapping[LeadStatus, int]:
        """How many entries are in each state that has any."""
        counted = await self.channel.read(sqlite_native.counts)
        more = counted.late > sqlite_native.MANY
        # A full disk makes looking slow, but it must not keep anybody from it.
        with contextlib.suppress(OutboxUnavailableError):
            while more:
                more = await self.channel.submit(sqlite_native.catch_up, ())
        return counted.leads

    async def scrub(self, forgotten: Forgotten) -> Scrubbed:
        """Get erased bytes out of the write-ahead log and the file."""
        traces = forgotten.traces
        return await asyncio.to_thread(sqlite_native.scrub, self.path, traces)


class SqliteChannel:
    """One writer, and a few readers beside it."""

    def __init__(
        self,
        path: Path,
        busy_ms: int,
        committed: Callable[[set[AnyOperation]], None],
    ) -> None:
        connect = partial(connect_writer, busy_ms=busy_ms)
        file = SqliteFile(path, connect)
        self._writer = SqliteWriter(file, committed, self._close_idle)
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="outbox-reader")
        read_only = partial(connect_reader, busy_ms=busy_ms)
        self._files = [SqliteFile(path, read_only) for _ in range(READERS)]
        self._free: queue.SimpleQueue[SqliteFile] = queue.SimpleQueue()
        for file in self._files:
            self._free.put(file)

    def submit(
        self,
        operation: Operation[Argument, Result],
        argument: Argument,
        locks: Sequence[int] = (),  # noqa: ARG002 - one writer needs none
    ) -> asyncio.Future[Result]:
        """Return the future result of an operation, set once it is committed."""
        return self._writer.submit(operation, argument)

    async def read(
        self,
        read: Callable[[Database, *Arguments], Coroutine[Any, Any, Result]],
        *arguments: *Arguments,
    ) -> Result:
        """Run what changes nothing, in a thread."""
        loop = asyncio.get_running_loop()
        try:
            result = loop.run_in_executor(
                self._pool, self._read, lambda db: read(db, *arguments)
            )
        except RuntimeError as error:
            raise OutboxUnavailableError("the outbox is closed") from error
        return await result

    def _read(self, read: Callable[[Database], Coroutine[Any, Any, Result]]) -> Result:
        # Never empty: there are as many files as threads.
        file = self._free.get()
        try:
            with file.reading() as db:
                return driven(read(db))
        finally:
            self._free.put(file)

    def _close_idle(self) -> None:
        """Close the readers that rest, in the writer's thread.

        Where the log was removed, a connection that is still open to it keeps its index
        alive, which fits no new one. The last to close saves what the old one holds.
        """
        idle = []
        with contextlib.suppress(queue.Empty):
            while True:
                idle.append(self._free.get_nowait())
        for file in idle:
            file.close()
            self._free.put(file)

    async def stop(self) -> None:
        """Finish what is under way and close every connection."""
        # The last connection to go moves the log into the file: the writer's.
        await asyncio.to_thread(self._pool.shutdown)
        for file in self._files:
            file.close()
        await self._writer.stop()


_END: Final[list[Job]] = []


class SqliteWriter:
    """One thread that writes, and gathers what is waiting into one commit.

    ``committed`` is called in the event loop after each commit, with what was done;
    ``troubled`` in the thread, after the database has failed.
    """

    def __init__(
        self,
        file: SqliteFile,
        committed: Callable[[set[AnyOperation]], None],
        troubled: Callable[[], None] = lambda: None,
    ) -> None:
        self._file = file
        self._committed = committed
        self._troubled = troubled
        self._loop = asyncio.get_running_loop()
        self._gathering: list[Job] = []
        self._queue: queue.SimpleQueue[list[Job]] = queue.SimpleQueue()
        self._stopping = False
        # daemon: a program that forgot to close must still be able to end;
        # what it did not commit it did not promise.
        self._thread = threading.Thread(
            target=self._run, name="outbox-writer", daemon=True
        )
        self._thread.start()

    def submit(
        self, operation: Operation[Argument, Result], argument: Argument
    ) -> asyncio.Future[Result]:
        """Return the future result of an operation, set once it is committed.

        Fails with OutboxUnavailableError, or with what the operation raised.
        """
        if self._stopping:
            raise OutboxUnavailableError("the outbox is closed")
        if not self._gathering:
            # The callers of one turn of the loop are handed over together:
            # waking the thread for each would make many small commits.
            self._loop.call_soon(self._hand_over)
        result: asyncio.Future[Result] = self._loop.create_future()
        self._gathering.append(Job(operation, argument, result))
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

    def _gather(self) -> list[Job]:
        """Wait for jobs, take along all that wait; none mean the end."""
        jobs = self._queue.get()
        while jobs and len(jobs) < MOST_JOBS and not self._queue.empty():
            more = self._queue.get()
            if not more:
                self._queue.put(more)  # the end, for the next time
                break
            jobs += more
        return jobs

    def _serve(self, jobs: list[Job]) -> None:
        try:
            results = self._commit(jobs)
        except Exception as error:  # noqa: BLE001 - it is the callers' to handle
            # One bad job must fail none but its own caller.
            failed = failures(error, jobs)
            if failed:
                self._troubled()
            results = failed or self._alone(jobs, error)
        # A loop that was closed over our heads has nobody waiting any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._answer, jobs, results)

    def _commit(self, jobs: list[Job]) -> list[Any]:
        with self._file.transaction() as db:
            return driven(run_jobs(jobs, db))

    def _alone(self, jobs: list[Job], error: Exception) -> list[Any]:
        return [error] if len(jobs) == 1 else [self._commit_alone(job) for job in jobs]

    def _commit_alone(self, job: Job) -> Any:
        try:
            return self._commit([job])[0]
        except Exception as error:  # noqa: BLE001 - it is the caller's to handle
            return error

    # --- In the event loop. ---

    def _answer(self, jobs: list[Job], results: list[Any]) -> None:
        self._committed(answer(jobs, results))
