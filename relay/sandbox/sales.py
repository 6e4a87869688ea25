"""``POST /track/sale`` and its browser twin: the simple rules, and the no-ops.

Taken from Dub's behaviour: a sale of nobody known answers 200 with nulls and
counts nothing; only ``invoiceId`` makes a repeat harmless; no currency is
converted here (Dub answers in USD).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from relay.core.dub.fields import InvalidFieldError
from relay.core.dub.track_sale import (
    sale_fields,
    validate_sale,
)
from relay.sandbox.dub import NOTHING, Around, Dub, customer_json
from relay.sandbox.model import (
    Click,
    Customer,
    RecordedLead,
    RecordedSale,
    RefusalError,
)

_DIRECT_LEAD: Final = "Direct sale tracking lead event"
"""The event that Dub gives to the lead that a direct sale makes."""


def track_sale(dub: Dub, body: object, around: Around = NOTHING) -> Mapping[str, Any]:
    """Take a sale from a parsed body; raise RefusalError."""
    sale = _checked(body)
    invoice = sale["invoiceId"]
    if invoice is not None and invoice in dub.invoices:
        return dub.invoices[invoice]
    customer = _customer(dub, sale, around)
    if customer is None or sale["amount"] == 0:
        return {"eventName": sale["eventName"], "customer": None, "sale": None}
    answer = _record(dub, customer, sale)
    if invoice is not None:
        dub.invoices[invoice] = answer
    return answer


def _record(dub: Dub, customer: Customer, sale: dict[str, Any]) -> dict[str, Any]:
    now = dub.clock()
    dub.sales.append(
        RecordedSale(
            id=dub.new_id(),
            customer=customer,
            event_name=sale["eventName"],
            click=customer.click,
            amount=sale["amount"],
            currency=sale["currency"],
            processor=sale["paymentProcessor"],
            invoice_id=sale["invoiceId"],
            metadata=sale["metadata"],
            at=now,
        )
    )
    customer.sales += 1
    customer.sale_amount += sale["amount"]
    customer.first_sale_at = customer.first_sale_at or now
    dub.changed()
    return {
        "eventName": sale["eventName"],
        "customer": {"id": customer.id, **customer_json(customer)},
        "sale": {
            key: sale[key]
            for key in (
                "amount",
                "currency",
                "paymentProcessor",
                "invoiceId",
                "metadata",
            )
        },
    }


def _customer(dub: Dub, sale: dict[str, Any], around: Around) -> Customer | None:
    """Find the customer by its lead, or make one from a direct sale's click."""
    customer = dub.customers.get(sale["customerExternalId"])
    if customer is not None:
        _require_lead(dub, sale)
        return customer
    if not sale["clickId"]:
        return None
    click = dub.find_click(sale["clickId"], around.click_delay)
    return _direct(dub, click, sale, around)


def _direct(dub: Dub, click: Click, sale: dict[str, Any], around: Around) -> Customer:
    customer = dub.add_customer(
        click,
        sale["customerExternalId"],
        name=sale["customerName"],
        email=sale["customerEmail"],
        avatar=sale["customerAvatar"],
    )
    dub.add_lead(
        RecordedLead(
            id=dub.new_id(),
            customer=customer,
            event_name=sale["leadEventName"] or _DIRECT_LEAD,
            click=click,
            quantity=1,
            metadata=None,
            at=dub.clock(),
            signed=around.signed,
            visible_at=dub.clock(),
        )
    )
    return customer


def _require_lead(dub: Dub, sale: dict[str, Any]) -> None:
    external_id, event = sale["customerExternalId"], sale["leadEventName"]
    now = dub.clock()
    for lead in dub.leads:
        mine = lead.customer.external_id == external_id
        if mine and event in (None, lead.event_name) and lead.visible_at <= now:
            return
    raise RefusalError(
        "not_found",
        f"Lead event not found for externalId: {external_id} "
        f"and leadEventName: {event or 'null'}",
    )


def _checked(body: object) -> dict[str, Any]:
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
