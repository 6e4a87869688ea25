"""A lead as it is shown: as JSON, and as sentences for people.

The CLI, the dashboard and the API read leads through this module, so that one
lead reads the same everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from relay.core.clock import iso
from relay.core.dub.track_sale import sale_fields
from relay.core.leads import (
    OPEN,
    RETRYABLE,
    Attempt,
    CreditedLink,
    Lead,
    LeadRecord,
    LeadStatus,
    Sale,
    Step,
    is_missing,
    why_not_again,
)
from relay.outbox.contract import Circuit, Credited

STEP_WORDS: Final = {
    Step.PROVE: "prove the click",
    Step.RECORD: "record the lead",
    Step.LOOK_UP: "look it up",
    Step.SALE: "record the sale",
    Step.REFUND: "take the commission back",
}

CLICK_ORIGINS: Final = {
    "cookie": "the dub_id cookie",
    "clickId": "the caller, as clickId",
    "ticket": "a ticket that the relay signed for the visitor's browser",
    "customer": "nobody: Dub is asked for this customer's earlier click",
    "query": "?dub_id= of the landing page",
    "import": "the ledger that it was imported from",
    "companion": "the relay's signed click cookie; dub_id itself was lost",
}
"""What ``origin["click"]`` means, in words."""

PAUSED: Final = (
    "Delivery was paused by a person, in the dashboard. It is sent when delivery is"
    " resumed there."
)

CLICK_OF_SALE: Final = "nobody: a sale goes to the click of its customer's lead"

_RETRY: Final = "`dub-relay leads retry {id}` sends it"

_ENDS: Final = {
    LeadStatus.HELD: (
        "Nothing happens by itself: the sign-up was passed on, but the relay ended"
        f" before the site's answer was known. If the site has this customer, {_RETRY}."
    ),
    LeadStatus.DELIVERED: (
        "Nothing more: Dub has taken it. Dub's own list of events, or its lead.created"
        " webhook, turns it into confirmed."
    ),
    LeadStatus.CONFIRMED: "Nothing more: Dub has confirmed it.",
    LeadStatus.DUPLICATE: (
        "Nothing more: Dub had this customer and event before the relay's first call."
    ),
    LeadStatus.UNCONFIRMED: (
        "Dub's own list of events settles it, or its webhook: a call that got no answer"
        " may or may not have counted. Where the list cannot be read (`dub-relay check`"
        f" says so), a person decides: if Dub does not show it, {_RETRY} again."
    ),
    LeadStatus.REJECTED: (
        f"Nothing happens by itself: this will not pass as it is. After a fix, {_RETRY}"
        " again."
    ),
}

_SALE_ENDS: Final = {
    **_ENDS,
    LeadStatus.UNCONFIRMED: (
        "Dub's own list of events settles it: a call that got no answer may or may not"
        " have counted, and Dub would count a sale without an invoice id twice. Where"
        " the list cannot be read (`dub-relay check` says so), a person decides: if Dub"
        f" does not show it, {_RETRY} again."
    ),
}


_ENDS_BY_KIND: Final = {
    "lead": _ENDS,
    "sale": _SALE_ENDS,
    "refund": {**_ENDS, LeadStatus.DELIVERED: "Nothing more: the refund is settled."},
}


def entry_json(entry: LeadRecord) -> dict[str, Any]:
    """Return an entry as ``leads list --json`` has it: of a person only ids."""
    lead = entry.lead
    return {
        "id": lead.id,
        "kind": kind_of(lead),
        "status": entry.status.value,
        "source": lead.source,
        "clickId": lead.click_id,
        "eventName": lead.event_name,
        "customerExternalId": lead.customer_external_id,
        "mode": lead.mode.value,
        "createdAt": iso(lead.created_at),
        "attempts": entry.attempts,
        "lastError": entry.last_error,
        "nextAttemptAt": _iso_or_none(next_attempt_at(entry)),
        "deliveredAt": _iso_or_none(entry.delivered_at),
        "notes": list(lead.notes),
        **link_json(entry.link),
        "dubEventId": entry.event_id,
        "confirmedBy": entry.confirmed_by,
        "missingAtDubAt": _iso_or_none(entry.missing_at),
        "doubledAtDubAt": _iso_or_none(entry.doubled_at),
    }


def kind_of(lead: Lead) -> str:
    """Say what an entry is: "lead", "sale" or "refund"."""
    if lead.sale is None:
        return "lead"
    return "refund" if lead.sale.refund else "sale"


def link_json(link: CreditedLink | None) -> dict[str, str | None]:
    """Return whom Dub credits, in the keys of ``leads list --json``."""
    return {
        "linkId": link.id if link else None,
        "linkKey": link.key if link else None,
        "linkDomain": link.domain if link else None,
        "partnerId": link.partner_id if link else None,
    }


def sale_json(sale: Sale | None) -> dict[str, Any] | None:
    """Return what makes a lead a sale; None where it is none."""
    if sale is None:
        return None
    return {**sale_fields(sale), "leadEventName": sale.lead_event_name}


EXPORT_FIELDS: Final = (
    *("id", "status", "source", "createdAt", "clickId", "eventName"),
    *("customerExternalId", "customerName", "customerEmail", "customerAvatar"),
    *("mode", "eventQuantity", "metadata", "attempts", "lastError"),
    *("nextAttemptAt", "deliveredAt", "erasedAt", "notes", "kind", "sale"),
    *("linkId", "linkKey", "linkDomain", "partnerId", "dubEventId", "confirmedBy"),
    *("missingAtDubAt", "doubledAtDubAt"),
)
"""Fields of an export, in this order."""

SALE_COLUMNS: Final = (
    *("amount", "currency", "paymentProcessor", "invoiceId", "leadEventName"),
)
"""What stands in the place of ``sale`` where a cell holds one value."""

_CREDIT_COLUMNS: Final = EXPORT_FIELDS[EXPORT_FIELDS.index("linkId") :]

EXPORT_COLUMNS: Final = (
    *EXPORT_FIELDS[: EXPORT_FIELDS.index("sale")],
    *SALE_COLUMNS,
    *_CREDIT_COLUMNS,
)
"""Columns of an export as a table; new ones come last."""


FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What makes a spreadsheet run a cell (OWASP, "CSV Injection"); a ' goes before it."""


def export_json(entry: LeadRecord) -> dict[str, Any]:
    """Return an entry as ``leads export`` writes it, personal fields included."""
    document = {**entry_json(entry), **_person_json(entry)}
    return {name: document[name] for name in EXPORT_FIELDS}


def export_row(entry: LeadRecord) -> list[Any]:
    """Return an entry as a row of :data:`EXPORT_COLUMNS`."""
    document = export_json(entry)
    document |= document["sale"] or {}
    return [document.get(name) for name in EXPORT_COLUMNS]


def _person_json(entry: LeadRecord) -> dict[str, Any]:
    lead = entry.lead
    return {
        "customerName": lead.customer_name,
        "customerEmail": lead.customer_email,
        "customerAvatar": lead.customer_avatar,
        "eventQuantity": lead.event_quantity,
        "metadata": None if lead.metadata is None else dict(lead.metadata),
        "sale": sale_json(lead.sale),
        "erasedAt": _iso_or_none(entry.erased_at),
    }


def attempt_json(attempt: Attempt) -> dict[str, Any]:
    """Return one call to Dub and its answer."""
    return {
        "at": iso(attempt.at),
        "step": attempt.step.value,
        "durationMs": attempt.duration_ms,
        "httpStatus": attempt.http_status,
        "code": attempt.code,
        "outcome": attempt.outcome,
    }


def story_json(
    entry: LeadRecord, attempts: Sequence[Attempt], circuit: Circuit, now: int
) -> dict[str, Any]:
    """Return the whole story of a lead, the person's own fields included."""
    return {
        **entry_json(entry),
        **_person_json(entry),
        "origin": dict(entry.lead.origin),
        "inDoubt": entry.in_doubt,
        "history": [attempt_json(attempt) for attempt in attempts],
        "next": next_step(entry, circuit, now),
    }


def next_attempt_at(entry: LeadRecord) -> int | None:
    """Return when the next call is due (epoch ms); None if none is planned.

    A lead that is being sent has a lease's end there, which is no attempt.
    """
    planned = entry.status in (LeadStatus.QUEUED, LeadStatus.WAITING)
    return entry.due_at if planned else None


def next_step(entry: LeadRecord, circuit: Circuit, now: int) -> str:
    """Say in a sentence what happens next to this lead, and when."""
    if entry.erased_at is not None:
        return "Nothing more: the personal data was erased, and it cannot be sent."
    if circuit.paused and entry.status in OPEN - {LeadStatus.SENDING}:
        return PAUSED
    if entry.status is LeadStatus.PARKED or (circuit.open and _is_line(entry)):
        return _circuit_sentence(entry, circuit)
    if entry.status is LeadStatus.SENDING:
        return (
            "A call to Dub is under way. If its relay died, another one takes the"
            f" lead up after {_when(entry.due_at, now)}."
        )
    if _is_line(entry):
        return _line_sentence(entry, now)
    return _end_sentence(entry)


def _end_sentence(entry: LeadRecord) -> str:
    if is_missing(entry):
        return (
            "Nothing happens by itself: Dub took it, and its own list of events does"
            f" not have it. {_RETRY.format(id=entry.lead.id)} again once Dub's dedupe"
            " key is free; with reconcile.resend the relay does."
        )
    if entry.status in RETRYABLE and (reason := why_not_again(entry)) is not None:
        return f"Nothing happens by itself: the lead {reason}."
    ends = _ENDS_BY_KIND[kind_of(entry.lead)]
    return ends[entry.status].format(id=entry.lead.id)


def click_origin(entry: LeadRecord) -> str:
    """Say where the click id came from."""
    told_by = entry.lead.origin.get("click", "")
    if entry.lead.sale and not entry.lead.click_id:
        return CLICK_OF_SALE
    if not told_by and not entry.lead.click_id:
        told_by = "customer"
    return CLICK_ORIGINS.get(told_by, told_by or "not written down")


def sale_words(sale: Sale) -> str:
    """Describe a sale in a line. How many decimals a currency has, Dub knows."""
    back = {
        None: "a refund of ",
        "part": "a part refunded: ",
        "dispute": "a dispute of ",
    }
    what = back[sale.by_hand] if sale.refund else ""
    parts = [f"{what}{sale.amount} {sale.currency} (in its smallest unit)"]
    parts += [f"invoice {sale.invoice_id}" if sale.invoice_id else "no invoice id"]
    parts += [f"paid by {sale.payment_processor}"]
    if sale.lead_event_name:
        parts += [f"after the lead “{sale.lead_event_name}”"]
    return ", ".join(parts)


def credit_words(link: CreditedLink | None) -> str | None:
    """Say whose link a lead counts for; None where Dub has not said it."""
    if link is None:
        return None
    whose = f", of partner {link.partner_id}" if link.partner_id else ""
    return f"{link.name} ({link.id}){whose}"


def events_words(entry: LeadRecord) -> str | None:
    """Say what Dub's own records show of a lead; None where nothing was seen."""
    if entry.missing_at is not None:
        return (
            f"not in Dub's list of events, last looked for at {iso(entry.missing_at)}"
        )
    shown = [f"event {event_id} of {iso(at)}" for event_id, at in entry.events]
    if entry.doubled_at is not None:
        return f"COUNTED TOO OFTEN: {', '.join(shown)}"
    return ", ".join(shown) or entry.event_id


CREDIT_COLUMNS: Final = (
    *("partnerId", "link", "linkId", "signUps", "delivered", "confirmed", "inDoubt"),
    *("rejected", "other"),
)
"""Columns of the overview by partner and link."""

_COLUMN_OF: Final = {
    LeadStatus.DELIVERED: "delivered",
    LeadStatus.CONFIRMED: "confirmed",
    LeadStatus.UNCONFIRMED: "inDoubt",
    LeadStatus.REJECTED: "rejected",
}


def credit_overview(counted: Iterable[Credited]) -> list[dict[str, str | int | None]]:
    """Return a row of :data:`CREDIT_COLUMNS` for each link, most sign-ups first.

    Leads that Dub has not credited to a link stand in a row without one.
    """
    rows: dict[CreditedLink | None, dict[str, Any]] = {}
    for link, status, leads in counted:
        row = rows.setdefault(link, dict.fromkeys(CREDIT_COLUMNS[3:], 0))
        row["signUps"] += leads
        row[_COLUMN_OF.get(status, "other")] += leads
    named = [
        {
            "partnerId": link.partner_id if link else None,
            "link": link.name if link else None,
            "linkId": link.id if link else None,
            **row,
        }
        for link, row in rows.items()
    ]
    return sorted(named, key=lambda row: (-row["signUps"], str(row["linkId"])))


def cookie_story(entry: LeadRecord) -> str | None:
    """Say who set the click cookie and when, None where no cookie took part."""
    origin = entry.lead.origin
    told_by, landed = origin.get("click"), origin.get("landed")
    if told_by not in ("cookie", "companion"):
        return None
    if landed is None:
        return (
            "The cookie was there at the sign-up. The relay knows of no landing: a"
            " script on the page set it, or another server."
        )
    set_by = f"The relay saw the landing at {landed} and set the cookie as a server"
    if told_by == "companion":
        return f"{set_by}. It was lost since then, and restored from the companion."
    return f"{set_by}; it was still there at the sign-up."


def span(milliseconds: int) -> str:
    """Write a length of time roughly, as a person says it: "4 min"."""
    seconds = max(milliseconds, 0) / 1000
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _is_line(entry: LeadRecord) -> bool:
    return entry.status in (LeadStatus.QUEUED, LeadStatus.WAITING)


def _line_sentence(entry: LeadRecord, now: int) -> str:
    if entry.due_at is None or entry.due_at <= now:
        return (
            "It is due: it goes as soon as a relay is free, after the customer's"
            " earlier leads."
        )
    if entry.status is LeadStatus.QUEUED and not entry.attempts:
        # A claim found another in front: only then is a lead nobody tried due later.
        return (
            "It waits behind an earlier lead of this customer, which `dub-relay leads"
            f" list --customer {entry.lead.customer_external_id}` shows, and goes when"
            f" that one has ended; that is looked at again at"
            f" {_when(entry.due_at, now)}."
        )
    return f"It is tried again at {_when(entry.due_at, now)}."


def _circuit_sentence(entry: LeadRecord, circuit: Circuit) -> str:
    reason = (circuit.reason or entry.last_error or "no reason kept").rstrip(".")
    if circuit.open and not circuit.parks:
        probe = f", the next at {iso(circuit.probe_at)}" if circuit.probe_at else ""
        return f"Dub is down ({reason}); one probe at a time finds out{probe}."
    if not circuit.open:
        return "Delivery goes on: it is sent as soon as a relay is free."
    probe = (
        f" The next probe goes at {iso(circuit.probe_at)}." if circuit.probe_at else ""
    )
    return (
        f"Delivery waits for a person: {reason}.{probe} Once a probe passes, it goes"
        " on by itself."
    )


def _when(at: int | None, now: int) -> str:
    return f"{iso(at)} (in {span(at - now)})" if at is not None else "some time"


def _iso_or_none(at: int | None) -> str | None:
    return None if at is None else iso(at)
