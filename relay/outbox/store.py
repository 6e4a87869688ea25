"""The outbox over any database: what is the same for all of them.

A backend adds how operations reach its connections (:class:`Channel`), how leads are
claimed and counted, and how erased bytes leave its files.
"""

from __future__ import annotations

import asyncio
import builtins
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from functools import partial
from typing import Any, Final, Protocol, TypeVar, TypeVarTuple

from relay.core.clock import now_ms
from relay.core.leads import Attempt, LeadRecord, LeadStatus
from relay.core.pacing import Budget, Pace
from relay.outbox import deliveries, insertion, personal_data, reading, removal
from relay.outbox.contract import (
    NO_DETAILS,
    Alert,
    AuditEntry,
    Circuit,
    Claim,
    Credited,
    Findings,
    Forgotten,
    ImportedLead,
    InsertResult,
    NewLead,
    Outbox,
    OutboxUnavailableError,
    Proof,
    Query,
    Rekeyed,
    Removed,
    Requeued,
    Resolution,
    Sample,
    Scrubbed,
    Settlement,
    Sighting,
    Wanted,
)
from relay.outbox.database import AnyOperation, Database, Operation, Row
from relay.outbox.encryption import Seal
from relay.outbox.leases import Leased, Wish, final_new_lead, lease_of
from relay.outbox.records import entry_of, row_of, sealed_end

Argument = TypeVar("Argument")
Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

WAKING: Final[frozenset[AnyOperation]] = frozenset(
    {
        insertion.put,
        insertion.import_lead,
        insertion.release,
        insertion.release_as_held,
        deliveries.settle,
        deliveries.unpark,
        deliveries.reschedule,
        deliveries.requeue,
        deliveries.resolve,
        deliveries.pause,
    }
)
"""Operations after which something may be due; settling frees the next in a queue."""


PATIENCE_S: Final = 1.0
"""How long a caller whose lead is to be stored waits for the commit. It takes
milliseconds: a database that takes longer, for a lock, a disk or a standby that does
not answer, is one that fails, and the caller should hear so before its time limit."""

TOGETHER_S: Final = 0.05


def _give_up(answers: Iterable[asyncio.Future[Any]]) -> None:
    for answer in answers:
        if not answer.done():
            # Whether it is committed in the end, only the same lead again can show.
            error = OutboxUnavailableError(f"no commit within {PATIENCE_S:g} s")
            answer.set_exception(error)


class Channel(Protocol):
    """How operations reach a database that is open."""

    def submit(
        self,
        operation: Operation[Argument, Result],
        argument: Argument,
        locks: Sequence[int] = (),
    ) -> asyncio.Future[Result]:
        """Commit an operation with what others submit; return its result.

        Raises OutboxUnavailableError, or what the operation raised.
        """

    async def read(
        self,
        read: Callable[[Database, *Arguments], Coroutine[Any, Any, Result]],
        *arguments: *Arguments,
    ) -> Result:
        """Run what changes nothing; raise OutboxUnavailableError if it could not."""

    async def stop(self) -> None:
        """Finish what is under way and close every connection."""


class StoredOutbox(Outbox, ABC):
    """The contract over a :class:`Channel`; the contract says what each method does."""

    put_operation: Operation[insertion.Pending, InsertResult] = staticmethod(
        insertion.put
    )

    def __init__(self, seal: Seal) -> None:
        self._seal = seal
        self._wakes: list[Callable[[], None]] = []
        self._claimed = 0
        self._impatient: builtins.list[asyncio.Future[Any]] = []
        self._impatient_since = float("-inf")
        self._channel: Channel | None = None

    # --- What each database does in its own way. ---

    @abstractmethod
    async def connect(self) -> Channel:
        """Connect and migrate.

        Raises SchemaTooNewError or OutboxUnavailableError.
        """

    @abstractmethod
    async def lease(self, wish: Wish) -> Leased:
        """Lease what is due and first in its customer's queue."""

    @abstractmethod
    async def counts(self) -> Mapping[LeadStatus, int]:
        """How many entries are in each state that has any."""

    @abstractmethod
    async def scrub(self, forgotten: Forgotten) -> Scrubbed:
        """Get erased bytes out of the database's files, as far as it can."""

    def locks_of(self, new_lead: NewLead) -> Sequence[int]:  # noqa: ARG002 - a backend's
        """Return the rows to lock before a new lead is looked at."""
        return ()

    def now(self) -> int:
        return now_ms()

    # --- Life. ---

    async def open(self) -> None:
        if self._channel is None:
            self._channel = await self.connect()

    async def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.stop()

    def on_ready(self, wake: Callable[[], None]) -> None:
        self._wakes.append(wake)

    @property
    def channel(self) -> Channel:
        """The connections; raises OutboxUnavailableError unless it is open."""
        if self._channel is None:
            raise OutboxUnavailableError("the outbox is not open")
        return self._channel

    def committed(self, done: set[AnyOperation]) -> None:
        """Wake delivery after a commit that may have made something due."""
        if self.put_operation in done or not WAKING.isdisjoint(done):
            for wake in self._wakes:
                wake()

    # --- Intake. ---

    async def put(self, new_lead: NewLead) -> InsertResult:
        row = row_of(new_lead, self._seal)
        if new_lead.status is LeadStatus.HELD and new_lead.idempotency_key is None:
            return await self._soon(self.channel.submit(insertion.hold, row))
        locks = self.locks_of(new_lead)
        put = self.channel.submit(self.put_operation, (new_lead, row), locks)
        return await self._soon(put)

    async def import_lead(
        self, imported: ImportedLead, *, dry: bool = False
    ) -> InsertResult:
        row = row_of(imported.new_lead, self._seal)
        if dry:
            return await self.channel.read(insertion.find_imported, imported)
        locks = self.locks_of(imported.new_lead)
        return await self.channel.submit(insertion.import_lead, (imported, row), locks)

    async def release(
        self, lead_id: str, new_lead: NewLead | None
    ) -> InsertResult | None:
        if new_lead is None:
            removed = self.channel.submit(insertion.release, (lead_id, None))
            return await self._soon(removed)
        locks = self.locks_of(new_lead)
        if new_lead.as_held and new_lead.lead.id == lead_id:
            queued = self.channel.submit(insertion.release_as_held, new_lead, locks)
            return await self._soon(queued)
        new_lead = final_new_lead(new_lead, lead_id)
        final = (new_lead, row_of(new_lead, self._seal))
        released = self.channel.submit(insertion.release, (lead_id, final), locks)
        return await self._soon(released)

    def _soon(self, answer: asyncio.Future[Result]) -> asyncio.Future[Result]:
        """Let a caller wait for a commit for so long at most; the work goes on.

        One timer for all that come at nearly the same time: they are many.
        """
        loop = answer.get_loop()
        now = loop.time()
        if now - self._impatient_since > TOGETHER_S:
            self._impatient_since, self._impatient = now, []
            loop.call_later(PATIENCE_S + TOGETHER_S, _give_up, self._impatient)
        self._impatient.append(answer)
        return answer

    # --- Delivery. ---

    async def claim(
        self, limit: int, now: int, lease_ms: int, pace: Pace | None = None
    ) -> builtins.list[Claim]:
        wish = Wish(limit, now, now + lease_ms, pace, self._claimed)
        leased = await self.lease(wish)
        self._claimed += len(leased.rows)
        return [Claim(entry_of(row, self._seal), leased.token) for row in leased.rows]

    async def begin_recording(
        self, claim: Claim, attempts: Sequence[Attempt], now: int, lease_ms: int
    ) -> bool:
        argument = (lease_of(claim), attempts, now, now + lease_ms)
        return await self.channel.submit(deliveries.begin_recording, argument)

    async def settle(self, claim: Claim, end: Settlement, now: int) -> bool:
        stored = sealed_end(end, claim.entry.lead.id, self._seal)
        argument = (lease_of(claim), stored, now)
        return await self.channel.submit(deliveries.settle, argument)

    async def budget(self) -> Budget:
        return await self.channel.read(deliveries.budget)

    async def throttled(self, plan: int, now: int, until: int) -> None:
        await self.channel.submit(deliveries.throttle, (plan, now, until))

    async def spend(self, plan: int, now: int, calls: int) -> None:
        await self.channel.submit(deliveries.spend_calls, (plan, now, calls))

    async def park_due(self, now: int, limit: int) -> int:
        return await self.channel.submit(deliveries.park_due, (now, limit))

    async def unpark(self, now: int, limit: int) -> int:
        return await self.channel.submit(deliveries.unpark, (now, limit))

    async def reschedule(self, now: int, latest: int, free_at: int, limit: int) -> int:
        argument = (now, latest, free_at, limit)
        return await self.channel.submit(deliveries.reschedule, argument)

    async def circuit(self) -> Circuit:
        return await self.channel.read(deliveries.circuit)

    async def set_circuit(self, circuit: Circuit) -> None:
        await self.channel.submit(deliveries.set_circuit, (circuit,))

    async def next_due(self) -> int | None:
        return await self.channel.read(deliveries.next_due)

    # --- People and monitoring. ---

    async def confirm(
        self, lead_ids: Sequence[str], now: int, proof: Proof = NO_DETAILS
    ) -> int:
        return await self.channel.submit(deliveries.confirm, (lead_ids, now, proof))

    async def show(self, lead_id: str, proof: Proof, doubled_at: int | None) -> None:
        await self.channel.submit(deliveries.show, (lead_id, proof, doubled_at))

    async def of_customers(self, names: Sequence[str]) -> builtins.list[LeadRecord]:
        return await self.channel.read(reading.of_customers, names, self._seal)

    async def unproven(
        self, since: int, until: int, limit: int
    ) -> builtins.list[LeadRecord]:
        return await self.channel.read(
            reading.unproven, since, until, limit, self._seal
        )

    async def miss(self, lead_ids: Sequence[str], now: int) -> int:
        return await self.channel.submit(deliveries.miss, (lead_ids, now))

    async def resolve(self, lead_id: str, end: Resolution, now: int) -> bool:
        return await self.channel.submit(deliveries.resolve, (lead_id, end, now))

    async def first_at(self) -> int | None:
        return await self.channel.read(reading.first_at)

    async def findings(self) -> Findings:
        return await self.channel.read(reading.findings)

    async def reconciliation(self) -> str:
        return await self.channel.read(reading.reconciliation)

    async def swap_reconciliation(self, old: str, new: str) -> bool:
        return await self.channel.submit(reading.swap_reconciliation, (old, new))

    async def doubt(self, note: str, limit: int) -> int:
        return await self.channel.submit(deliveries.doubt, (note, limit))

    async def requeue(
        self, lead_id: str, now: int, *, window_ms: int, key_ms: int
    ) -> Requeued:
        argument = (lead_id, now, window_ms, key_ms)
        return await self.channel.submit(deliveries.requeue, argument)

    async def pause(self, *, paused: bool) -> None:
        await self.channel.submit(deliveries.pause, (paused,))

    async def record(self, act: AuditEntry) -> None:
        await self.channel.submit(reading.record, (act,))

    async def audit_log(self, limit: int) -> builtins.list[AuditEntry]:
        return await self.channel.read(reading.audit_log, limit)

    async def sample(self, taken: Sample, keep_since: int) -> None:
        await self.channel.submit(reading.sample, (taken, keep_since))

    async def samples(self, since: int) -> builtins.list[Sample]:
        return await self.channel.read(reading.samples, since)

    async def add_sightings(self, fresh: Sequence[Sighting], keep: int) -> None:
        await self.channel.submit(reading.add_sightings, (fresh, keep))

    async def sightings(self, kind: str) -> Sequence[Sighting]:
        return await self.channel.read(reading.sightings, kind)

    async def get(self, lead_id: str) -> LeadRecord | None:
        return await self.channel.read(reading.get, lead_id, self._seal)

    async def attempts(self, lead_id: str) -> builtins.list[Attempt]:
        return await self.channel.read(reading.attempts, lead_id)

    async def list(self, query: Query) -> builtins.list[LeadRecord]:
        return await self.channel.read(reading.entries, query, self._seal)

    def scan(self, query: Query) -> AsyncIterator[LeadRecord]:
        async def read(query: Query, below: int | None, limit: int) -> Sequence[Row]:
            return await self.channel.read(reading.page, query, below, limit)

        return personal_data.scanned(read, query, self._seal)

    async def oldest_open(self) -> int | None:
        return await self.channel.read(reading.oldest_open)

    async def credits_since(self, since: int) -> builtins.list[Credited]:
        return await self.channel.read(reading.credits_since, since)

    async def reasons(self, status: LeadStatus) -> Mapping[str, int]:
        return await self.channel.read(reading.reasons, status)

    async def alerts(self) -> builtins.list[Alert]:
        return await self.channel.read(reading.alerts)

    async def swap_alert(self, old: Alert | None, new: Alert | None) -> bool:
        return await self.channel.submit(reading.swap_alert, (old, new))

    async def check_writable(self) -> None:
        await self._soon(self.channel.submit(deliveries.beat, ()))

    # --- Retention. ---

    async def erase_due(self, before: int, limit: int, now: int) -> int:
        return await self.channel.submit(personal_data.erase_due, (before, limit, now))

    async def remove_old(
        self, above: int, before: int, limit: int, *, for_ever: bool
    ) -> Removed:
        argument = (above, before, limit, for_ever)
        return await self.channel.submit(removal.remove_old, argument)

    async def forget(self, wanted: Wanted, now: int) -> Forgotten:
        return await self.channel.submit(personal_data.forget, (wanted, now))

    async def rekey(self, above: int, limit: int) -> Rekeyed:
        found = await self.channel.read(reading.persons, above, limit)
        replace: Any = partial(self.channel.submit, personal_data.replace_persons)
        return await personal_data.rekeyed(found, self._seal, replace)
