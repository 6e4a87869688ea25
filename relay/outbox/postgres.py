"""The outbox on PostgreSQL, for any number of relays on any number of machines.

Writes go through one connection that commits them in groups, claims through
another, reads through a few more; each is made anew after trouble.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from relay.core.leads import Attempt, LeadRecord, LeadStatus
from relay.core.pacing import Budget, Pace
from relay.outbox import (
    postgres_alerts,
    postgres_delivery,
    postgres_gate,
    postgres_intake,
    postgres_keeping,
    postgres_operating,
    postgres_reading,
)
from relay.outbox.contract import (
    Act,
    Alert,
    Claim,
    Gate,
    Offer,
    OutboxUnavailableError,
    Query,
    Receipt,
    Rekeyed,
    Sample,
    Settlement,
)
from relay.outbox.keeping import Forgotten, Scrubbed, Wanted
from relay.outbox.leasing import Leased, final_offer, lease_of
from relay.outbox.postgres_reading import Readers
from relay.outbox.postgres_schema import migrate, require_schema
from relay.outbox.postgres_session import TIMEOUT_S, Connection, Session
from relay.outbox.postgres_writer import Work, Writer
from relay.outbox.rows import Row, entry_of, row_of, sealed_end
from relay.outbox.sealing import PLAIN, Seal
from relay.outbox.walking import rekeyed, scanned

_WAKING: Final[frozenset[Work[Any, Any]]] = frozenset(
    {
        postgres_intake.put,
        postgres_intake.release,
        postgres_delivery.settle,
        postgres_gate.unpark,
        postgres_gate.requeue,
        postgres_operating.pause,
    }
)
"""Work after which something may be due; settling frees the next in line."""


class PostgresOutbox:
    """:class:`relay.outbox.contract.Outbox` on the database that a URL names.

    ``timeout_s`` is how long to wait for a connection or a statement; ``seal``
    encrypts personal data.
    """

    def __init__(
        self, url: str, *, timeout_s: float = TIMEOUT_S, seal: Seal = PLAIN
    ) -> None:
        self._url = url
        self._seal = seal
        self._timeout_s = timeout_s
        self._wakes: list[Callable[[], None]] = []
        self._writing: Writer | None = None
        self._reading: Readers | None = None
        self._claims: Session | None = None
        # Claims of one relay go one after the other: at the same moment they would
        # find the same leads, and all but one of them few.
        self._claiming = asyncio.Lock()

    async def open(self) -> None:
        """Connect and migrate; raise SchemaTooNewError or OutboxUnavailableError."""
        if self._writing is not None:
            return
        await migrate(self._url)
        writing = Writer(self._session(), self._committed)
        try:
            await writing.submit(postgres_gate.touch, ())
        except BaseException:
            await writing.stop()
            raise
        self._writing = writing
        self._reading = Readers(self._session)
        self._claims = self._session()

    def _session(self) -> Session:
        return Session(self._url, require_schema, self._timeout_s)

    async def close(self) -> None:
        """Finish the writes under way and let go of the database. Idempotent."""
        writing, reading, claims = self._writing, self._reading, self._claims
        self._writing = self._reading = self._claims = None
        if claims is not None:
            async with self._claiming:
                await claims.close()
        if reading is not None:
            await reading.stop()
        if writing is not None:
            await writing.stop()

    def on_ready(self, wake: Callable[[], None]) -> None:
        """Call wake, in the event loop, whenever something may have become due."""
        self._wakes.append(wake)

    # --- Intake. ---

    async def put(self, offer: Offer) -> Receipt:
        """Commit a lead, or say which earlier one it repeats."""
        pending = (offer, row_of(offer, self._seal))
        line = postgres_intake.line(offer)
        return await self._writer.submit(postgres_intake.put, pending, line)

    async def release(self, lead_id: str, offer: Offer | None) -> Receipt | None:
        """Resolve a HELD lead: put the final offer in its place, or remove it."""
        if offer is None:
            return await self._writer.submit(postgres_intake.release, (lead_id, None))
        final = final_offer(offer, lead_id)
        pending = (final, row_of(final, self._seal))
        line = postgres_intake.line(final)
        work = postgres_intake.release
        return await self._writer.submit(work, (lead_id, pending), line)

    # --- Delivery. ---

    async def claim(
        self, limit: int, now: int, lease_ms: int, pace: Pace | None = None
    ) -> builtins.list[Claim]:
        """Lease up to limit due entries, oldest due first; spend their calls."""
        work = partial(
            postgres_delivery.claim, limit=limit, now=now, lease_ms=lease_ms, pace=pace
        )
        leased = await self._claim(work)
        return self._entries(leased)

    async def claim_probe(self, now: int, lease_ms: int) -> Claim | None:
        """Lease the oldest parked or due entry although the gate is closed."""
        leased = await self._claim(
            partial(postgres_delivery.claim_probe, now=now, lease_ms=lease_ms)
        )
        claims = self._entries(leased)
        return claims[0] if claims else None

    def _entries(self, leased: Leased) -> builtins.list[Claim]:
        return [Claim(entry_of(row, self._seal), leased.token) for row in leased.rows]

    async def _claim(self, work: Callable[[Connection], Awaitable[Leased]]) -> Leased:
        async with self._claiming:
            if self._claims is None:
                raise OutboxUnavailableError("the outbox is not open")
            return await self._claims.commit(work)

    async def begin_recording(
        self, claim: Claim, attempts: Sequence[Attempt], now: int, lease_ms: int
    ) -> bool:
        """Write down that the recording call is about to be sent (in_doubt)."""
        return await self._writer.submit(
            postgres_delivery.begin_recording,
            (lease_of(claim), attempts, now + lease_ms),
        )

    async def settle(self, claim: Claim, end: Settlement, now: int) -> bool:
        """Write how a delivery ended. False when the lease was lost meanwhile."""
        stored = sealed_end(end, claim.entry.lead.id, self._seal)
        return await self._writer.submit(
            postgres_delivery.settle, (lease_of(claim), stored, now)
        )

    async def budget(self) -> Budget:
        """The shared budget of calls as it stands."""
        return await self._readers.run(postgres_reading.budget)

    async def throttled(self, plan: int, now: int, until: int) -> None:
        """Lower the shared rate after a 429, and pause all calls until then."""
        await self._writer.submit(postgres_gate.throttle, (plan, now, until))

    async def park_due(self, now: int, limit: int) -> int:
        """Turn up to limit due QUEUED or WAITING entries to PARKED; how many."""
        return await self._writer.submit(postgres_gate.park_due, (now, limit))

    async def unpark(self, now: int, limit: int) -> int:
        """Turn up to limit PARKED entries to QUEUED, due now; how many."""
        return await self._writer.submit(postgres_gate.unpark, (now, limit))

    async def hurry(self, now: int, latest: int, limit: int) -> int:
        """Make up to limit entries due that the clock left behind; how many."""
        return await self._writer.submit(postgres_gate.hurry, (now, latest, limit))

    async def gate(self) -> Gate:
        """The gate as it stands for every worker on this database."""
        return await self._readers.run(postgres_reading.gate)

    async def set_gate(self, gate: Gate) -> None:
        """Open or close the gate for every worker on this database."""
        await self._writer.submit(postgres_gate.set_gate, (gate,))

    async def next_due(self) -> int | None:
        """When the next entry becomes due (epoch ms)."""
        return await self._readers.run(postgres_reading.next_due)

    # --- People and monitoring. ---

    async def confirm(self, lead_ids: Sequence[str], now: int) -> int:
        """Turn DELIVERED entries, and whatever is in doubt, to CONFIRMED; how many."""
        return await self._writer.submit(postgres_delivery.confirm, (lead_ids, now))

    async def requeue(self, lead_id: str, now: int) -> bool:
        """Send a RETRYABLE entry again, at once. False if it is not one."""
        return await self._writer.submit(postgres_gate.requeue, (lead_id, now))

    async def pause(self, *, paused: bool) -> None:
        """Stop delivery for every worker on this database, or let it go on."""
        await self._writer.submit(postgres_operating.pause, (paused,))

    async def record(self, act: Act) -> None:
        """Write down what a person did."""
        await self._writer.submit(postgres_operating.record, (act,))

    async def acts(self, limit: int) -> builtins.list[Act]:
        """What people did, newest first."""
        return await self._readers.run(postgres_operating.acts, limit)

    async def sample(self, taken: Sample, keep_since: int) -> None:
        """Keep a sample, in the place of an earlier one of the same minute."""
        await self._writer.submit(postgres_operating.sample, (taken, keep_since))

    async def samples(self, since: int) -> builtins.list[Sample]:
        """Every relay's samples since then, oldest first."""
        return await self._readers.run(postgres_operating.samples, since)

    async def get(self, lead_id: str) -> LeadRecord | None:
        """One entry, or None."""
        return await self._readers.run(postgres_reading.get, lead_id, self._seal)

    async def attempts(self, lead_id: str) -> builtins.list[Attempt]:
        """Every call made for a lead, oldest first."""
        return await self._readers.run(postgres_reading.attempts, lead_id)

    async def list(self, query: Query) -> builtins.list[LeadRecord]:
        """Entries, newest first."""
        return await self._readers.run(postgres_reading.entries, query, self._seal)

    def scan(self, query: Query) -> AsyncIterator[LeadRecord]:
        """Entries, newest first, a page at a time."""

        async def read(
            query: Query, below: int | None, limit: int
        ) -> builtins.list[Row]:
            return await self._readers.run(postgres_keeping.page, query, below, limit)

        return scanned(read, query, self._seal)

    async def counts(self) -> Mapping[LeadStatus, int]:
        """How many entries are in each state that has any."""
        return await self._readers.run(postgres_reading.counts)

    async def oldest_open(self) -> int | None:
        """When the oldest open lead was created (epoch ms)."""
        return await self._readers.run(postgres_reading.oldest_open)

    async def reasons(self, status: LeadStatus) -> Mapping[str, int]:
        """How many leads of a state there are for each reason (last_error)."""
        return await self._readers.run(postgres_alerts.reasons, status)

    async def alerts(self) -> builtins.list[Alert]:
        """Everything that was told and is not over, or is still to be told."""
        return await self._readers.run(postgres_alerts.alerts)

    async def swap_alert(self, old: Alert | None, new: Alert | None) -> bool:
        """Put new in old's place, if that is what stands there."""
        return await self._writer.submit(postgres_alerts.swap, (old, new))

    async def check_writable(self) -> None:
        """Commit something harmless; raise OutboxUnavailableError if it fails."""
        await self._writer.submit(postgres_gate.beat, ())

    # --- Keeping. ---

    async def spend(self, plan: int, now: int, calls: int) -> None:
        """Take calls out of the shared budget that belong to no claim."""
        await self._writer.submit(postgres_gate.spend_calls, (plan, now, calls))

    async def erase_due(self, before: int, limit: int, now: int) -> int:
        """Erase the personal data of up to limit SETTLED leads; how many."""
        return await self._writer.submit(
            postgres_keeping.erase_due, (before, limit, now)
        )

    async def forget(self, wanted: Wanted, now: int) -> Forgotten:
        """Erase the personal data of one customer's leads, or of one lead."""
        return await self._writer.submit(postgres_keeping.forget, (wanted, now))

    async def scrub(self, forgotten: Forgotten) -> Scrubbed:  # noqa: ARG002
        """VACUUM, so that the old versions of rows are out of the tables."""
        return await postgres_keeping.scrub(self._url)

    async def rekey(self, above: int, limit: int) -> Rekeyed:
        """Write up to limit leads' personal data anew under the first key."""
        found = await self._readers.run(postgres_keeping.persons, above, limit)
        replace = partial(self._writer.submit, postgres_keeping.replace_persons)
        return await rekeyed(found, self._seal, replace)

    @property
    def _writer(self) -> Writer:
        if self._writing is None:
            raise OutboxUnavailableError("the outbox is not open")
        return self._writing

    @property
    def _readers(self) -> Readers:
        if self._reading is None:
            raise OutboxUnavailableError("the outbox is not open")
        return self._reading

    def _committed(self, done: set[Work[Any, Any]]) -> None:
        if not _WAKING.isdisjoint(done):
            for wake in self._wakes:
                wake()
