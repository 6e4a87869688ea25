"""``POST /track/sale`` and its browser twin: the simple rules, and the no-ops.

Taken from Dub's behaviour: a sale of nobody known answers 200 with nulls and
counts nothing; only ``invoiceId`` makes a repeat harmless; no currency is
converted here (Dub answers in USD).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from relay.core import errors
from relay.core.dubapi import MAX_EVENT_NAME, MAX_METADATA
from relay.core.ecmascript import js_trim, metadata_length
from relay.sandbox.dub import NOTHING, Around, Dub, customer_json
from relay.sandbox.model import (
    Click,
    Customer,
    RecordedLead,
    RecordedSale,
    RefusalError,
)

PROCESSORS: Final = (
    "stripe",
    "shopify",
    "polar",
    "paddle",
    "apple",
    "revenuecat",
    "dub",
    "custom",
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
    if not isinstance(body, dict):
        raise _bad("invalid_type", "", "Invalid input: expected object")
    external_id = _external_id(body)
    if not external_id:
        raise RefusalError(errors.BAD_REQUEST, errors.EXTERNAL_ID_REQUIRED)
    processor = body.get("paymentProcessor", "custom")
    if processor not in PROCESSORS:
        options = "|".join(f'"{name}"' for name in PROCESSORS)
        text = f"Invalid option: expected one of {options}"
        raise _bad("invalid_value", "paymentProcessor", text)
    return {
        "customerExternalId": external_id,
        "amount": _amount(body),
        "eventName": _text(body, "eventName") or "Purchase",
        "currency": (_text(body, "currency") or "usd").lower(),
        "paymentProcessor": processor,
        "metadata": _metadata(body),
        **{
            key: _text(body, key)
            for key in (
                "invoiceId",
                "leadEventName",
                "clickId",
                "customerName",
                "customerEmail",
                "customerAvatar",
            )
        },
    }


def _external_id(body: dict[str, Any]) -> str | None:
    """Read the id or its two older names, untrimmed, as the route does."""
    for key in ("customerExternalId", "externalId", "customerId"):
        value = body.get(key)
        if value is not None and not isinstance(value, str):
            raise _bad("invalid_type", key, "Invalid input: expected string")
        if value:
            return str(value)
    return None


def _amount(body: dict[str, Any]) -> int:
    amount = body.get("amount")
    if isinstance(amount, float) and amount.is_integer():
        amount = int(amount)  # JavaScript knows no difference
    if isinstance(amount, bool) or not isinstance(amount, int):
        raise _bad("invalid_type", "amount", "Invalid input: expected number")
    if amount < 0:
        raise _bad("too_small", "amount", "Too small: expected number to be >=0")
    return amount


def _text(body: dict[str, Any], key: str) -> str | None:
    value = body.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _bad("invalid_type", key, "Invalid input: expected string")
    if len(value) > MAX_EVENT_NAME:
        text = f"Too big: expected string to have <={MAX_EVENT_NAME} characters"
        raise _bad("too_big", key, text)
    return js_trim(value)


def _metadata(body: dict[str, Any]) -> dict[str, Any] | None:
    value = body.get("metadata")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise _bad("invalid_type", "metadata", "Invalid input: expected record")
    if metadata_length(value) > MAX_METADATA:
        text = "Metadata must be less than 10,000 characters when stringified"
        raise _bad("custom", "metadata", text)
    return value


def _bad(code: str, field: str, text: str) -> RefusalError:
    return RefusalError(errors.UNPROCESSABLE, f"{code}: {field}: {text}")
