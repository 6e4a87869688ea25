"""Stripe's events as leads and sales, as Dub's own Stripe app counts them.

Shapes: docs.stripe.com/api and the fixtures of github.com/stripe/openapi, of the API
versions before and since 2025-03-31 ("basil"), which moved an invoice's subscription
under ``parent``. What counts: dub.co/docs/integrations/stripe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from relay.core.providers.account import (
    CLICK_KEYS,
    Document,
    Event,
    Ignored,
    NewAccount,
    ProviderSale,
    clicks,
    event_id,
    objects,
    part,
    person,
    required,
    text,
    whole,
)

REFERENCE: Final = "dub_id_"
COMPLETED: Final = "checkout.session.completed"
PAID_LATER: Final = "checkout.session.async_payment_succeeded"

TRIAL: Final = "Started Trial"
PURCHASE: Final = "Purchase"
SUBSCRIBED: Final = "Subscription creation"
RECURRING: Final = "Invoice paid"
"""The names that Dub's own app gives to what it counts."""

CUSTOMER_KEYS: Final = ("dubCustomerExternalId", "dubCustomerId")
"""Where metadata names the site's own id of a customer; the second is Dub's older
name."""

_RESERVED: Final = frozenset({*CLICK_KEYS, *CUSTOMER_KEYS})

References: TypeAlias = Literal["sale", "lead"]
Trials: TypeAlias = Literal["off", "lead", "seats"]


@dataclass(frozen=True, slots=True)
class StripeTerms:
    """What the settings say about Stripe.

    ``references``: whether a paid checkout with a click as its reference is a direct
    sale, or a lead and a sale. ``trials``: whether a trial is a lead, and whether it
    counts once or once a seat.
    """

    references: References = "sale"
    trials: Trials = "off"


AS_DUBS_APP: Final = StripeTerms()

NOT_OURS: Final = (
    "This {what} names no click and no customer of Dub's: set client_reference_id"
    " to dub_id_<click id>, or metadata.dubCustomerExternalId."
)
NOT_PAID_YET: Final = (
    "This checkout is not paid yet: its sale comes with"
    " checkout.session.async_payment_succeeded."
)
NAMES_NOBODY: Final = (
    "This {what} names no customer of Dub's: set metadata.dubCustomerExternalId on the"
    " subscription (subscription_data.metadata of a checkout)."
)


def stripe(document: Document, _: str, terms: StripeTerms = AS_DUBS_APP) -> Event:
    """Map a Stripe event to a lead, a sale, or both, by Dub's three recipes.

    dub.co/docs/integrations/stripe: (1) ``client_reference_id: dub_id_<click>``,
    (2) ``metadata.dubCustomerExternalId`` on a Checkout Session of a customer whose
    lead is known, (3) both ``dubCustomerExternalId`` and ``dubClickId`` on a Stripe
    customer. Both on a session are accepted as well.
    """
    kind = required(document, "type", "")
    read = _KINDS.get(kind)
    if read is None:
        return Ignored(f"An event of type {kind[:100]} is nothing for Dub.")
    return read(_Arrived(document, kind, terms))


@dataclass(frozen=True, slots=True)
class _Arrived:
    """One event, and the terms that it is read by."""

    document: Document
    kind: str
    terms: StripeTerms

    @property
    def data(self) -> Document:
        return part(self.document, "data")

    @property
    def about(self) -> Document:
        return part(self.data, "object")

    @property
    def id(self) -> str:
        return event_id(self.document, "id", "")

    @property
    def at(self) -> int | None:
        created = whole(self.document.get("created"))
        return None if created is None else created * 1000


# --- Checkout sessions. ---


def _session(came: _Arrived) -> Event:
    session = came.about
    metadata = part(session, "metadata")
    trusted, writable = clicks(metadata), _referred(session)
    customer = _named(metadata)
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
    # A reference alone: the purchase is the first that anybody hears of this person.
    direct = not trusted and bool(writable) and came.terms.references == "sale"
    sale = _sale_of_session(session, known_as, direct=direct)
    if direct and sale is None and session.get("payment_status") == "unpaid":
        return Ignored(NOT_PAID_YET)
    fields = person(known_as, text(details, "name"), email, None)
    fields |= _passed_on(metadata)
    if direct and came.terms.trials != "off" and session.get("mode") == "subscription":
        fields["eventName"] = TRIAL  # nothing was paid: else it were a direct sale
    return NewAccount(
        event_id=came.id,
        kind=came.kind,
        person=fields,
        trusted=trusted,
        writable=writable,
        at=came.at,
        # Delayed payments take up to two weeks; the lead came at the checkout.
        lead=came.kind == COMPLETED
        and bool(trusted or writable)
        and not (direct and sale),
        sale=sale,
    )


def _referred(session: Document) -> tuple[str, ...]:
    """Return the click of a reference; who opens a payment link can change it."""
    reference = text(session, "client_reference_id") or ""
    click = reference.removeprefix(REFERENCE)
    return (click,) if reference.startswith(REFERENCE) and click else ()


def _sale_of_session(
    session: Document, customer: str, *, direct: bool
) -> ProviderSale | None:
    """Make the sale of a session that was paid; a trial costs nothing yet."""
    amount, currency = _price(session)
    if session.get("payment_status") != "paid" or amount <= 0:
        return None
    # What a refund will name: the invoice, else the payment.
    invoice = text(session, "invoice") or text(session, "payment_intent")
    once = session.get("mode") == "payment"
    return ProviderSale(
        {
            "customerExternalId": customer,
            "amount": amount,
            "currency": currency,
            "paymentProcessor": "stripe",
            "invoiceId": invoice or required(session, "id", ""),
            "eventName": PURCHASE if once else SUBSCRIBED,
        },
        direct=direct,
    )


# --- Amounts. ---

_TOO_FINE: Final[Mapping[str, int]] = MappingProxyType(
    {**dict.fromkeys(("bhd", "jod", "kwd", "omr", "tnd"), 10), "ugx": 100}
)
"""Stripe has thousandths for some currencies, and hundredths of a shilling; the last
digits are always 0 (docs.stripe.com/currencies)."""


def _as_dub_counts(amount: int, about: Document) -> tuple[int, str]:
    """Return an amount in the units that Dub takes it for, and its currency.

    Dub reckons in hundredths, or in whole units of currencies that have none.
    """
    currency = (text(about, "currency") or "usd").lower()
    return amount // _TOO_FINE.get(currency, 1), currency


def _price(session: Document) -> tuple[int, str]:
    """Return what a checkout session cost without tax, and the currency.

    With Adaptive Pricing the person paid in a currency of their own, and
    ``currency_conversion`` has the site's own (docs.stripe.com/payments/checkout/
    adaptive-pricing); Dub takes that total as it is.
    """
    amount = whole(session.get("amount_total")) or 0
    tax = whole(part(session, "total_details").get("amount_tax")) or 0
    converted = part(session, "currency_conversion")
    source = text(converted, "source_currency")
    charged = whole(converted.get("amount_total"))
    if source is None or charged is None or amount <= tax:
        return _as_dub_counts(amount - tax, session)
    return _as_dub_counts(charged, {"currency": source})


def _paid(invoice: Document) -> tuple[int, str]:
    """Return what was paid of an invoice, and the currency.

    Without tax where all of it was paid. With credit or a part left open the tax's
    share is not known, as in Dub's app.
    """
    amount = whole(invoice.get("amount_paid")) or 0
    without_tax = whole(invoice.get("total_excluding_tax"))
    is_whole = without_tax is not None and amount == invoice.get("total")
    if is_whole and without_tax is not None:
        amount = without_tax
    return _as_dub_counts(amount, invoice)


# --- Invoices: payments that no checkout saw. ---


def _invoice(came: _Arrived) -> Event:
    """``invoice.paid``: recurring payments, and the first one after a trial.

    The first invoice of a subscription comes with its checkout as well; both name the
    same invoice, which counts once.
    """
    invoice = came.about
    metadata = dict(_metadata_of_invoice(invoice))
    customer = _named(metadata)
    known_as = customer or text(invoice, "customer")
    if known_as is None:
        return Ignored(NAMES_NOBODY.format(what="invoice"))
    amount, currency = _paid(invoice)
    if amount <= 0:
        return Ignored("Nothing was paid for this invoice.")
    name, email = text(invoice, "customer_name"), text(invoice, "customer_email")
    recurring = bool(_subscription(invoice))
    sale = ProviderSale(
        {
            "customerExternalId": known_as,
            "amount": amount,
            "currency": currency,
            "paymentProcessor": "stripe",
            "invoiceId": required(invoice, "id", "data.object."),
            "eventName": RECURRING if recurring else PURCHASE,
        },
        known=customer is None,
    )
    return NewAccount(
        event_id=came.id,
        kind=came.kind,
        person=person(known_as, name, email, None)
        | _passed_on(_product(invoice) | metadata),
        at=came.at,
        lead=False,
        sale=sale,
    )


def _subscription(invoice: Document) -> str | None:
    """Return the subscription that an invoice is of, by either version's name."""
    details = part(part(invoice, "parent"), "subscription_details")
    return text(details, "subscription") or text(invoice, "subscription")


def _metadata_of_invoice(invoice: Document) -> Iterator[tuple[str, object]]:
    """Yield what stands on an invoice's subscription, its lines and itself, so ordered.

    As Dub's app has it: what comes later counts, and of the lines the first. The
    metadata of its subscription is copied to an invoice under ``parent``, before
    2025-03-31 under ``subscription_details``, and before 2023-08-16 to its lines alone.
    """
    yield from part(part(invoice, "subscription_details"), "metadata").items()
    details = part(part(invoice, "parent"), "subscription_details")
    yield from part(details, "metadata").items()
    for line in reversed([*_lines(invoice)]):
        yield from part(line, "metadata").items()
    yield from part(invoice, "metadata").items()


def _product(invoice: Document) -> dict[str, object]:
    """Name the product as Dub's rewards know it, where an invoice is of but one."""
    products = {
        text(part(part(line, "pricing"), "price_details"), "product")
        or text(part(line, "price"), "product")
        for line in _lines(invoice)
    }
    found = products.pop() if len(products) == 1 else None
    return {} if found is None else {"productId": found}


def _lines(invoice: Document) -> Iterator[Document]:
    yield from objects(part(invoice, "lines").get("data"))


# --- Refunds and disputes: money that went back. ---

REFUNDED: Final = "Refund"
LOST: Final = "Dispute lost"
NOT_LOST: Final = "This dispute was not lost: the payment stays."


def _refund(came: _Arrived) -> Event:
    """``charge.refunded``: the commission of the whole sale is taken back.

    Of a part a person is told. Since API version 2025-03-31 a charge does not name its
    invoice. Then the payment is what is left: a sale without an invoice is known by it.
    """
    charge = came.about
    details = part(charge, "billing_details")
    return _went_back(
        came,
        ProviderSale(
            _back(charge, whole(charge.get("amount_refunded")) or 0, REFUNDED),
            refund=True,
            unnamed="invoice" not in charge,
            by_hand=None if charge.get("refunded") is True else "part",
        ),
        known_as=text(charge, "customer") or text(details, "email"),
        name=text(details, "name"),
        email=text(details, "email"),
    )


def _dispute(came: _Arrived) -> Event:
    """``charge.dispute.closed``: a lost one took the money back.

    It says neither whose payment it was nor how much that came to, so that a person has
    to judge. Dub's own app passes disputes over.
    """
    dispute = came.about
    if dispute.get("status") != "lost":
        return Ignored(NOT_LOST)
    sale = ProviderSale(
        _back(dispute, whole(dispute.get("amount")) or 0, LOST),
        refund=True,
        unnamed=True,
        by_hand="dispute",
    )
    return _went_back(came, sale)


def _back(about: Document, amount: int, event: str) -> dict[str, object]:
    named = text(about, "invoice") or text(about, "payment_intent")
    amount, currency = _as_dub_counts(amount, about)
    return {
        "amount": amount,
        "currency": currency,
        "paymentProcessor": "stripe",
        # A payment by the old way has no intent: then the charge is what is named.
        "invoiceId": named
        or text(about, "charge")
        or required(about, "id", "data.object."),
        "eventName": event,
    }


def _went_back(
    came: _Arrived,
    sale: ProviderSale,
    *,
    known_as: str | None = None,
    name: str | None = None,
    email: str | None = None,
) -> NewAccount:
    customer = known_as or str(sale.body["invoiceId"])
    return NewAccount(
        event_id=came.id,
        kind=came.kind,
        person=person(customer, name, email, None),
        at=came.at,
        lead=False,
        sale=replace(sale, body={"customerExternalId": customer, **sale.body}),
    )


# --- Trials and customers. ---


def _trial(came: _Arrived) -> Event:
    """``customer.subscription.created``: a trial is a lead of its own."""
    subscription = came.about
    if subscription.get("status") != "trialing":
        return Ignored("This subscription begins without a trial.")
    if came.terms.trials == "off":
        return Ignored("Trials are not counted: set hooks.stripe.trials.")
    metadata = part(subscription, "metadata")
    named, trusted = _named(metadata), clicks(metadata)
    known_as = named or text(subscription, "customer")
    if known_as is None:
        return Ignored(NAMES_NOBODY.format(what="subscription"))
    fields = person(known_as, None, None, None) | _passed_on(metadata)
    fields["eventName"] = TRIAL
    # The first item is the plan, others are added to it; as Dub's app has it.
    items = [*objects(part(subscription, "items").get("data"))]
    seats = whole(items[0].get("quantity")) if items else None
    if came.terms.trials == "seats" and seats is not None:
        fields["eventQuantity"] = seats
    return NewAccount(
        event_id=came.id,
        kind=came.kind,
        person=fields,
        trusted=trusted,
        at=came.at,
        earlier_click=True,
        known=named is None and not trusted,
    )


def _customer(came: _Arrived) -> Event:
    customer = came.about
    metadata = part(customer, "metadata")
    known_as, trusted = _named(metadata), clicks(metadata)
    if known_as is None or not trusted:
        return Ignored(
            "This customer's metadata lacks dubCustomerExternalId or dubClickId."
        )
    if came.kind == "customer.updated" and not _newly_clicked(came.data):
        return Ignored("This update did not add or change the click.")
    fields = person(known_as, text(customer, "name"), text(customer, "email"), None)
    return NewAccount(
        event_id=came.id,
        kind=came.kind,
        person=fields | _passed_on(metadata),
        trusted=trusted,
        at=came.at,
    )


def _newly_clicked(data: Document) -> bool:
    """Decide by the attributes that changed; else each update were a sign-up."""
    before = part(data, "previous_attributes")
    return bool(set(CLICK_KEYS) & set(part(before, "metadata")))


def _named(metadata: Document) -> str | None:
    """Return the site's own id of the customer, as metadata names it."""
    return next(filter(None, (text(metadata, key) for key in CUSTOMER_KEYS)), None)


def _passed_on(metadata: Document) -> dict[str, object]:
    """Pass the site's own metadata on: Dub's reward rules may ask for it."""
    kept = {key: value for key, value in metadata.items() if key not in _RESERVED}
    return {"metadata": kept} if kept else {}


_KINDS: Final[Mapping[str, Callable[[_Arrived], Event]]] = MappingProxyType(
    {
        COMPLETED: _session,
        PAID_LATER: _session,
        "invoice.paid": _invoice,
        "charge.refunded": _refund,
        "charge.dispute.closed": _dispute,
        "customer.created": _customer,
        "customer.updated": _customer,
        "customer.subscription.created": _trial,
    }
)
