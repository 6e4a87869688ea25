"""What the sandbox holds, written as JSON for the tests and the page.

Times are ISO 8601 in UTC; the newest comes last.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Reversible, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

import aiohttp

from relay.core.clock import iso
from relay.sandbox.dub import Dub, customer_json, link_json
from relay.sandbox.model import (
    Call,
    Click,
    Customer,
    Event,
    Link,
    RecordedLead,
    RecordedSale,
)

T = TypeVar("T")


def state_json(dub: Dub, limit: int | None = None) -> dict[str, Any]:
    """Write everything, or the newest ``limit`` of each kind."""
    return {
        "links": [shown_link_json(dub, link) for link in dub.links.values()],
        "clicks": [click_json(dub, it) for it in _last(dub.clicks.values(), limit)],
        "customers": [
            stored_customer_json(it) for it in _last(dub.customers.values(), limit)
        ],
        "leads": [lead_json(dub, it) for it in _last(dub.leads, limit)],
        "sales": [sale_json(it) for it in _last(dub.sales, limit)],
        "calls": [call_json(it) for it in _last(dub.calls, limit)],
        "phantoms": dub.phantoms,
    }


def _last(items: Reversible[T], limit: int | None) -> Sequence[T]:
    """Take the newest without walking through the rest; oldest first."""
    return list(islice(reversed(items), limit))[::-1]


def shown_link_json(dub: Dub, link: Link) -> dict[str, Any]:
    """Write a link with the ways in which it is broken."""
    return {
        "id": link.id,
        "key": link.key,
        "path": f"/{link.path}",
        "domain": dub.domain,
        "url": link.url,
        "partner": link.partner,
        "tracked": link.hands_on,
        "foreign": link.foreign,
        "gone": link.gone,
        "disabled": link.disabled,
    }


def click_json(dub: Dub, click: Click) -> dict[str, Any]:
    """Write a click."""
    return {
        "id": click.id,
        "linkKey": click.link_key,
        "partner": dub.links[click.link_key].partner,
        "at": iso(click.at),
        "referrer": click.referrer,
    }


def stored_customer_json(customer: Customer) -> dict[str, Any]:
    """Write a customer with the click that made it."""
    return {
        "id": customer.id,
        **customer_json(customer),
        "clickId": customer.click.id,
        "linkKey": customer.click.link_key,
        "sales": customer.sales,
        "saleAmount": customer.sale_amount,
        "createdAt": iso(customer.created_at),
    }


def api_customer_json(customer: Customer) -> dict[str, Any]:
    """Write a customer as ``GET /customers`` does: its click is not shown."""
    first_sale = customer.first_sale_at
    return {
        "id": customer.id,
        **customer_json(customer),
        "stripeCustomerId": None,
        "country": None,
        "sales": customer.sales,
        "saleAmount": customer.sale_amount,
        "createdAt": iso(customer.created_at),
        "firstSaleAt": None if first_sale is None else iso(first_sale),
        "subscriptionCanceledAt": None,
    }


def expanded_customer_json(dub: Dub, customer: Customer) -> dict[str, Any]:
    """Write a customer with the link, program and partner that brought it."""
    link = dub.links[customer.click.link_key]
    shown = link_json(link, dub.domain)
    return {
        **api_customer_json(customer),
        "link": {
            name: shown[name]
            for name in ("id", "domain", "key", "shortLink", "url", "programId")
        },
        "programId": shown["programId"],
        "partner": _partner_json(link),
        "discount": None,
    }


def lead_json(dub: Dub, lead: RecordedLead) -> dict[str, Any]:
    """Write a lead that counts."""
    return {
        "id": lead.id,
        "customerExternalId": lead.customer.external_id,
        "customerName": lead.customer.name,
        "eventName": lead.event_name,
        "clickId": lead.click.id,
        "linkKey": lead.click.link_key,
        "partner": dub.links[lead.click.link_key].partner,
        "quantity": lead.quantity,
        "metadata": lead.metadata,
        "at": iso(lead.at),
        "signed": lead.signed,
    }


def sale_json(sale: RecordedSale) -> dict[str, Any]:
    """Write a sale."""
    return {
        "id": sale.id,
        "customerExternalId": sale.customer.external_id,
        "eventName": sale.event_name,
        "clickId": sale.click.id,
        "amount": sale.amount,
        "currency": sale.currency,
        "paymentProcessor": sale.processor,
        "invoiceId": sale.invoice_id,
        "metadata": sale.metadata,
        "at": iso(sale.at),
    }


def event_json(dub: Dub, event: Event) -> dict[str, Any]:
    """Write an event as ``GET /events`` does."""
    link, customer = dub.links[event.click.link_key], event.customer
    deleted = customer.external_id not in dub.customers
    document: dict[str, Any] = {
        "event": "lead" if isinstance(event, RecordedLead) else "sale",
        "timestamp": iso(event.at),
        "eventId": event.id,
        "eventName": event.event_name,
        "click": {
            "id": event.click.id,
            "timestamp": iso(event.click.at),
            "url": link.url,
        },
        "link": link_json(link, dub.domain),
        "customer": _deleted_json(customer) if deleted else api_customer_json(customer),
        **_sold(event),
    }
    if event.metadata:
        document["metadata"] = event.metadata
    return document


def _deleted_json(customer: Customer) -> dict[str, Any]:
    """Write a customer who was deleted: Dub's own id is all that is left."""
    return {
        "id": customer.id,
        "name": "Deleted Customer",
        "email": "deleted@customer.com",
        "externalId": customer.id,
        "createdAt": iso(0),
    }


def call_json(call: Call) -> dict[str, Any]:
    """Write a call to the API."""
    return {
        "method": call.method,
        "path": call.path,
        "at": iso(call.at),
        "status": call.status,
        "step": call.step,
        "code": call.code,
        "note": call.note,
        "signed": call.signed,
        "leadId": call.lead_id,
        "customerExternalId": call.customer,
        "eventName": call.event,
    }


# --- Dub's webhooks of leads and sales: envelope, signature, one delivery. ---

TIMEOUT_S: Final = 5.0
"""Long enough for a relay on this machine, short enough to stop with."""


def announcement(dub: Dub, event: Event) -> dict[str, Any]:
    """Make the envelope of a lead or a sale; one a call, whatever its quantity."""
    link = dub.links[event.click.link_key]
    return {
        "id": f"evt_{dub.new_id(25)}",
        "event": (
            "sale.created" if isinstance(event, RecordedSale) else "lead.created"
        ),
        "createdAt": iso(dub.clock()),
        "data": {
            "eventName": event.event_name,
            "customer": api_customer_json(event.customer),
            "click": {
                "id": event.click.id,
                "timestamp": iso(event.click.at),
                "url": link.url,
                "trigger": "link",
                "referer": event.click.referrer or "(direct)",
                "qr": False,
            },
            "link": link_json(link, dub.domain),
            "partner": _partner_json(link),
            "metadata": event.metadata,
            **_sold(event),
        },
    }


def _partner_json(link: Link) -> dict[str, Any] | None:
    return {"id": link.partner_id, "name": link.partner} if link.partner else None


def _sold(event: Event) -> dict[str, Any]:
    """Write what a sale was worth; Dub's store has an empty text for no invoice."""
    if not isinstance(event, RecordedSale):
        return {}
    sold = {
        "amount": event.amount,
        "currency": event.currency,
        "paymentProcessor": event.processor,
        "invoiceId": event.invoice_id or "",
    }
    return {"sale": sold}


def sign(secret: str, body: bytes) -> str:
    """Return ``Dub-Signature``: hex HMAC-SHA256 under the whole secret string."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


async def post(
    session: aiohttp.ClientSession, url: str, secret: str, envelope: dict[str, Any]
) -> int | None:
    """Post a webhook once; the answer's status, or None when there was none."""
    body = json.dumps(envelope, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/json", "Dub-Signature": sign(secret, body)}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with session.post(
            url, data=body, headers=headers, timeout=timeout, allow_redirects=False
        ) as answer:
            return answer.status
    except (aiohttp.ClientError, TimeoutError):
        return None
