"""The outbox in one SQLite file, for relays on one machine.

Writes go through one thread that commits them in groups, reads through others.
Several processes may use the file; SQLite lets one of them write at a time.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from relay.core.leads import Attempt, LeadRecord, LeadStatus
from relay.core.pacing import Budget, Pace
from relay.outbox import (
    sqlite_alerts,
    sqlite_delivery,
    sqlite_held,
    sqlite_intake,
    sqlite_keeping,
    sqlite_operating,
    sqlite_reading,
    sqlite_scrub,
    sqlite_tallies,
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
from relay.outbox.rows import Row, entry_of, row_of, sealed_end
from relay.outbox.sealing import PLAIN, Seal
from relay.outbox.sqlite_file import (
    BUSY_MS,
    SqliteFile,
    connect_reader,
    connect_writer,
    make_file,
)
from relay.outbox.sqlite_reading import Readers
from relay.outbox.walking import rekeyed, scanned
from relay.outbox.writer import Work, Writer, each


@each
def _touch(connection: sqlite3.Connection) -> None:
    """Do nothing: to open the file is enough."""


_WAKING: Final[frozenset[Work[Any, Any]]] = frozenset(
    {
        sqlite_intake.put,
        sqlite_intake.release,
        sqlite_held.let_go,
        sqlite_delivery.settle,
        sqlite_delivery.unpark,
        sqlite_delivery.hurry,
        sqlite_delivery.requeue,
        sqlite_operating.pause,
    }
)
"""Work after which something may be due; settling frees the next in line."""


class SqliteOutbox:
    """:class:`relay.outbox.contract.Outbox` on the SQLite file at ``path``.

    ``busy_ms`` is how long to wait for other processes' writes; ``seal`` encrypts
    personal data.
    """

    def __init__(
        self, path: str | Path, *, busy_ms: int = BUSY_MS, seal: Seal = PLAIN
    ) -> None:
        self.path = Path(path)
        self._seal = seal
        self._busy_ms = busy_ms
        self._wakes: list[Callable[[], None]] = []
        self._writing: Writer | None = None
        self._reading: Readers | None = None

    async def open(self) -> None:
        """Connect and migrate; raise SchemaTooNewError or OutboxUnavailableError."""
        if self._writing is not None:
            return
        try:
            await asyncio.to_thread(make_file, self.path)
            writer = await self._start()
        except OutboxUnavailableError as error:
            message = f"cannot open the database {self.path}: {error}"
            raise OutboxUnavailableError(message) from error
        self._writing = writer
        self._reading = Readers(
            self.path, partial(connect_reader, busy_ms=self._busy_ms)
        )

    async def _start(self) -> Writer:
        connect = partial(connect_writer, busy_ms=self._busy_ms)
        writer = Writer(SqliteFile(self.path, connect), self._committed)
        try:
            await writer.submit(_touch, ())
        except BaseException:
            await writer.stop()
            raise
        return writer

    async def close(self) -> None:
        """Finish the writes under way and let go of the file. Idempotent."""
        writing, reading = self._writing, self._reading
        self._writing = self._reading = None
        # The last connection to go moves the log into the file: the writer's.
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
        row = row_of(offer, self._seal)
        if offer.status is LeadStatus.HELD and offer.idempotency_key is None:
            return await self._writer.submit(sqlite_held.hold, row)
        return await self._writer.submit(sqlite_intake.put, (offer, row))

    async def release(self, lead_id: str, offer: Offer | None) -> Receipt | None:
        """Resolve a HELD lead: put the final offer in its place, or remove it."""
        final = None
        if offer is not None and offer.as_held and offer.lead.id == lead_id:
            return await self._writer.submit(sqlite_held.let_go, offer)
        if offer is not None:
            offer = final_offer(offer, lead_id)
            final = (offer, row_of(offer, self._seal))
        return await self._writer.submit(sqlite_intake.release, (lead_id, final))

    # --- Delivery. ---

    async def claim(
        self, limit: int, now: int, lease_ms: int, pace: Pace | None = None
    ) -> builtins.list[Claim]:
        """Lease up to limit due entries, oldest due first; spend their calls."""
        leased = await self._writer.submit(
            sqlite_delivery.claim, (limit, now, lease_ms, pace)
        )
        return self._claims(leased)

    async def claim_probe(self, now: int, lease_ms: int) -> Claim | None:
        """Lease the oldest parked or due entry although the gate is closed."""
        leased = await self._writer.submit(sqlite_delivery.claim_probe, (now, lease_ms))
        claims = self._claims(leased)
        return claims[0] if claims else None

    def _claims(self, leased: Leased) -> builtins.list[Claim]:
        return [Claim(entry_of(row, self._seal), leased.token) for row in leased.rows]

    async def begin_recording(
        self, claim: Claim, attempts: Sequence[Attempt], now: int, lease_ms: int
    ) -> bool:
        """Write down that the recording call is about to be sent (in_doubt)."""
        return await self._writer.submit(
            sqlite_delivery.begin_recording, (lease_of(claim), attempts, now + lease_ms)
        )

    async def settle(self, claim: Claim, end: Settlement, now: int) -> bool:
        """Write how a delivery ended. False when the lease was lost meanwhile."""
        stored = sealed_end(end, claim.entry.lead.id, self._seal)
        return await self._writer.submit(
            sqlite_delivery.settle, (lease_of(claim), stored, now)
        )

    async def budget(self) -> Budget:
        """The shared budget of calls as it stands."""
        return await self._readers.run(sqlite_reading.budget)

    async def throttled(self, plan: int, now: int, until: int) -> None:
        """Lower the shared rate after a 429, and pause all calls until then."""
        await self._writer.submit(sqlite_delivery.throttle, (plan, now, until))

    async def park_due(self, now: int, limit: int) -> int:
        """Turn up to limit due QUEUED or WAITING entries to PARKED; how many."""
        return await self._writer.submit(sqlite_delivery.park_due, (now, limit))

    async def unpark(self, now: int, limit: int) -> int:
        """Turn up to limit PARKED entries to QUEUED, due now; how many."""
        return await self._writer.submit(sqlite_delivery.unpark, (now, limit))

    async def hurry(self, now: int, latest: int, limit: int) -> int:
        """Make up to limit entries due that the clock left behind; how many."""
        return await self._writer.submit(sqlite_delivery.hurry, (now, latest, limit))

    async def gate(self) -> Gate:
        """The gate as it stands for every worker on this database."""
        return await self._readers.run(sqlite_reading.gate)

    async def set_gate(self, gate: Gate) -> None:
        """Open or close the gate for every worker on this database."""
        await self._writer.submit(sqlite_delivery.set_gate, (gate,))

    async def next_due(self) -> int | None:
        """When the next entry becomes due (epoch ms)."""
        return await self._readers.run(sqlite_reading.next_due)

    # --- People and monitoring. ---

    async def confirm(self, lead_ids: Sequence[str], now: int) -> int:
        """Turn DELIVERED entries, and whatever is in doubt, to CONFIRMED; how many."""
        return await self._writer.submit(sqlite_delivery.confirm, (lead_ids, now))

    async def requeue(self, lead_id: str, now: int) -> bool:
        """Send a RETRYABLE entry again, at once. False if it is not one."""
        return await self._writer.submit(sqlite_delivery.requeue, (lead_id, now))

    async def pause(self, *, paused: bool) -> None:
        """Stop delivery for every worker on this database, or let it go on."""
        await self._writer.submit(sqlite_operating.pause, (paused,))

    async def record(self, act: Act) -> None:
        """Write down what a person did."""
        await self._writer.submit(sqlite_operating.record, (act,))

    async def acts(self, limit: int) -> builtins.list[Act]:
        """What people did, newest first."""
        return await self._readers.run(sqlite_operating.acts, limit)

    async def sample(self, taken: Sample, keep_since: int) -> None:
        """Keep a sample, in the place of an earlier one of the same minute."""
        await self._writer.submit(sqlite_operating.sample, (taken, keep_since))

    async def samples(self, since: int) -> builtins.list[Sample]:
        """Every relay's samples since then, oldest first."""
        return await self._readers.run(sqlite_operating.samples, since)

    async def get(self, lead_id: str) -> LeadRecord | None:
        """One entry, or None."""
        return await self._readers.run(sqlite_reading.get, lead_id, self._seal)

    async def attempts(self, lead_id: str) -> builtins.list[Attempt]:
        """Every call made for a lead, oldest first."""
        return await self._readers.run(sqlite_reading.attempts, lead_id)

    async def list(self, query: Query) -> builtins.list[LeadRecord]:
        """Entries, newest first."""
        return await self._readers.run(sqlite_reading.entries, query, self._seal)

    def scan(self, query: Query) -> AsyncIterator[LeadRecord]:
        """Entries, newest first, a page at a time."""

        async def read(
            query: Query, below: int | None, limit: int
        ) -> builtins.list[Row]:
            return await self._readers.run(sqlite_keeping.page, query, below, limit)

        return scanned(read, query, self._seal)

    async def counts(self) -> Mapping[LeadStatus, int]:
        """How many entries are in each state that has any."""
        counted = await self._readers.run(sqlite_tallies.counts)
        more = counted.late > sqlite_tallies.MANY
        # A full disk makes looking slow, but it must not keep anybody from it.
        with contextlib.suppress(OutboxUnavailableError):
            while more:
                more = await self._writer.submit(sqlite_tallies.catch_up, ())
        return counted.leads

    async def oldest_open(self) -> int | None:
        """When the oldest open lead was created (epoch ms)."""
        return await self._readers.run(sqlite_reading.oldest_open)

    async def reasons(self, status: LeadStatus) -> Mapping[str, int]:
        """How many leads of a state there are for each reason (last_error)."""
        return await self._readers.run(sqlite_alerts.reasons, status)

    async def alerts(self) -> builtins.list[Alert]:
        """Everything that was told and is not over, or is still to be told."""
        return await self._readers.run(sqlite_alerts.alerts)

    async def swap_alert(self, old: Alert | None, new: Alert | None) -> bool:
        """Put new in old's place, if that is what stands there."""
        return await self._writer.submit(sqlite_alerts.swap, (old, new))

    async def check_writable(self) -> None:
        """Commit something harmless; raise OutboxUnavailableError if it fails."""
        await self._writer.submit(sqlite_delivery.beat, ())

    # --- Keeping. ---

    async def spend(self, plan: int, now: int, calls: int) -> None:
        """Take calls out of the shared budget that belong to no claim."""
        await self._writer.submit(sqlite_delivery.spend_calls, (plan, now, calls))

    async def erase_due(self, before: int, limit: int, now: int) -> int:
        """Erase the personal data of up to limit SETTLED leads; how many."""
        return await self._writer.submit(sqlite_keeping.erase_due, (before, limit, now))

    async def forget(self, wanted: Wanted, now: int) -> Forgotten:
        """Erase the personal data of one customer's leads, or of one lead."""
        return await self._writer.submit(sqlite_keeping.forget, (wanted, now))

    async def scrub(self, forgotten: Forgotten) -> Scrubbed:
        """Get erased bytes out of the write-ahead log and the file."""
        return await asyncio.to_thread(sqlite_scrub.scrub, self.path, forgotten.traces)

    async def rekey(self, above: int, limit: int) -> Rekeyed:
        """Write up to limit leads' personal data anew under the first key."""
        found = await self._readers.run(sqlite_keeping.persons, above, limit)
        replace = partial(self._writer.submit, sqlite_keeping.replace_persons)
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
