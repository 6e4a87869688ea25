"""Stripe: Dub's three recipes, as leads and sales.

dub.co/docs/integrations/stripe: (1) ``client_reference_id: dub_id_<click>``,
(2) ``metadata.dubCustomerExternalId`` on a Checkout Session of a customer whose
lead is known, (3) both ``dubCustomerExternalId`` and ``dubClickId`` on a Stripe
customer. Both on a session are taken as well.
"""

from __future__ import annotations

from typing import Final

from relay.core.providers.account import (
    Document,
    Event,
    Ignored,
    NewAccount,
    ProviderSale,
    clicks,
    event_id,
    part,
    person,
    required,
    text,
    whole,
)

REFERENCE: Final = "dub_id_"
COMPLETED: Final = "checkout.session.completed"
PAID_LATER: Final = "checkout.session.async_payment_succeeded"

NOT_OURS: Final = (
    "This {what} names no click and no customer of Dub's: set client_reference_id"
    " to dub_id_<click id>, or metadata.dubCustomerExternalId."
)


def read(document: Document, _: str) -> Event:
    """Map a Stripe event to a lead, a sale, or both."""
    kind = required(document, "type", "")
    about = part(part(document, "data"), "object")
    if kind in (COMPLETED, PAID_LATER):
        return _session(document, about, kind)
    if kind in ("customer.created", "customer.updated"):
        return _customer(document, about, kind)
    return Ignored(f"An event of type {kind[:100]} is no checkout.")


def _session(document: Document, session: Document, kind: str) -> Event:
    metadata = part(session, "metadata")
    trusted, writable = clicks(metadata), _referred(session)
    customer = _known_as(metadata)
    if session.get("mode") == "setup":
        return Ignored("A checkout in setup mode buys nothing.")
    if customer is None and not trusted and not writable:
        return Ignored(NOT_OURS.format(what="checkout"))
    details = part(session, "customer_details")
    email = text(details, "email") or text(session, "customer_email")
    # As Dub: who has no id at the site is known by Stripe's; a guest has none.
    known_as = customer or text(session, "customer") or email
    if known_as is None:
        return Ignored("This checkout names neither a customer nor an e-mail address.")
    return NewAccount(
        event_id=event_id(document, "id", ""),
        kind=kind,
        person=person(known_as, text(details, "name"), email, None),
        trusted=trusted,
        writable=writable,
        at=_at(document),
        # Delayed payments take up to two weeks; the lead came at the checkout.
        lead=kind == COMPLETED and bool(trusted or writable),
        sale=_sale(session, known_as),
    )


def _customer(document: Document, customer: Document, kind: str) -> Event:
    metadata = part(customer, "metadata")
    known_as, trusted = _known_as(metadata), clicks(metadata)
    if known_as is None or not trusted:
        return Ignored(
            "This customer's metadata lacks dubCustomerExternalId or dubClickId."
        )
    if kind == "customer.updated" and not _newly_clicked(document):
        return Ignored("This update did not add or change the click.")
    return NewAccount(
        event_id=event_id(document, "id", ""),
        kind=kind,
        person=person(known_as, text(customer, "name"), text(customer, "email"), None),
        trusted=trusted,
        at=_at(document),
    )


def _referred(session: Document) -> tuple[str, ...]:
    """Return the click of a reference; who opens a payment link can change it."""
    reference = text(session, "client_reference_id") or ""
    click = reference.removeprefix(REFERENCE)
    return (click,) if reference.startswith(REFERENCE) and click else ()


def _known_as(metadata: Document) -> str | None:
    """Return the site's own id of the customer; the second name is Dub's older one."""
    return text(metadata, "dubCustomerExternalId") or text(metadata, "dubCustomerId")


def _newly_clicked(document: Document) -> bool:
    """Decide by the attributes that changed; else each update were a sign-up."""
    before = part(part(document, "data"), "previous_attributes")
    return bool({"dubClickId", "dubTicket", "dub_id"} & set(part(before, "metadata")))


def _sale(session: Document, customer: str) -> ProviderSale | None:
    """Make the sale of a session that was paid; a trial costs nothing yet."""
    amount = whole(session.get("amount_total")) or 0
    if session.get("payment_status") != "paid" or amount <= 0:
        return None
    return ProviderSale(
        {
            "customerExternalId": customer,
            "amount": amount,
            "currency": text(session, "currency") or "usd",
            "paymentProcessor": "stripe",
            "invoiceId": text(session, "invoice") or required(session, "id", ""),
        }
    )


def _at(document: Document) -> int | None:
    created = whole(document.get("created"))
    return None if created is None else created * 1000
