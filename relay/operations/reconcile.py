"""Compares the ledger with Dub's own list of events, both ways.

Dub's answer to a call is its word; its list shows what counts. It is read by time, a
page a call; each event confirms the lead that it shows. What Dub has taken and the list
does not show is then asked for by itself, and so is what is in doubt: a list that lags,
that shifts while it is read, or that shows a customer who was deleted under another id
must not make a lead missing.

One relay at a time works on a database. How far it came is written down after each
page, so that the next goes on from there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol, TypeVar

from relay.config.settings import Settings
from relay.core.clock import Clock, iso, ticks_ms
from relay.core.dub.events import (
    CLOCKS_MS,
    PAGE,
    DubEvent,
    EventsPage,
    Kind,
    NotNow,
    NotProvable,
    ShownLead,
    fits,
    makes_event,
    pair,
    read_customers,
    read_page,
    source_of,
)
from relay.core.dub.replies import Answer, NoAnswer
from relay.core.dub.retry import AT_WORK_MS, DAY, KEY_HELD_MS, key_free_at
from relay.core.leads import LeadRecord, LeadStatus
from relay.core.signing import sign_call
from relay.delivery.dub_client import DubClient
from relay.observability.logging import get_logger
from relay.observability.metrics import Metrics
from relay.operations.looks import Progress, Report, Sought, Span, joined, sought_of
from relay.outbox.contract import (
    Outbox,
    OutboxUnavailableError,
    Proof,
    Query,
    Resolution,
)
from relay.outbox.records import ERASED, pseudonym

log = get_logger()

T = TypeVar("T")

FIRST_LOOK_MS: Final = 7 * DAY
"""How far back the first look goes: as long as Dub's dedupe key can be helped."""

LEASE_MS: Final = 90_000
"""How long the work is one relay's after its last word: longer than any call."""

AT_ONCE: Final = 200
"""Leads that are asked for by themselves in one look: two calls each, and the pages of
the times of their calls."""

SOON_S: Final = 60.0
"""How soon to look again where a look ended early."""

TRIES: Final = 3
"""Calls for one page: an answer that is lost now and then ends no look."""

MORE: Final = f"{AT_ONCE} leads were asked for by themselves; others follow soon"

MANY: Final = 10_000


class Events(Protocol):
    """The calls to Dub, as reconciliation needs them."""

    async def find_customer(
        self, external_id: str, signature: str
    ) -> Answer | NoAnswer:
        """Send ``GET /customers?externalId=…`` once."""

    async def list_events(
        self, query: Mapping[str, str], signature: str
    ) -> Answer | NoAnswer:
        """Send ``GET /events`` once."""


@dataclass(frozen=True, slots=True)
class ReconcileTerms:
    """What the settings say.

    ``every_s``: 0 is never. ``after_ms``: how old a lead must be before its absence at
    Dub shows anything. ``rate``: calls a second at most to Dub's analytics, ``plan``
    the calls a minute that everything else shares. ``resend``: what Dub has lost is
    sent again.
    """

    every_s: float
    after_ms: int
    rate: float
    plan: int
    resend: bool = False


class _StoppedError(Exception):
    """The look ends here."""

    def __init__(
        self, *, unfinished: str | None = None, denied: str | None = None
    ) -> None:
        super().__init__(unfinished or denied)
        self.unfinished, self.denied = unfinished, denied


class BusyError(Exception):
    """Another relay, or command, is looking just now."""


class Reconciler:
    """Looks every so often; run it as one task, and cancel it at the end."""

    def __init__(
        self,
        outbox: Outbox,
        dub: Events,
        terms: ReconcileTerms,
        *,
        secrets: tuple[str, ...],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._outbox = outbox
        self._dub = dub
        self._terms = terms
        self._secrets = secrets
        self._clock = clock
        self._metrics = metrics
        self._name = os.urandom(8).hex()
        self._stored = "{}"
        self._progress = Progress()
        self._report = Report()
        self._next_call_at = 0.0

    async def run(self) -> None:
        """Go on until cancelled. Trouble with the database or Dub is waited out.

        Not at once: what has just been started has more urgent things to do.
        """
        pause_s = min(self._terms.every_s, SOON_S)
        while self._terms.every_s:
            await asyncio.sleep(pause_s)
            pause_s = await self._look_and_wait()

    async def _look_and_wait(self) -> float:
        """Look unless it is too soon; return how many seconds to wait then."""
        try:
            last = Progress.read(await self._outbox.reconciliation()).report
            if last is not None:
                due = last.at + round(self._pause_after(last) * 1000)
                if (early := due - self._clock()) > 0:
                    return min(early / 1000, SOON_S)
            _log_look(await self.once())
        except OutboxUnavailableError as error:
            log.error("reconcile.database_unavailable", reason=str(error))
            return SOON_S
        except BusyError:
            return SOON_S
        except Exception as error:  # noqa: BLE001 - logged; the next look may do better
            log.error("reconcile.failed", error=type(error).__name__, detail=str(error))
            return min(self._terms.every_s, SOON_S)
        return min(self._terms.every_s, SOON_S)

    def _pause_after(self, report: Report) -> float:
        """Return how many seconds after a look the next is due."""
        every_s = self._terms.every_s
        return min(every_s, SOON_S) if report.unfinished else every_s

    async def once(self, since: int | None = None) -> Report:
        """Look once, from ``since`` (epoch ms) or where the last look ended.

        Raises BusyError while another looks, and OutboxUnavailableError.
        """
        await self._take(since)
        self._report = Report(at=self._clock())
        try:
            for kind in Kind:
                await self._read_on(kind)
            await self._ask_for_unproven()
            await self._ask_for_missing()
            await self._settle_doubts()
        except _StoppedError as stop:
            self._report = replace(
                self._report, not_provable=stop.denied, unfinished=stop.unfinished
            )
        found = await self._outbox.findings()
        self._report = replace(
            self._report, missing=found.missing, doubled=found.doubled
        )
        await self._keep(holder="", leased_until=0, report=self._report)
        self._count_look(self._report)
        return self._report

    def _count(self, **more: int) -> None:
        """Add to the report's numbers."""
        sums = {name: getattr(self._report, name) + n for name, n in more.items()}
        self._report = replace(self._report, **sums)

    def _count_look(self, report: Report) -> None:
        for name in ("checked", "confirmed", "settled"):
            self._metrics.reconciled.labels(name).inc(getattr(report, name))
        self._metrics.reconciled.labels("elsewhere").inc(sum(report.elsewhere.values()))

    # --- Whose turn it is, and how far it came. ---

    async def _take(self, since: int | None) -> None:
        self._stored = await self._outbox.reconciliation()
        known = Progress.read(self._stored)
        now = self._clock()
        if now < known.leased_until <= now + LEASE_MS and known.holder:
            raise BusyError
        if since is not None or known.since is None:
            begin = now - FIRST_LOOK_MS if since is None else since
            since = min(known.since or begin, begin)
            until = {kind.value: begin for kind in Kind}
            known = replace(known, since=since, until=until)
        self._progress = known
        if not await self._swap(holder=self._name, leased_until=now + LEASE_MS):
            raise BusyError

    async def _keep(self, **changes: object) -> None:
        if not await self._swap(**changes):
            raise BusyError

    async def _swap(self, **changes: object) -> bool:
        progress = replace(self._progress, **changes)  # type: ignore[arg-type]
        stored = progress.write()
        same = stored == self._stored
        if not same and not await self._outbox.swap_reconciliation(
            self._stored, stored
        ):
            return False
        self._progress, self._stored = progress, stored
        return True

    async def _still_mine(self) -> None:
        await self._keep(leased_until=self._clock() + LEASE_MS)

    # --- The list, by time. ---

    async def _read_on(self, kind: Kind) -> None:
        """Read a list from where it was read to, up to what may still be on its way.

        With what came late to the last part: the same events again change nothing.
        """
        known_to = self._progress.until[kind.value]
        until = self._clock() - self._terms.after_ms
        if until <= known_to:
            return
        first = await self._outbox.first_at()
        begin = known_to - self._terms.after_ms
        async for events in self._window(kind, begin, until):
            elsewhere = await self._compare(events)
            self._count_elsewhere(
                [one for one in elsewhere if one.at >= known_to], first
            )
            read_to = max([known_to, *(one.at for one in events)])
            await self._read_until(kind, min(read_to, until))
        await self._read_until(kind, until)

    async def _read_until(self, kind: Kind, at: int) -> None:
        await self._keep(
            until={**self._progress.until, kind.value: at},
            leased_until=self._clock() + LEASE_MS,
        )

    async def _window(
        self, kind: Kind, begin: int, until: int, **more: str
    ) -> AsyncIterator[Sequence[DubEvent]]:
        """Read the pages of a time, oldest first: what comes late shifts none away."""
        number, last = 1, False
        while not last:
            query = {
                "event": kind.value,
                "start": iso(begin),
                "end": iso(until),
                "sortOrder": "asc",
                "limit": str(PAGE),
                "page": str(number),
                **more,
            }
            page = await self._ask(partial(self._page, kind, query))
            self._count(unreadable=page.unreadable)
            yield page.events
            number, last = number + 1, page.last

    async def _page(
        self, kind: Kind, query: Mapping[str, str]
    ) -> EventsPage | NotProvable | NotNow:
        await self._analytics_turn()
        return read_page(await self._dub.list_events(query, self._signature()), kind)

    async def _ask(self, ask: Callable[[], Awaitable[T | NotProvable | NotNow]]) -> T:
        """Return what Dub let us read; raise _StoppedError for anything else."""
        found = await ask()
        for _ in range(TRIES - 1):
            if isinstance(found, NotNow):
                await self._still_mine()
                found = await ask()
        if isinstance(found, NotProvable):
            raise _StoppedError(denied=found.reason)
        if isinstance(found, NotNow):
            raise _StoppedError(unfinished=found.reason)
        return found

    async def _compare(self, events: Sequence[DubEvent]) -> Sequence[DubEvent]:
        """Confirm what events show; return those that no lead of ours made."""
        pairing = pair(events, await self._entries_of(events))
        await self._write_down(pairing.shown)
        return pairing.elsewhere

    async def _write_down(self, shown: Iterable[ShownLead]) -> None:
        """Write down what a page shows: together, for they share a commit then."""
        await asyncio.gather(*(self._shown(one) for one in shown))

    async def _entries_of(
        self, events: Iterable[DubEvent]
    ) -> dict[str, list[LeadRecord]]:
        """Find the leads of the events' customers.

        A customer who was deleted at Dub has no id of ours any more: then the click.
        """
        events = list(events)
        names = {one.external_id for one in events if one.external_id is not None}
        by_name: dict[str, list[LeadRecord]] = {name: [] for name in names}
        hashes = {pseudonym(name): name for name in names}
        for entry in await self._outbox.of_customers(sorted(names)):
            customer = entry.lead.customer_external_id
            by_name[hashes.get(customer, customer)].append(entry)
        for event in events:
            if event.external_id is None and event.click_id is not None:
                found = await self._outbox.list(Query(click=event.click_id))
                by_name[event.id] = [one for one in found if fits(event, one)]
        return by_name

    async def _shown(self, shown: ShownLead) -> None:
        """Write down what the list shows of a lead."""
        entry, event = shown.entry, shown.events[0]
        seen = tuple((one.id, one.at) for one in shown.events)
        link = next((one.link for one in shown.events if one.link), None)
        proof = Proof("events", event.id, link, events=seen)
        now = self._clock()
        confirmed = 0
        self._count(checked=1)
        if entry.status is not LeadStatus.CONFIRMED:
            confirmed = await self._outbox.confirm([entry.lead.id], now, proof)
        if confirmed:
            log.info("lead.confirmed", lead=entry.lead.id, by="events")
            self._count(confirmed=1, settled=entry.status is LeadStatus.UNCONFIRMED)
        if shown.doubled or (not confirmed and seen != entry.events):
            doubled_at = now if shown.doubled else None
            await self._outbox.show(entry.lead.id, proof, doubled_at)
            if shown.doubled and entry.doubled_at is None:
                log.error("lead.doubled_at_dub", lead=entry.lead.id, events=len(seen))

    def _count_elsewhere(self, events: Sequence[DubEvent], first: int | None) -> None:
        counted = dict(self._report.elsewhere)
        for event in events:
            source = source_of(event, first).value
            counted[source] = counted.get(source, 0) + 1
        self._report = replace(self._report, elsewhere=counted)

    # --- What the list did not show. ---

    async def _ask_for_unproven(self) -> None:
        """Ask for what Dub has taken and the list has not shown."""
        since = self._progress.since or 0
        until = min(self._progress.until.values()) - self._terms.after_ms
        unproven = await self._outbox.unproven(since, until, AT_ONCE)
        await self._ask_for_taken([one for one in unproven if makes_event(one.lead)])
        if len(unproven) == AT_ONCE:
            raise _StoppedError(unfinished=MORE)

    async def _ask_for_missing(self) -> None:
        """Ask again for what is missing: a list that lags may have it by now."""
        missing = await self._outbox.list(Query(missing=True, limit=MANY))
        missing.sort(key=lambda entry: entry.missing_at or 0)
        until = self._clock() - self._terms.after_ms
        await self._ask_for_taken(
            [one for one in missing[:AT_ONCE] if (one.missing_at or 0) <= until]
        )

    async def _ask_for_taken(self, entries: Sequence[LeadRecord]) -> None:
        sought = [await self._sought(entry) for entry in entries]
        async for entry, _ in self._absent(sought):
            await self._miss(entry)

    async def _miss(self, entry: LeadRecord) -> None:
        now = self._clock()
        waits = entry.status is not LeadStatus.DELIVERED
        if waits or not self._terms.resend or entry.erased_at is not None:
            if await self._outbox.miss([entry.lead.id], now) and not entry.missing_at:
                log.error("lead.missing_at_dub", lead=entry.lead.id)
            return
        log.error("lead.missing_at_dub", lead=entry.lead.id)
        reason = "Dub took this, and its list of events does not have it"
        await self._outbox.resolve(entry.lead.id, _again(entry, now, reason), now)

    async def _settle_doubts(self) -> None:
        """Ask for what is in doubt, once Dub cannot be at work on it any more."""
        sought: list[Sought] = []
        query = Query(status=LeadStatus.UNCONFIRMED, limit=MANY)
        for entry in await self._outbox.list(query):
            readable = entry.erased_at is None and entry.sealed is None
            young = self._is_young(entry.lead.created_at)
            if not readable or young or not makes_event(entry.lead):
                continue
            one = await self._sought(entry)
            if not self._is_young(one.called_until):
                sought.append(one)
            if len(sought) > AT_ONCE:
                break
        async for entry, alike in self._absent(sought[:AT_ONCE]):
            await self._settle_doubt(entry, alike)
        if len(sought) > AT_ONCE:
            raise _StoppedError(unfinished=MORE)

    def _is_young(self, called_at: int) -> bool:
        """Whether Dub's list may not have yet what a call then has counted."""
        return self._clock() < called_at + AT_WORK_MS + self._terms.after_ms

    async def _settle_doubt(self, entry: LeadRecord, alike: Sequence[DubEvent]) -> None:
        now = self._clock()
        if alike:
            reason = "Dub has this customer and event of another click"
            note = f"{reason}: its event {alike[0].id} of {iso(alike[0].at)}."
            end = Resolution(LeadStatus.DUPLICATE, reason, note)
        else:
            reason = "Dub's list of events shows that the call recorded nothing"
            end = _again(entry, now, reason)
        if await self._outbox.resolve(entry.lead.id, end, now):
            log.info("lead.settled", lead=entry.lead.id, status=end.status.value)
            self._count(settled=1)

    async def _absent(
        self, sought: Iterable[Sought]
    ) -> AsyncIterator[tuple[LeadRecord, Sequence[DubEvent]]]:
        """Ask Dub for leads; write down what is there, and yield those that are not.

        Each with those events of its customer that are alike but of another click. It
        is looked for under its customer, and in the times of its calls: a customer who
        was deleted at Dub, or came back, is not found by the first. Leads of one time,
        as those of an outage, share its pages.
        """
        nowhere: list[Sought] = []
        for one in sought:
            alike = await self._alike_of(one)
            if alike:
                self._count(checked=1)
                yield one.entry, alike
            elif alike is not None:
                nowhere.append(one)
        for kind in Kind:
            left = {one.entry.lead.id: one for one in nowhere if one.kind is kind}
            for begin, end in joined(
                span for one in left.values() for span in one.spans
            ):
                await self._look_through(kind, (begin, end), left)
                for one in [one for one in left.values() if one.spans[-1][1] <= end]:
                    del left[one.entry.lead.id]
                    self._count(checked=1)
                    yield one.entry, ()

    async def _alike_of(self, one: Sought) -> Sequence[DubEvent] | None:
        """Return what is alike under a lead's customer; None: the lead is there."""
        alike: list[DubEvent] = []
        only = {one.entry.lead.id}
        for customer_id in await self._customer_ids(one.entry):
            begin, until = one.spans[0][0] - DAY, self._clock() + CLOCKS_MS
            async for events in self._window(
                one.kind, begin, until, customerId=customer_id
            ):
                if await self._shown_among(only, events):
                    return None
                alike += [each for each in events if self._is_alike(one.entry, each)]
        return alike

    async def _look_through(
        self, kind: Kind, span: Span, left: dict[str, Sought]
    ) -> None:
        """Take those leads out that the list shows in a time."""
        begin, end = span
        here = {
            lead_id
            for lead_id, one in left.items()
            if any(begin <= each[0] <= end for each in one.spans)
        }
        if not here:
            return
        async for events in self._window(kind, begin, end):
            for lead_id in await self._shown_among(here, events):
                here.remove(lead_id)
                del left[lead_id]
            if not here:
                return

    async def _shown_among(
        self, lead_ids: Collection[str], events: Sequence[DubEvent]
    ) -> list[str]:
        """Write down which of these leads events show, and return their ids."""
        pairing = pair(events, await self._entries_of(events))
        found = [it for it in pairing.shown if it.entry.lead.id in lead_ids]
        await self._write_down(found)
        await self._still_mine()
        return [shown.entry.lead.id for shown in found]

    def _is_alike(self, entry: LeadRecord, event: DubEvent) -> bool:
        lead = replace(entry.lead, click_id="")
        return entry.lead.sale is None and fits(event, replace(entry, lead=lead))

    async def _sought(self, entry: LeadRecord) -> Sought:
        return sought_of(entry, await self._outbox.attempts(entry.lead.id))

    async def _customer_ids(self, entry: LeadRecord) -> list[str]:
        name = entry.lead.customer_external_id
        if name.startswith(ERASED):
            return []  # what stands for an erased id, Dub does not know
        return await self._ask(partial(self._customers, name))

    async def _customers(self, name: str) -> list[str] | NotProvable | NotNow:
        await self._outbox.spend(self._terms.plan, self._clock(), 1)
        reply = await self._dub.find_customer(name, self._signature())
        return read_customers(reply, name)

    def _signature(self) -> str:
        self._count(calls=1)
        return sign_call(self._secrets, "reconcile", b"", self._clock())

    async def _analytics_turn(self) -> None:
        """Wait until Dub's analytics may be asked again."""
        now = ticks_ms()
        await asyncio.sleep(max(0.0, self._next_call_at - now) / 1000)
        self._next_call_at = max(now, self._next_call_at) + 1000 / self._terms.rate


def _log_look(report: Report) -> None:
    said = log.warning if report.not_provable or report.unfinished else log.info
    said(
        "reconcile.looked",
        checked=report.checked,
        confirmed=report.confirmed,
        settled=report.settled,
        missing=report.missing,
        doubled=report.doubled,
        reason=report.not_provable or report.unfinished,
    )


def _again(entry: LeadRecord, now: int, reason: str) -> Resolution:
    """Send a lead again that Dub has not: once Dub's key is free, if it is held.

    A sale without an invoice has no key.
    """
    sale = entry.lead.sale
    free_at = None
    if sale is None or sale.invoice_id:
        free_at = key_free_at(entry.key_claimed_at, now, KEY_HELD_MS)
    if free_at is None:
        return Resolution(
            LeadStatus.QUEUED, reason, f"{reason}; it is sent again.", now
        )
    note = (
        f"{reason}, but Dub keeps this customer and event locked for a week and would"
        f" ignore it; it is sent again at {iso(free_at)}."
    )
    return Resolution(LeadStatus.WAITING, reason, note, free_at)


READ_TIMEOUT_S: Final = 60.0
"""A page of events may take Dub's analytics longer than a call that tracks."""


def reading_client(settings: Settings) -> DubClient:
    """Return a client that reads Dub's lists; the caller closes it."""
    return DubClient(settings.dub_api_url, settings.dub_api_key, timeout=READ_TIMEOUT_S)


def reconciler(
    settings: Settings, outbox: Outbox, dub: Events, metrics: Metrics
) -> Reconciler:
    """Put together what the settings say."""
    terms = ReconcileTerms(
        every_s=settings.reconcile_every,
        after_ms=round(settings.reconcile_after * 1000),
        rate=settings.reconcile_rate,
        plan=settings.delivery_rate,
        resend=settings.reconcile_resend,
    )
    return Reconciler(
        outbox,
        dub,
        terms,
        secrets=settings.secret,
        clock=outbox.now,
        metrics=metrics,
    )
