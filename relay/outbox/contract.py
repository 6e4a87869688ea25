"""What every outbox does, whatever database it stands on.

All times are epoch milliseconds and are passed in; they are those of :meth:`now`.
A method that writes returns only after the commit; when the commit failed it
raises :class:`OutboxUnavailableError`. Where its answer was lost or late, only the same
call again shows whether it was done.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol

from relay.core.leads import Attempt, CreditedLink, Lead, LeadRecord, LeadStatus
from relay.core.pacing import Budget, Pace

KEEP: Final = -1
"""Leaves a time as it is stored, where None would remove it."""


class OutboxError(Exception):
    """Base of everything an outbox raises."""


class OutboxUnavailableError(OutboxError):
    """The database could not take or give; nothing was changed. Try later."""


class UnstorableError(OutboxError):
    """The lead cannot be kept as it is; trying again will not help."""


class SchemaError(OutboxError):
    """The database's schema is not one that this relay may touch."""


class SchemaTooNewError(SchemaError):
    """The database was migrated by a newer relay."""


class SchemaChangedError(SchemaError):
    """The database was made by another text of a migration."""


class Inserted(StrEnum):
    """What became of a lead that was offered to the outbox."""

    NEW = "new"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class NewLead:
    """A lead on its way into the outbox.

    ``idempotency_key`` is the caller's own id of the request (a webhook-id),
    scoped by source; ``body_hash`` separates a repeat from a key used twice. It is
    looked at before the dedupe key. ``dedupe_key`` says which of a customer's leads
    count once; ``dedupe_since`` is the time from which earlier ones count (None:
    none do). ``status`` is QUEUED, HELD, or REJECTED for a lead that is kept only
    to be explained (``reason``). By its dedupe key only a QUEUED new lead is a repeat,
    and never of a HELD or REJECTED lead: nothing came of those, so a good lead must
    not be lost for them. ``as_held``: a held row has all of this QUEUED new lead
    already, its ``dedupe_key`` too, and a release need only let it go. ``waits_ms``:
    it is due so much later than it came, and earlier where nothing else is.
    """

    lead: Lead
    dedupe_key: str
    dedupe_since: int | None
    idempotency_key: str | None = None
    body_hash: bytes | None = None
    status: LeadStatus = LeadStatus.QUEUED
    reason: str | None = None
    as_held: bool = False
    waits_ms: int = 0


@dataclass(frozen=True, slots=True)
class ImportedLead:
    """A lead of another ledger, as it is to stand in this one.

    ``new_lead`` is QUEUED, by which it may repeat an earlier one; ``status`` is the
    state that it gets in truth. ``since`` (epoch ms) begins its round of attempts, and
    is its due time if it is to be sent. ``in_doubt``: a call made elsewhere may have
    counted.
    """

    new_lead: NewLead
    status: LeadStatus
    since: int
    in_doubt: bool = False
    delivered_at: int | None = None
    link: CreditedLink | None = None
    event_id: str | None = None
    confirmed_by: str | None = None


class InsertResult(NamedTuple):
    """The outbox's answer to a new lead: committed, and under which lead's id."""

    outcome: Inserted
    lead_id: str
    status: LeadStatus


@dataclass(frozen=True, slots=True)
class Claim:
    """A leased entry. Only the holder of the token may settle it."""

    entry: LeadRecord
    token: str


@dataclass(frozen=True, slots=True)
class Circuit:
    """The circuit breaker of calls to Dub, shared by every worker.

    Open while every call would fail; then one probe goes out at ``probe_at``
    (epoch ms), and ``failures`` counts the probes in vain. ``parks``: a person
    must act, and what is due is parked; else Dub is down, and it waits in line.
    ``paused``: a person has stopped delivery, and only a person lets it go on; it
    is written by :meth:`Outbox.pause` alone.
    """

    open: bool = False
    reason: str | None = None
    probe_at: int | None = None
    failures: int = 0
    parks: bool = True
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Settlement:
    """How one delivery ended, written in one transaction.

    ``due_at`` is set for WAITING and QUEUED only. ``attempts`` are the calls
    made since the last write. ``in_doubt`` None leaves it as it was written.
    ``since`` begins a new round of attempts then. ``answer`` is for who waits.
    ``key_claimed_at`` KEEP leaves what begin_recording has written, ``link`` None the
    one that is known.
    """

    status: LeadStatus
    attempts: Sequence[Attempt] = ()
    due_at: int | None = None
    last_error: str | None = None
    delivered_at: int | None = None
    in_doubt: bool | None = None
    notes: Sequence[str] = ()
    since: int | None = None
    answer: str | None = None
    key_claimed_at: int | None = KEEP
    link: CreditedLink | None = None


class Proof(NamedTuple):
    """What shows that Dub has a lead.

    ``by`` is "webhook" or "events", ``event_id`` Dub's id of the event, ``link`` the
    one that it credits; None where it does not say. ``ours``: Dub took our own call.
    ``events`` are all of its events, each an id and a time in epoch ms.
    """

    by: str | None = None
    event_id: str | None = None
    link: CreditedLink | None = None
    ours: bool = False
    events: tuple[tuple[str, int], ...] = ()


NO_DETAILS: Final = Proof()


class Resolution(NamedTuple):
    """How Dub's list of events settles a lead that it does not show as ours.

    ``due_at`` (epoch ms) is set for QUEUED and WAITING. ``reason`` becomes its last
    error, ``note`` a sentence of its story.
    """

    status: LeadStatus
    reason: str
    note: str
    due_at: int | None = None


class Findings(NamedTuple):
    """How many leads Dub's list of events does not have, and has too often."""

    missing: int = 0
    doubled: int = 0


NO_FINDINGS: Final = Findings()


class Requeued(NamedTuple):
    """What became of a lead that a person wants to be sent again.

    ``due_at`` (epoch ms) is when it goes, None if it does not: ``other`` is then the
    id of the lead that has counted in its place, None if it is not one to be sent.
    """

    due_at: int | None = None
    other: str | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """Which entries a listing wants, newest first.

    ``link`` and ``partner`` are Dub's ids. ``missing``: those that Dub's list of events
    does not have, ``doubled``: those that it has too often. ``before`` is the id of a
    lead: only what came before it, which makes the next page as quick as the first.
    """

    status: LeadStatus | None = None
    customer: str | None = None
    since: int | None = None
    limit: int | None = None
    click: str | None = None
    event: str | None = None
    link: str | None = None
    partner: str | None = None
    before: str | None = None
    missing: bool = False
    doubled: bool = False


class Credited(NamedTuple):
    """So many leads in a state for a link; None: Dub has not credited them."""

    link: CreditedLink | None
    status: LeadStatus
    leads: int


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One thing that a person did to the leads, for the audit log.

    ``actor`` is who was signed in, ``subject`` a lead's id or another name of what
    it was done to. ``at`` is epoch ms. Nothing of a person's but ids.
    """

    at: int
    actor: str
    name: str
    subject: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one relay saw in one minute, for plots over time.

    ``at`` is the minute's beginning in epoch ms, ``relay`` names the process, and
    ``seen`` is by the names of :mod:`relay.dashboard.live`.
    """

    at: int
    relay: str
    seen: Mapping[str, float]


CANDIDATE: Final = "candidate"
"""The kind of a :class:`Sighting` of requests with a click that no rule matches."""

TAG: Final = "tag"
"""The kind of one of script tags that say other than the settings."""

UNDECIDED: Final = "undecided"
"""The kind of one of responses that the default test could not decide."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the proxy saw so many times that no rule, or no test, could judge.

    ``kind`` and ``name`` identify it; ``seen`` is JSON about it, names and counts
    alone, nothing of a person's. Times are epoch ms.
    """

    kind: str
    name: str
    seen: Mapping[str, Any]
    times: int
    first_at: int
    last_at: int


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """How far rekeying has come: the last seq (None: the end), and counts."""

    last: int | None
    changed: int = 0
    unreadable: int = 0
    busy: int = 0


@dataclass(frozen=True, slots=True)
class Alert:
    """What an operator's webhook gets, kept so that it is reported once.

    ``cause`` identifies it; ``body`` is the message as JSON, ``message_id``
    its webhook-id. ``since`` is when it began, ``over`` whether the message speaks
    of its end. ``due_at``: when to send the message, None once it was taken.
    """

    cause: str
    message_id: str
    body: str
    since: int
    over: bool = False
    due_at: int | None = None
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose data is to be erased: one customer's, or one lead's."""

    customer: str | None = None
    lead_id: str | None = None


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was erased, counted by the state before. ``before``: erased long since.

    ``traces`` are bytes that would show a copy that was left in a file.
    """

    leads: Mapping[LeadStatus, int]
    before: int = 0
    traces: tuple[bytes, ...] = field(default=(), repr=False)


class Removed(NamedTuple):
    """How far the removal of old rows has come: the last seq (None: the end)."""

    last: int | None
    leads: int = 0


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """Whether the erased bytes are out of the database's files; if not, why."""

    clean: bool
    reason: str = ""


class Outbox(Protocol):
    """The durable store between capture and delivery."""

    async def open(self) -> None:
        """Connect and migrate; raise SchemaTooNewError or OutboxUnavailableError."""

    def now(self) -> int:
        """Return the time in epoch ms, by the clock that all relays here share."""

    async def close(self) -> None:
        """Finish the writes under way and let go of the database. Idempotent."""

    def on_ready(self, wake: Callable[[], None]) -> None:
        """Call wake, in the event loop, whenever something may have become due."""

    async def put(self, new_lead: NewLead) -> InsertResult:
        """Commit a lead, or say which earlier one it repeats.

        Raises UnstorableError when an id, a key or the event's name holds a lone
        surrogate or NUL; the person's fields may hold anything.
        """

    async def import_lead(
        self, imported: ImportedLead, *, dry: bool = False
    ) -> InsertResult:
        """Commit a lead of another ledger; a DUPLICATE if its id or its key is here.

        ``dry`` changes nothing, and returns what would have become of it.
        """

    async def release(
        self, lead_id: str, new_lead: NewLead | None
    ) -> InsertResult | None:
        """Resolve a HELD lead: put the final new lead in its place, or remove it.

        One transaction. The final lead keeps the held one's id; one that is a
        DUPLICATE removes the held one, at a CONFLICT it stays held. What is not
        held any more is a DUPLICATE of itself. None when the new lead is None, or
        when there is no lead of that id.
        """

    async def claim(
        self, limit: int, now: int, lease_ms: int, pace: Pace | None = None
    ) -> list[Claim]:
        """Lease up to limit due entries, oldest due first; spend their calls.

        With a pace, no more than the shared budget affords. Every fourth lead,
        counted over all claims of this relay, is the newest that was never tried,
        so that a fresh sign-up does not wait behind a backlog.

        Only the oldest open lead of a customer is ever claimed, so that one
        customer's leads leave in the order they came, and the sales after all of
        them; a lease that ran out is claimed like any other due entry. Parked
        entries are not claimed.

        It may return fewer than are due; next_due says whether to claim again. The
        due time of an entry that waits behind another may be moved until it is
        first in line.
        """

    async def begin_recording(
        self, claim: Claim, attempts: Sequence[Attempt], now: int, lease_ms: int
    ) -> bool:
        """Write down that the recording call is about to be sent.

        It is in doubt from then on, and may have claimed Dub's dedupe key. Also
        renews the lease. False when the lease was lost: do not send.
        """

    async def settle(self, claim: Claim, end: Settlement, now: int) -> bool:
        """Write how a delivery ended. False when the lease was lost meanwhile."""

    async def budget(self) -> Budget:
        """The shared budget of calls as it stands."""

    async def throttled(self, plan: int, now: int, until: int) -> None:
        """Lower the shared rate after a 429, and pause all calls until then."""

    async def park_due(self, now: int, limit: int) -> int:
        """Turn up to limit due QUEUED or WAITING entries to PARKED; how many."""

    async def unpark(self, now: int, limit: int) -> int:
        """Turn up to limit PARKED entries to QUEUED, due now; how many.

        Their round of attempts begins anew, as with requeue.
        """

    async def reschedule(self, now: int, latest: int, free_at: int, limit: int) -> int:
        """Make up to limit QUEUED or WAITING entries due that the clock left behind.

        It was set back: their round began after now, or they wait beyond latest,
        which nothing written by now would. What waits for Dub's dedupe key is never
        made due: if it waits twice as long as to free_at, when any key claimed by now
        is free, it waits until then. How many there were.
        """

    async def circuit(self) -> Circuit:
        """The circuit as it stands for every worker on this database."""

    async def set_circuit(self, circuit: Circuit) -> None:
        """Open or close the circuit for every worker on this database."""

    async def confirm(
        self, lead_ids: Sequence[str], now: int, proof: Proof = NO_DETAILS
    ) -> int:
        """Turn DELIVERED entries, and whatever is in doubt, to CONFIRMED; how many.

        With ``proof.ours`` open ones as well that are not in doubt. Those that Dub was
        seen not to have are not missing any more.
        A delivery that is under way can still be settled: its calls are kept for
        the story, the state stays.
        """

    async def show(self, lead_id: str, proof: Proof, doubled_at: int | None) -> None:
        """Keep the events that show a lead, whatever its state; it is not missing."""

    async def of_customers(self, names: Sequence[str]) -> Sequence[LeadRecord]:
        """Every entry of these customers, also under what stands for an erased one."""

    async def unproven(
        self, since: int, until: int, limit: int
    ) -> Sequence[LeadRecord]:
        """Up to limit entries delivered in a time that nothing has confirmed yet.

        Oldest first; without deferred ones, which Dub records as nothing.
        """

    async def miss(self, lead_ids: Sequence[str], now: int) -> int:
        """Note that Dub does not have these, unless they were confirmed; how many."""

    async def resolve(self, lead_id: str, end: Resolution, now: int) -> bool:
        """Settle an UNCONFIRMED or DELIVERED entry that Dub does not show as ours.

        It is not in doubt any more. False when it has moved on meanwhile.
        """

    async def first_at(self) -> int | None:
        """When the first lead that is kept was captured (epoch ms)."""

    async def findings(self) -> Findings:
        """How many entries are missing at Dub or doubled there."""

    async def reconciliation(self) -> str:
        """What was kept of reconciliation: JSON, ``{}`` at first."""

    async def swap_reconciliation(self, old: str, new: str) -> bool:
        """Put new in old's place; False when that is not what stands there now."""

    async def requeue(
        self, lead_id: str, now: int, *, window_ms: int, key_ms: int
    ) -> Requeued:
        """Send a RETRYABLE entry again: at once, or when Dub's dedupe key is free.

        A call of ours that recorded nothing may hold the key, for ``key_ms``. It is
        not sent if a lead of the same dedupe key counts, captured within
        ``window_ms`` of it (0: whenever). A sale is not in doubt then, nor a lead
        whose key has run out: the person who sends it again knows that it did not
        count.
        """

    async def doubt(self, note: str, limit: int) -> int:
        """Take up to limit open leads for ones that may have counted; how many."""

    async def pause(self, *, paused: bool) -> None:
        """Stop delivery for every worker on this database, or let it go on."""

    async def record(self, act: AuditEntry) -> None:
        """Write down what a person did."""

    async def audit_log(self, limit: int) -> list[AuditEntry]:
        """What people did, newest first."""

    async def sample(self, taken: Sample, keep_since: int) -> None:
        """Keep a sample, in the place of an earlier one of the same minute.

        Those of before ``keep_since`` (epoch ms) are dropped.
        """

    async def samples(self, since: int) -> list[Sample]:
        """Every relay's samples since then, oldest first."""

    async def add_sightings(self, fresh: Sequence[Sighting], keep: int) -> None:
        """Add to what was seen before; keep so many of a kind, the last seen."""

    async def sightings(self, kind: str) -> Sequence[Sighting]:
        """Everything that was seen of a kind, the last first."""

    async def spend(self, plan: int, now: int, calls: int) -> None:
        """Take calls out of the shared budget that belong to no claim."""

    async def get(self, lead_id: str) -> LeadRecord | None:
        """One entry, or None."""

    async def attempts(self, lead_id: str) -> list[Attempt]:
        """Every call made for a lead, oldest first."""

    async def list(self, query: Query) -> list[LeadRecord]:
        """Entries, newest first."""

    def scan(self, query: Query) -> AsyncIterator[LeadRecord]:
        """Entries, newest first, a page at a time: memory does not grow with them.

        What comes meanwhile is not given.
        """

    async def counts(self) -> Mapping[LeadStatus, int]:
        """How many entries are in each state that has any."""

    async def oldest_open(self) -> int | None:
        """Since when the oldest open lead is tried (epoch ms).

        Since it came, was sent again by a person, or was imported.
        """

    async def next_due(self) -> int | None:
        """When the next entry becomes due (epoch ms)."""

    async def credits_since(self, since: int) -> Sequence[Credited]:
        """How many leads captured since then each link has in each state; no sales.

        It reads all of them.
        """

    async def reasons(self, status: LeadStatus) -> Mapping[str, int]:
        """How many leads of a state there are for each reason (last_error)."""

    async def alerts(self) -> Sequence[Alert]:
        """Everything that was reported and is not over, or is still to be."""

    async def swap_alert(self, old: Alert | None, new: Alert | None) -> bool:
        """Put new in old's place; None: there is none, there shall be none.

        False when old is not what stands there now: another relay was first.
        """

    async def check_writable(self) -> None:
        """Commit something harmless; raise OutboxUnavailableError if it fails."""

    async def erase_due(self, before: int, limit: int, now: int) -> int:
        """Erase the personal data of up to limit SETTLED leads; how many.

        Those that were captured before then (epoch ms), oldest first. Several
        relays may do so at once.
        """

    async def remove_old(
        self, above: int, before: int, limit: int, *, for_ever: bool
    ) -> Removed:
        """Remove rows of SETTLED leads of before then, of the next so many above a seq.

        A lead counts as old by its capture, its round of attempts and its delivery.
        ``for_ever``: a later repeat is to be a DUPLICATE all the same, as one of a
        sale's invoice always is. Several relays may do so at once.
        """

    async def forget(self, wanted: Wanted, now: int) -> Forgotten:
        """Erase the personal data of one customer's leads, or of one lead.

        What is not settled yet ends: as UNCONFIRMED if it is in doubt, else as
        REJECTED; it cannot be sent any more. A call under way loses its lease.
        """

    async def scrub(self, forgotten: Forgotten) -> Scrubbed:
        """Get erased bytes out of the database's files, as far as it can."""

    async def rekey(self, above: int, limit: int) -> Rekeyed:
        """Write up to limit leads' personal data anew under the first key.

        Those after the one with the seq ``above``; 0 begins. A lead that changes
        meanwhile is left as it is, and counted.
        """
