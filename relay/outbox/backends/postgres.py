"""The outbox on PostgreSQL, for any number of relays on any number of machines.

Writes go through one connection that commits them in groups, claims through
another, reads through a few more; each is made anew after trouble.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar, TypeVarTuple

from relay.core.clock import SharedClock
from relay.core.leads import LeadStatus
from relay.outbox import deliveries
from relay.outbox.backends import postgres_native
from relay.outbox.backends.postgres_session import (
    TIMEOUT_S,
    PostgresSession,
    migrate,
    require_schema,
)
from relay.outbox.contract import Forgotten, NewLead, OutboxUnavailableError, Scrubbed
from relay.outbox.database import (
    MOST_JOBS,
    AnyOperation,
    Database,
    Job,
    Operation,
    answer,
    failures,
    run_jobs,
)
from relay.outbox.encryption import PLAIN, Seal
from relay.outbox.leases import Leased, Wish
from relay.outbox.store import StoredOutbox

CLOCK_FRESH_MS: Final = 30_000
"""How often the server is asked for the time: a clock drifts a millisecond in that."""

READERS: Final = 2
"""Connections: one long listing must not hold up delivery's short questions."""

Argument = TypeVar("Argument")
Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


class PostgresOutbox(StoredOutbox):
    """:class:`relay.outbox.contract.Outbox` on the database that a URL names.

    ``timeout_s`` is how long to wait for a connection or a statement; ``seal``
    encrypts personal data.
    """

    put_operation = staticmethod(postgres_native.put)

    def __init__(
        self, url: str, *, timeout_s: float = TIMEOUT_S, seal: Seal = PLAIN
    ) -> None:
        super().__init__(seal)
        self._url = url
        self._timeout_s = timeout_s
        self._clock = SharedClock(CLOCK_FRESH_MS)

    def now(self) -> int:
        """Return the time by the server's clock."""
        return self._clock.now()

    async def connect(self) -> PostgresChannel:
        """Connect and migrate."""
        await migrate(self._url)
        make = partial(
            PostgresSession, self._url, require_schema, self._clock, self._timeout_s
        )
        channel = PostgresChannel(make, self.committed)
        try:
            await channel.submit(deliveries.touch, ())
        except BaseException:
            await channel.stop()
            raise
        return channel

    def locks_of(self, new_lead: NewLead) -> Sequence[int]:
        """Return the row of ``lines`` to lock for a new lead."""
        return postgres_native.locks_of(new_lead)

    async def lease(self, wish: Wish) -> Leased:
        """Lease what is due and first in its customer's queue."""
        channel = self.channel
        assert isinstance(channel, PostgresChannel)  # noqa: S101 - connect made it
        return await channel.claim(partial(postgres_native.claim, wish=wish))

    async def counts(self) -> Mapping[LeadStatus, int]:
        """How many entries are in each state that has any."""
        return await self.channel.read(postgres_native.counts)

    async def scrub(self, forgotten: Forgotten) -> Scrubbed:  # noqa: ARG002
        """VACUUM, so that the old versions of rows are out of the tables."""
        return await postgres_native.scrub(self._url)


class PostgresChannel:
    """A connection for writes, one for claims, and a few for reads."""

    def __init__(
        self,
        make: Callable[[], PostgresSession],
        committed: Callable[[set[AnyOperation]], None],
    ) -> None:
        self._writer = PostgresWriter(make(), committed)
        self._claiming_session = make()
        # Claims of one relay go one after the other: at the same moment they would
        # find the same leads, and all but one of them few.
        self._claiming = asyncio.Lock()
        self._free: asyncio.LifoQueue[PostgresSession] = asyncio.LifoQueue()
        for _ in range(READERS):
            self._free.put_nowait(make())
        self._stopping = False

    def submit(
        self,
        operation: Operation[Argument, Result],
        argument: Argument,
        locks: Sequence[int] = (),
    ) -> asyncio.Future[Result]:
        """Return the future result of an operation, set once it is committed."""
        return self._writer.submit(operation, argument, locks)

    async def claim(self, work: Callable[[Database], Awaitable[Leased]]) -> Leased:
        """Claim in a transaction on a connection of its own."""
        async with self._claiming:
            if self._stopping:
                raise OutboxUnavailableError("the outbox is closed")
            return await self._claiming_session.commit(work)

    async def read(
        self,
        read: Callable[[Database, *Arguments], Coroutine[Any, Any, Result]],
        *arguments: *Arguments,
    ) -> Result:
        """Run what changes nothing, on a connection of its own for the time being."""
        if self._stopping:
            raise OutboxUnavailableError("the outbox is closed")
        session = await self._free.get()
        try:
            return await session.read(lambda db: read(db, *arguments))
        finally:
            self._free.put_nowait(session)

    async def stop(self) -> None:
        """Finish what is under way and close every connection."""
        self._stopping = True
        async with self._claiming:
            await self._claiming_session.close()
        for _ in range(READERS):
            await (await self._free.get()).close()
        await self._writer.stop()


class PostgresWriter:
    """Runs operations in a task of its own on one connection.

    ``committed`` is called after each commit, with what was done.
    """

    def __init__(
        self,
        session: PostgresSession,
        committed: Callable[[set[AnyOperation]], None],
    ) -> None:
        self._session = session
        self._committed = committed
        self._gathering: list[Job] = []
        self._writing: asyncio.Task[None] | None = None
        self._stopping = False

    def submit(
        self,
        operation: Operation[Argument, Result],
        argument: Argument,
        locks: Sequence[int] = (),
    ) -> asyncio.Future[Result]:
        """Return the future result of an operation, set once it is committed.

        Fails with OutboxUnavailableError, or with what the operation raised.
        """
        if self._stopping:
            raise OutboxUnavailableError("the outbox is closed")
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._gathering.append(Job(operation, argument, result, locks))
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

    async def _serve(self, jobs: list[Job]) -> None:
        results: Sequence[Any]
        try:
            results = await self._commit(jobs)
        except Exception as error:  # noqa: BLE001 - it is the callers' to handle
            # One bad job must fail none but its own caller.
            results = failures(error, jobs) or await self._alone(jobs, error)
        self._committed(answer(jobs, results))

    async def _commit(self, jobs: list[Job]) -> list[Any]:
        locks = (lock for job in jobs for lock in job.locks)
        return await self._session.commit(partial(run_jobs, jobs), locks)

    async def _alone(self, jobs: list[Job], error: Exception) -> list[Any]:
        if len(jobs) == 1:
            return [error]
        return [await self._commit_alone(job) for job in jobs]

    async def _commit_alone(self, job: Job) -> Any:
        try:
            return (await self._commit([job]))[0]
        except Exception as error:  # noqa: BLE001 - it is the caller's to handle
            return error
