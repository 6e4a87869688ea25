"""Dub's own list of what it counted, and which of our leads that shows. Pure.

``GET /events?event=leads|sales`` (``docs/reconciliation.md``) is Dub's record after the
fact: it lags behind its answers, an event with a quantity stands there so many times,
and a customer who was deleted at Dub stands there under Dub's own id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from relay.core import jsontext
from relay.core.dub.credit import credited_link
from relay.core.dub.replies import Answer, NoAnswer, error_of
from relay.core.dub.track_lead import fold_event
from relay.core.leads import CreditedLink, Lead, LeadRecord, LeadStatus, Mode

PAGE: Final = 200
"""Events asked for at once: some 500 KB of JSON, which takes some milliseconds to read.
Dub gives a thousand at most."""

ONE_CALL_MS: Final = 60_000
"""Events of one call carry times of one moment; of two calls, times of two."""

CLOCKS_MS: Final = 3_600_000
"""What our clock and Dub's may disagree by."""


class Kind(StrEnum):
    """Which list of events, in Dub's words."""

    LEADS = "leads"
    SALES = "sales"


class Source(StrEnum):
    """Where an event that no lead of ours made comes from, as far as it shows."""

    BEFORE = "before the relay"
    STRIPE = "Stripe"
    OTHER = "another way in"


@dataclass(frozen=True, slots=True)
class DubEvent:
    """A lead or a sale that Dub has counted. ``at`` is epoch ms by Dub's clock.

    ``customer_id`` is Dub's own id (``cus_…``); ``external_id`` ours, None where the
    customer was deleted at Dub or never had one.
    """

    kind: Kind
    id: str
    at: int
    name: str
    click_id: str | None = None
    customer_id: str | None = None
    external_id: str | None = None
    link: CreditedLink | None = None
    invoice_id: str | None = None
    amount: int | None = None
    processor: str | None = None


@dataclass(frozen=True, slots=True)
class EventsPage:
    """One page; ``unreadable`` counts elements that are no event.

    ``last``: no more. A short page need not be the last: Dub leaves the events of
    links out that were deleted, after it has counted them for the page.
    """

    events: tuple[DubEvent, ...]
    unreadable: int = 0
    last: bool = True


@dataclass(frozen=True, slots=True)
class NotProvable:
    """Dub does not let us read its events; the sentence says why."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotNow:
    """Dub gave no answer that can be read; later it may."""

    reason: str


def read_page(
    reply: Answer | NoAnswer, kind: Kind
) -> EventsPage | NotProvable | NotNow:
    """Read the answer of ``GET /events``."""
    refused = _refused(reply)
    if refused is not None:
        return refused
    found = _elements(reply)
    if found is None:
        return NotNow("Dub's list of events could not be read")
    events = [_event(kind, each) for each in found]
    readable = tuple(each for each in events if each is not None)
    return EventsPage(readable, len(events) - len(readable), not found)


def read_customers(
    reply: Answer | NoAnswer, external_id: str
) -> list[str] | NotProvable | NotNow:
    """Read Dub's ids of the customers of ``GET /customers?externalId=``.

    Dub's database compares without regard to case: only the very same id is ours.
    """
    refused = _refused(reply)
    if refused is not None:
        return refused
    found = _elements(reply)
    if found is None:
        return NotNow("Dub's list of customers could not be read")
    return [
        str(each["id"])
        for each in found
        if isinstance(each, Mapping)
        and each.get("externalId") == external_id
        and isinstance(each.get("id"), str)
    ]


def _refused(reply: Answer | NoAnswer) -> NotProvable | NotNow | None:
    if isinstance(reply, NoAnswer):
        return NotNow(reply.reason)
    if reply.status == 200:
        return None
    error = error_of(reply)
    if error.status in (401, 403) and error.code is not None:
        return NotProvable(error.message)
    return NotNow(f"Dub answered HTTP {error.status} {error.message}".rstrip())


def _elements(reply: Answer | NoAnswer) -> list[Any] | None:
    try:
        found = jsontext.decode(reply.body) if isinstance(reply, Answer) else None
    except ValueError:
        return None
    return found if isinstance(found, list) else None


def _event(kind: Kind, said: object) -> DubEvent | None:
    if not isinstance(said, Mapping):
        return None
    id_, name = _text(said.get("eventId")), _text(said.get("eventName"))
    at = epoch_ms(said.get("timestamp"))
    if id_ is None or name is None or at is None:
        return None
    click, customer, sale = (_part(said, key) for key in ("click", "customer", "sale"))
    customer_id, external_id = customer.get("id"), customer.get("externalId")
    amount = sale.get("amount")
    return DubEvent(
        kind,
        id_,
        at,
        name,
        click_id=_text(click.get("id")),
        customer_id=_text(customer_id),
        external_id=None if external_id == customer_id else _text(external_id),
        link=credited_link(_part(said, "link")),
        invoice_id=_text(sale.get("invoiceId")),
        amount=amount if type(amount) is int else None,
        processor=_text(sale.get("paymentProcessor")),
    )


def _part(said: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = said.get(key)
    return part if isinstance(part, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def epoch_ms(stamp: object) -> int | None:
    """Read a time; one without a zone is UTC, as Dub's store writes it."""
    try:
        at = datetime.fromisoformat(str(stamp))
    except ValueError:
        return None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


# --- Which lead an event shows. ---


@dataclass(slots=True)
class ShownLead:
    """A lead, and the events that show it; the first is the one that counts."""

    entry: LeadRecord
    events: list[DubEvent] = field(default_factory=list)

    @property
    def doubled(self) -> bool:
        """Whether Dub counted it more often than it was asked to."""
        known = _quantity(self.entry)
        if known is not None:
            return len(self.events) > known
        times = [event.at for event in self.events]
        return max(times) - min(times) > ONE_CALL_MS


@dataclass(frozen=True, slots=True)
class Pairing:
    """What events show: our leads, and the events that none of them made."""

    shown: tuple[ShownLead, ...]
    elsewhere: tuple[DubEvent, ...]


def makes_event(lead: Lead) -> bool:
    """Return whether Dub lists what it records of a lead, a sale or a refund.

    A refund changes a commission, a sale of nothing is not counted, and a deferred lead
    is recorded as nothing.
    """
    if lead.sale is not None:
        return lead.sale.amount != 0 and not lead.sale.refund
    return lead.mode is not Mode.DEFERRED


def fits(event: DubEvent, entry: LeadRecord) -> bool:
    """Return whether an event may be that lead or sale, its customer aside.

    A lead without a click of its own counts for whichever the customer had.
    """
    lead = entry.lead
    if (event.kind is Kind.SALES) != (lead.sale is not None) or not makes_event(lead):
        return False
    if lead.sale is not None:
        if lead.sale.invoice_id or event.invoice_id:
            return lead.sale.invoice_id == event.invoice_id
        # Dub converts what is not in dollars.
        same = event.amount == lead.sale.amount or lead.sale.currency != "usd"
        return same and fold_event(lead.event_name) == fold_event(event.name)
    return fold_event(lead.event_name) == fold_event(event.name) and lead.click_id in (
        "",
        event.click_id or lead.click_id,
    )


def pair(
    events: Iterable[DubEvent],
    entries_of: Mapping[str, Sequence[LeadRecord]],
) -> Pairing:
    """Find the lead that each event shows.

    ``entries_of`` gives the leads of a customer, by the event's ``external_id``, or by
    its id where it has none. An event goes to the lead whose event it is known to be,
    else to the last one before it that has none yet; one that comes on top of those
    is a double of the last.
    """
    shown: dict[str, ShownLead] = {}
    known = {
        event_id: entry
        for entries in entries_of.values()
        for entry in entries
        for event_id, _ in entry.events
    }
    by_id = {event.id: event for event in events}
    elsewhere = []
    for event in sorted(by_id.values(), key=lambda event: (event.at, event.id)):
        entry = known.get(event.id)
        if entry is None:
            mine = entries_of.get(event.external_id or event.id, ())
            entry = _chosen(event, mine, shown)
        if entry is None:
            elsewhere.append(event)
            continue
        one = shown.setdefault(entry.lead.id, _begun(entry, event.kind))
        if all(seen.id != event.id for seen in one.events):
            one.events.append(event)
        else:
            one.events = [event if seen.id == event.id else seen for seen in one.events]
    return Pairing(tuple(shown.values()), tuple(elsewhere))


def _begun(entry: LeadRecord, kind: Kind) -> ShownLead:
    """Return a lead with the events that showed it before."""
    before = [
        DubEvent(kind, id_, at, entry.lead.event_name) for id_, at in entry.events
    ]
    return ShownLead(entry, before)


_NEVER_SENT: Final = frozenset({LeadStatus.HELD, LeadStatus.REJECTED})
_OF_OTHERS: Final = _NEVER_SENT | {LeadStatus.DUPLICATE}


def _chosen(
    event: DubEvent, entries: Sequence[LeadRecord], shown: Mapping[str, ShownLead]
) -> LeadRecord | None:
    fitting = sorted(
        (e for e in entries if e.status not in _OF_OTHERS and fits(event, e)),
        key=lambda entry: entry.lead.created_at,
    )
    before = [e for e in fitting if e.lead.created_at <= event.at + CLOCKS_MS]
    for entry in reversed(before):
        if _has_room(entry, event, shown.get(entry.lead.id)):
            return entry
    return before[-1] if before else None


def _has_room(entry: LeadRecord, event: DubEvent, shown: ShownLead | None) -> bool:
    seen = _begun(entry, event.kind) if shown is None else shown
    times = [one.at for one in seen.events]
    if not times:
        return True
    known = _quantity(entry)
    if known is None:
        return abs(event.at - times[-1]) <= ONE_CALL_MS
    return len(times) < known


def _quantity(entry: LeadRecord) -> int | None:
    """Return how many events a lead makes; None once that was erased with its data."""
    if entry.lead.sale is not None:
        return 1
    if entry.erased_at is not None or entry.sealed is not None:
        return None
    return entry.lead.event_quantity or 1


def source_of(event: DubEvent, first_lead_at: int | None) -> Source:
    """Return where an event that is not ours comes from.

    ``first_lead_at`` (epoch ms) is when our oldest lead was captured.
    """
    if first_lead_at is None or event.at < first_lead_at - CLOCKS_MS:
        return Source.BEFORE
    by_stripe = event.processor == "stripe" or (event.external_id or "").startswith(
        "cus_"
    )
    return Source.STRIPE if by_stripe else Source.OTHER
