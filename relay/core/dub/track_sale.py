"""Dub's ``POST /track/sale``: its check, the call's body and what counts once.

A sale is a :class:`~relay.core.leads.Lead` with a :class:`~relay.core.leads.Sale`:
it waits in its customer's line behind the leads that it belongs to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from relay.core.dub.fields import (
    MAX_EVENT_NAME,
    MAX_SAFE_INTEGER,
    MISSING,
    Body,
    InvalidFieldError,
    as_double,
    limited,
    read_email,
    read_metadata,
    read_name,
    read_text,
    read_trimmed,
    refused,
    wrong_type,
)
from relay.core.dub.track_lead import (
    CUSTOMER_ID_NAMES,
    PERSON_NAMES,
    LeadFields,
    keepable,
    person_of,
    with_customer,
)
from relay.core.leads import Lead, Sale

PROCESSORS: Final = (
    *("stripe", "shopify", "polar", "paddle", "apple", "revenuecat", "dub"),
    "custom",
)

DEFAULT_EVENT: Final = "Purchase"

OPTIONAL_NAMES: Final = (*PERSON_NAMES, "metadata")
"""Fields that are left out of a sale rather than lose it."""


def validate_sale(body: object) -> LeadFields:
    """Check a parsed JSON body as Dub's server route does; ``sale`` is set.

    As :func:`relay.core.dub.track_lead.validate`, but the customer's ids are not
    trimmed.
    """
    if not isinstance(body, Mapping):
        raise wrong_type("", "object", body)
    # In the schema's order: the first issue is the one that is reported.
    customer = read_text(body, CUSTOMER_ID_NAMES[0])
    amount = _amount(body)
    currency = _given(body, "currency", "usd").lower()
    event_name = limited(
        "eventName", _given(body, "eventName", DEFAULT_EVENT), MAX_EVENT_NAME
    )
    processor = _processor(body)
    invoice = read_text(body, "invoiceId")
    metadata = read_metadata(body)
    fields = LeadFields(
        customer_external_id=customer or "",
        event_name=event_name,
        metadata=metadata,
        sale=Sale(
            amount, currency, processor, invoice, read_text(body, "leadEventName")
        ),
        click_id=read_trimmed(body, "clickId"),
        customer_name=read_name(body),
        customer_email=read_email(body),
        customer_avatar=read_text(body, "customerAvatar"),
    )
    return with_customer(fields, body, read_text)


def sanitise_sale(body: Mapping[str, object]) -> tuple[LeadFields, tuple[str, ...]]:
    """Keep what can be kept of a sale; return fields and a note for each left out.

    As :func:`relay.core.dub.track_lead.sanitise`: for sources that cannot ask anybody
    of a bad name, address or metadata. Raises InvalidFieldError for the rest.
    """
    notes: list[str] = []
    person = person_of(body, notes)
    written = {name: it for name, it in body.items() if name not in OPTIONAL_NAMES}
    fields = keepable(validate_sale(written))
    return replace(fields, **person), tuple(notes)


SALE_KEY: Final = "sale:"
"""The dedupe key of a sale without an invoice, which repeats nothing; begins others."""


def sale_key(sale: Sale) -> str:
    """Return what a customer's sales that count once have in common: the invoice."""
    return f"{SALE_KEY}{sale.invoice_id or ''}"


def sale_body(lead: Lead) -> dict[str, object]:
    """Return the JSON body of the call that records a sale.

    Raises ValueError for a lead that is none.
    """
    if lead.sale is None:
        raise ValueError("not a sale")
    body: dict[str, object | None] = {
        "customerExternalId": lead.customer_external_id,
        **sale_fields(lead.sale),
        "eventName": lead.event_name,
        "metadata": None if lead.metadata is None else dict(lead.metadata),
        "leadEventName": lead.sale.lead_event_name,
        "clickId": lead.click_id or None,
        "customerName": lead.customer_name,
        "customerEmail": lead.customer_email,
        "customerAvatar": lead.customer_avatar,
    }
    return {name: value for name, value in body.items() if value is not None}


def sale_fields(sale: Sale) -> dict[str, object | None]:
    """Return what a sale has and a lead has not, by Dub's names, for people too."""
    return {
        "amount": sale.amount,
        "currency": sale.currency,
        "paymentProcessor": sale.payment_processor,
        "invoiceId": sale.invoice_id,
    }


def _amount(body: Body) -> int:
    """Read a whole number from 0; JavaScript takes 30.0 for 30."""
    value = body.get("amount", MISSING)
    double = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        double = as_double(value)
    if not math.isfinite(double):
        raise refused("amount", "invalid_type", "amount is required")
    if not double.is_integer():
        raise wrong_type("amount", "int", value)
    if abs(double) > MAX_SAFE_INTEGER:
        raise _beyond_safe(double)
    if double < 0:
        raise refused("amount", "too_small", "amount cannot be negative")
    return int(double)


def _beyond_safe(double: float) -> InvalidFieldError:
    """Make the issue of a number that JavaScript has not exactly."""
    size, limit = ("big", "<=") if double > 0 else ("small", ">=-")
    message = f"Too {size}: expected int to be {limit}{MAX_SAFE_INTEGER}"
    return refused("amount", f"too_{size}", message)


def _given(body: Body, name: str, default: str) -> str:
    """Read a text that has a default; null is an error."""
    value = body.get(name, default)
    if not isinstance(value, str):
        raise wrong_type(name, "string", value)
    return value


def _processor(body: Body) -> str:
    value = body.get("paymentProcessor", "custom")
    if isinstance(value, str) and value in PROCESSORS:
        return value
    options = "|".join(f'"{name}"' for name in PROCESSORS)
    message = f"Invalid option: expected one of {options}"
    raise refused("paymentProcessor", "invalid_value", message)
