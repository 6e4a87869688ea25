"""``POST /track/sale``: a sale of a known customer, or a direct one by its click."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from relay.core.dub.track_lead import InvalidFieldError
from relay.core.dub.track_sale import sale_fields, validate_sale
from relay.sandbox.dub import DEDUPE_MS, NOTHING, Around, Dub, customer_json
from relay.sandbox.model import Customer, RecordedLead, RecordedSale, RefusalError

_DIRECT_LEAD: Final = "Direct sale tracking lead event"
"""The event that Dub gives to the lead that a direct sale makes."""

RATES: Final[Mapping[str, float]] = {"eur": 0.8, "gbp": 0.5, "jpy": 125.0}
"""What a dollar costs here. Dub keeps amounts in dollars, by the rates of the day;
those of a currency without a rate stay as they are."""

_WHOLE: Final = frozenset(
    {"bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga"}
    | {"pyg", "rwf", "ugx", "vnd", "vuv", "xaf", "xof", "xpf"}
)
"""Currencies without a hundredth (docs.stripe.com/currencies#zero-decimal)."""


@dataclass(frozen=True, slots=True)
class SaleAnswer:
    """What track/sale answers, and what it recorded: a direct sale its lead too."""

    body: Mapping[str, Any]
    recorded: tuple[RecordedLead | RecordedSale, ...] = ()


def track_sale(dub: Dub, body: object, around: Around = NOTHING) -> SaleAnswer:
    """Record a sale from a parsed body; raise RefusalError.

    A sale of nobody known answers 200 with nulls and counts nothing. Only
    ``invoiceId`` makes a repeat harmless, for seven days.
    """
    sale = _checked_sale(body)
    until, earlier = dub.invoices.get(sale["invoiceId"], (0, {}))
    if dub.clock() < until:
        return SaleAnswer(earlier)
    nothing = {"eventName": sale["eventName"], "customer": None, "sale": None}
    known = dub.customers.get(sale["customerExternalId"])
    if known is None and not sale["clickId"]:
        return SaleAnswer(nothing)
    made: tuple[RecordedLead, ...] = ()
    if known is not None:
        lead = _latest_lead(dub, known, sale)
    else:
        lead = _direct(dub, sale, around)
        made = (lead,)
    if sale["amount"] == 0:
        return SaleAnswer(nothing, made)
    recorded = _record(dub, lead, sale)
    answer = _body(recorded)
    if sale["invoiceId"] is not None:
        dub.invoices[sale["invoiceId"]] = (dub.clock() + DEDUPE_MS, answer)
    return SaleAnswer(answer, (*made, recorded))


def in_dollars(amount: int, currency: str) -> tuple[int, str]:
    """Convert an amount as Dub does; of a currency without a rate it stays as it is."""
    rate = RATES.get(currency)
    if rate is None:
        return amount, currency
    return round(amount / rate * (100 if currency in _WHOLE else 1)), "usd"


def _record(dub: Dub, lead: RecordedLead, sale: dict[str, Any]) -> RecordedSale:
    """Count a sale for the link that its lead counts for."""
    amount, currency = in_dollars(sale["amount"], sale["currency"])
    recorded = RecordedSale(
        id=dub.new_id(),
        customer=lead.customer,
        event_name=sale["eventName"],
        click=lead.click,
        amount=amount,
        currency=currency,
        processor=sale["paymentProcessor"],
        invoice_id=sale["invoiceId"],
        metadata=sale["metadata"],
        at=dub.clock(),
    )
    dub.sales.append(recorded)
    customer = lead.customer
    customer.sales += 1
    customer.sale_amount += amount
    customer.first_sale_at = customer.first_sale_at or recorded.at
    dub.changed()
    return recorded


def _body(sale: RecordedSale) -> dict[str, Any]:
    return {
        "eventName": sale.event_name,
        "customer": {"id": sale.customer.id, **customer_json(sale.customer)},
        "sale": {
            "amount": sale.amount,
            "currency": sale.currency,
            "paymentProcessor": sale.processor,
            "invoiceId": sale.invoice_id,
            "metadata": sale.metadata,
        },
    }


def _direct(dub: Dub, sale: dict[str, Any], around: Around) -> RecordedLead:
    """Make the customer and the lead of a sale that is the first of its click."""
    click = dub.find_click(sale["clickId"], around.click_delay, "sale")
    customer = dub.add_customer(
        click,
        sale["customerExternalId"],
        name=sale["customerName"],
        email=sale["customerEmail"],
        avatar=sale["customerAvatar"],
    )
    return dub.add_lead(
        RecordedLead(
            id=dub.new_id(),
            customer=customer,
            event_name=sale["leadEventName"] or _DIRECT_LEAD,
            click=click,
            quantity=1,
            metadata=sale["metadata"],
            at=dub.clock(),
            signed=around.signed,
            visible_at=dub.clock(),
        )
    )


def _latest_lead(dub: Dub, customer: Customer, sale: dict[str, Any]) -> RecordedLead:
    """Find the lead that a known customer's sale belongs to, by name if it says one."""
    dub.require_customers_link(customer)
    event, now = sale["leadEventName"], dub.clock()
    for lead in reversed(dub.leads):
        named = event in (None, lead.event_name)
        if lead.customer is customer and named and lead.visible_at <= now:
            return lead
    raise RefusalError(
        "not_found",
        f"Lead event not found for externalId: {customer.external_id} "
        f"and leadEventName: {event or 'null'}",
    )


def _checked_sale(body: object) -> dict[str, Any]:
    """Check a sale's fields; defaults filled in."""
    try:
        fields = validate_sale(body)
    except InvalidFieldError as error:
        raise RefusalError(error.issue.error_code, error.issue.text) from None
    assert fields.sale is not None  # noqa: S101 - what validate_sale promises
    return {
        **sale_fields(fields.sale),
        "leadEventName": fields.sale.lead_event_name,
        "customerExternalId": fields.customer_external_id,
        "eventName": fields.event_name,
        "metadata": fields.metadata,
        "clickId": fields.click_id,
        "customerName": fields.customer_name,
        "customerEmail": fields.customer_email,
        "customerAvatar": fields.customer_avatar,
    }
