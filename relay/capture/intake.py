"""The end of every source: fields become a lead, and the lead is committed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Final

from relay.core.clock import (
    Clock,
    new_lead_id,
)
from relay.core.dub.refunds import refund_key
from relay.core.dub.track_lead import (
    InvalidFieldError,
    LeadFields,
    dedupe_key,
    lead_of,
    sanitise,
)
from relay.core.dub.track_sale import sale_key
from relay.core.leads import Lead, LeadStatus, Mode
from relay.observability.logging import get_logger
from relay.observability.metrics import Metrics
from relay.outbox.contract import (
    Inserted,
    InsertResult,
    NewLead,
    Outbox,
    OutboxUnavailableError,
    Query,
)

log = get_logger()

DAY_MS: Final = 86_400_000

KNOWN_BY: Final = 20
"""How many of a customer's leads are looked at to see whether one counts."""


Stamp = Callable[[str, Mapping[str, str]], Mapping[str, str]]
"""Adds to a lead's origin what names the trace it began in; gets its id first."""


@dataclass(frozen=True, slots=True)
class Capture:
    """A sign-up as its source saw it, its fields already sanitised.

    ``click_id`` is "" for a customer whose earlier click is meant. A sale has
    ``fields.sale``, and a click id only where no lead came before it.
    """

    source: str
    click_id: str
    fields: LeadFields
    notes: Sequence[str] = ()
    origin: Mapping[str, str] = field(default_factory=dict)
    idempotency_key: str | None = None
    body_hash: bytes | None = None


class Intake:
    """Commits leads to the outbox, counts them and says so in the log."""

    def __init__(
        self,
        outbox: Outbox,
        *,
        dedupe_days: int,
        clock: Clock,
        metrics: Metrics,
        stamp: Stamp | None = None,
    ) -> None:
        self._outbox = outbox
        self._dedupe_ms = dedupe_days * DAY_MS
        self._clock = clock
        self._metrics = metrics
        self._stamp = stamp
        # Looking a child up by its labels costs more than counting.
        self._captured = cache(metrics.captured.labels)

    async def take(self, capture: Capture) -> InsertResult:
        """Commit a lead; raise OutboxUnavailableError if that was not possible."""
        return await self.commit(self.new_lead(capture))

    async def commit(self, new_lead: NewLead, held: str | None = None) -> InsertResult:
        """Commit a new lead, count it and say so; ``held`` is its earlier id."""
        source = new_lead.lead.source
        started = time.perf_counter()
        try:
            result = await self.store(new_lead, held)
        except OutboxUnavailableError as error:
            self.count(source, "unavailable")
            log.error("lead.not_stored", source=source, reason=str(error))
            raise
        self._metrics.commit.observe(time.perf_counter() - started)
        if result.outcome is not Inserted.NEW:
            self.count(source, result.outcome.value)
            log.info(
                f"lead.repeated_{result.outcome}", lead=result.lead_id, source=source
            )
        elif new_lead.status is LeadStatus.REJECTED:
            self.count(source, "rejected")
            log.warning("lead.rejected", lead=result.lead_id, reason=new_lead.reason)
        else:
            self.count(source, "new")
            log.info("lead.queued", lead=result.lead_id, source=source)
        return result

    async def store(self, new_lead: NewLead, held: str | None) -> InsertResult:
        """Put a new lead into the outbox, in the place of the one that was held."""
        if held is None:
            return await self._outbox.put(new_lead)
        # Whether it is there, nobody may know: the answer to a commit can be lost.
        result = await self._outbox.release(held, new_lead)
        return result or await self._outbox.put(replace(new_lead, as_held=False))

    async def knows(self, customer: str) -> bool:
        """Return whether this customer has a lead or a sale that was not rejected."""
        entries = await self._outbox.list(Query(customer=customer, limit=KNOWN_BY))
        return any(
            entry.status is not LeadStatus.REJECTED and not _is_refund(entry.lead)
            for entry in entries
        )

    async def hold(self, new_lead: NewLead) -> None:
        """Store a sign-up before it is forwarded."""
        held = replace(new_lead, dedupe_since=None, status=LeadStatus.HELD, reason=None)
        await self._outbox.put(held)

    async def drop(self, held: str) -> None:
        """Forget a held sign-up: the site did not take it."""
        await self._outbox.release(held, None)

    def unattributed(self, source: str) -> None:
        """Count a sign-up that no click led to. Nothing is stored."""
        self.count(source, "unattributed")
        log.info("signup.unattributed", source=source)

    def count(self, source: str, result: str) -> None:
        """Count a sign-up by its source and what became of it."""
        self._captured(source, result).inc()

    def lead(self, capture: Capture, lead_id: str | None = None) -> Lead:
        """Make the lead of a capture, as of now."""
        now = self._clock()
        lead_id = lead_id or new_lead_id(now)
        origin = capture.origin
        if self._stamp is not None:
            origin = self._stamp(lead_id, origin)
        return lead_of(
            capture.fields,
            id=lead_id,
            source=capture.source,
            click_id=capture.click_id,
            created_at=now,
            notes=tuple(capture.notes),
            origin=origin,
        )

    def new_lead(self, capture: Capture, lead_id: str | None = None) -> NewLead:
        """Make the new lead of a capture, as of now."""
        lead = self.lead(capture, lead_id)
        key, since = self._counted_once(lead)
        return NewLead(
            lead,
            dedupe_key=key,
            dedupe_since=since,
            idempotency_key=capture.idempotency_key,
            body_hash=capture.body_hash,
        )

    def drafted(
        self,
        source: str,
        fields: Mapping[str, object],
        problem: str | None,
        notes: Sequence[str],
        *,
        click_id: str,
        origin: Mapping[str, str],
        lead_id: str | None = None,
    ) -> NewLead:
        """Make the new lead of a rule's draft, which may be kept only to be explained.

        ``fields`` are as they were found, under Dub's names; with a ``problem`` it is
        rejected. ``lead_id`` is the one that it was held under.
        """
        if problem is None:
            try:
                clean, left_out = sanitise(fields, lenient_quantity=True)
            except InvalidFieldError as error:
                problem = error.issue.text
            else:
                capture = Capture(source, click_id, clean, (*notes, *left_out), origin)
                return self.new_lead(capture, lead_id)
        salvaged = _salvaged(fields, source, click_id, origin, notes)
        return NewLead(
            self.lead(salvaged, lead_id),
            dedupe_key="",
            dedupe_since=None,
            status=LeadStatus.REJECTED,
            reason=problem,
        )

    def _counted_once(self, lead: Lead) -> tuple[str, int | None]:
        """Say what this repeats, and from when on earlier ones count.

        An invoice is one for ever; a sale without one repeats nothing.
        """
        if lead.sale is not None and lead.sale.refund:
            return refund_key(lead.sale), 0
        if lead.sale is not None:
            return sale_key(lead.sale), 0 if lead.sale.invoice_id else None
        deferred = lead.mode is Mode.DEFERRED
        key = dedupe_key(lead.customer_external_id, lead.event_name, deferred=deferred)
        # 0 days means for ever: every earlier lead counts.
        return key, lead.created_at - self._dedupe_ms if self._dedupe_ms else 0


_UNKNOWN: Final = "unknown"
"""Stands in for a required field while a held sign-up's answer is not known."""


def _salvaged(
    fields: Mapping[str, object],
    source: str,
    click_id: str,
    origin: Mapping[str, str],
    notes: Sequence[str],
) -> Capture:
    """Make a capture out of whatever fields are usable, the others blank."""
    blank = {"eventName": _UNKNOWN, "customerExternalId": _UNKNOWN}
    usable = dict(fields)
    try:
        clean, left_out = sanitise(blank | usable, lenient_quantity=True)
    except InvalidFieldError:
        usable = {
            name: value
            for name, value in fields.items()
            if _is_usable(blank | {name: value})
        }
        clean, left_out = sanitise(blank | usable, lenient_quantity=True)
    return Capture(
        source, click_id, _unblanked(clean, usable), (*notes, *left_out), origin
    )


def _is_usable(fields: Mapping[str, object]) -> bool:
    try:
        sanitise(fields, lenient_quantity=True)
    except InvalidFieldError:
        return False
    return True


def _unblanked(clean: LeadFields, usable: Mapping[str, object]) -> LeadFields:
    event = clean.event_name if "eventName" in usable else ""
    customer = clean.customer_external_id if "customerExternalId" in usable else ""
    return replace(clean, event_name=event, customer_external_id=customer)


def _is_refund(lead: Lead) -> bool:
    return lead.sale is not None and lead.sale.refund
