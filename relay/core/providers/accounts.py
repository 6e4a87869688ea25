"""Events of providers as sign-ups and sales, one function a provider.

The shapes are those of the providers' own references,
which each docstring names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from relay.core.providers.account import (
    Document,
    Event,
    Ignored,
    NewAccount,
    PayloadError,
    ProviderSale,
    clicks,
    event_id,
    full_name,
    iso_ms,
    part,
    person,
    required,
    text,
    whole,
)


def _another(kind: object) -> Ignored:
    shown = kind if isinstance(kind, str) and len(kind) <= 100 else "unnamed"
    return Ignored(f"An event of type {shown} is no sign-up.")


def clerk(document: Document, message_id: str) -> Event:
    """``user.created``: clerk.com/docs/webhooks, "Payload structure".

    Unsafe metadata is written by the browser, public and private by the backend
    API alone (clerk.com/docs/guides/users/extending).
    """
    if document.get("type") != "user.created":
        return _another(document.get("type"))
    user = part(document, "data")
    avatar = text(user, "image_url") if user.get("has_image", True) else None
    return NewAccount(
        event_id=message_id,
        kind="user.created",
        person=person(
            required(user, "id", "data."),
            full_name(text(user, "first_name"), text(user, "last_name")),
            _clerk_email(user),
            avatar,
        ),
        trusted=clicks(user.get("private_metadata"), user.get("public_metadata")),
        writable=clicks(user.get("unsafe_metadata")),
        at=whole(user.get("created_at")),
    )


def _clerk_email(user: Document) -> str | None:
    """Choose the address that is named primary, else the first."""
    found = [each for each in _objects(user.get("email_addresses")) if each]
    primary = user.get("primary_email_address_id")
    chosen = [each for each in found if each.get("id") == primary] or found
    return text(chosen[0], "email_address") if chosen else None


def _objects(value: object) -> Sequence[Document]:
    items = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict)]


SUPABASE_KINDS: Final = ("before-user-created", "after-user-created")
OWN_FORM: Final = ("", "email", "phone")


def supabase(document: Document, _: str) -> Event:
    """``before-user-created``: supabase.com/docs/guides/auth/auth-hooks.

    Every try has a ``webhook-id`` of its own, so the event is known by the uuid
    of its metadata. When an account comes from another provider (OAuth, SAML),
    Supabase Auth makes the user anew after the hook, under another id
    (supabase/auth, internal/api/hooks.go); the after-hook has the final one.
    """
    metadata = part(document, "metadata")
    kind = text(metadata, "name")
    if kind not in SUPABASE_KINDS:
        return _another(kind)
    user = part(document, "user")
    app = part(user, "app_metadata")
    provider = text(app, "provider") or ""
    if kind == "before-user-created" and provider not in OWN_FORM:
        return Ignored(
            f"Before a user of {provider[:40]} is created, Supabase does not know the"
            " user's id: report this sign-up from the site's callback."
        )
    if user.get("is_anonymous") is True:
        return Ignored("An anonymous user has not signed up yet.")
    own = part(user, "user_metadata")
    return NewAccount(
        event_id=event_id(metadata, "uuid", "metadata."),
        kind=kind,
        person=person(
            required(user, "id", "user."),
            text(own, "full_name") or text(own, "name"),
            text(user, "email"),
            text(own, "avatar_url") or text(own, "picture"),
        ),
        trusted=clicks(app),
        writable=clicks(own),
        at=iso_ms(metadata.get("time")),
    )


def auth0(document: Document, message_id: str) -> Event:
    """What the Action of docs/hooks.md sends: its ``event``, cut down.

    auth0.com/docs/customize/actions, "Event object" of post-user-registration
    and post-login. A first login stands for the sign-ups that the former does
    not see: those through social and enterprise connections.
    """
    kind = document.get("trigger")
    if kind not in ("post-user-registration", "post-login"):
        return _another(kind)
    if kind == "post-login" and document.get("logins") != 1:
        return Ignored("Only a user's first login is a sign-up.")
    user = part(document, "user")
    own = part(user, "user_metadata")
    return NewAccount(
        event_id=message_id,
        kind=kind,
        person=person(
            required(user, "user_id", "user."),
            text(user, "name"),
            text(user, "email"),
            text(user, "picture"),
        ),
        trusted=clicks(user.get("app_metadata")),
        writable=clicks(own, document.get("query")),
        at=iso_ms(user.get("created_at")),
    )


def workos(document: Document, _: str) -> Event:
    """``user.created``: workos.com/docs/events/user.

    A user's metadata is written by the backend API alone.
    """
    if document.get("event") != "user.created":
        return _another(document.get("event"))
    user = part(document, "data")
    return NewAccount(
        event_id=event_id(document, "id", ""),
        kind="user.created",
        person=person(
            required(user, "id", "data."),
            full_name(text(user, "first_name"), text(user, "last_name")),
            text(user, "email"),
            text(user, "profile_picture_url"),
        ),
        trusted=clicks(user.get("metadata")),
        at=iso_ms(user.get("created_at")),
    )


def stytch(document: Document, _: str) -> Event:
    """``….user.create`` and, for B2B, ``….member.create``.

    stytch.com/docs/guides/webhooks. Untrusted metadata is written by the
    front-end SDKs, trusted by the backend alone.
    """
    entity = document.get("object_type")
    if document.get("action") != "CREATE" or entity not in ("user", "member"):
        return _another(f"{entity}.{document.get('action')}")
    who = part(document, entity)
    return NewAccount(
        event_id=event_id(document, "event_id", ""),
        kind=f"{entity}.create",
        person=person(
            required(document, "id", ""), _stytch_name(who), _stytch_email(who), None
        ),
        trusted=clicks(who.get("trusted_metadata")),
        writable=clicks(who.get("untrusted_metadata")),
        at=iso_ms(document.get("timestamp")),
    )


def _stytch_name(who: Document) -> str | None:
    """A member has one text, a user has a name in parts."""
    if plain := text(who, "name"):
        return plain
    name = part(who, "name")
    return full_name(
        *(text(name, f"{each}_name") for each in ("first", "middle", "last"))
    )


def _stytch_email(who: Document) -> str | None:
    emails = _objects(who.get("emails"))
    return text(who, "email_address") or (text(emails[0], "email") if emails else None)


def firebase(document: Document, message_id: str) -> Event:
    """What the functions of docs/hooks.md send.

    firebase.google.com/docs/auth/extend-with-blocking-functions: a blocking
    function gets nothing that the page chose, so the ticket comes beside
    the user.
    """
    if document.get("type") != "user.created":
        return _another(document.get("type"))
    user = part(document, "user")
    if not user:
        raise PayloadError("user: is missing.")
    return NewAccount(
        event_id=message_id,
        kind="user.created",
        person=person(
            required(user, "uid", "user."),
            text(user, "displayName"),
            text(user, "email"),
            text(user, "photoURL"),
        ),
        trusted=clicks(user.get("customClaims")),
        writable=clicks(document),
        at=iso_ms(document.get("createdAt")),
    )


# --- Stripe. ---

REFERENCE: Final = "dub_id_"
COMPLETED: Final = "checkout.session.completed"
PAID_LATER: Final = "checkout.session.async_payment_succeeded"

NOT_OURS: Final = (
    "This {what} names no click and no customer of Dub's: set client_reference_id"
    " to dub_id_<click id>, or metadata.dubCustomerExternalId."
)


def stripe(document: Document, _: str) -> Event:
    """Map a Stripe event to a lead, a sale, or both, by Dub's three recipes.

    dub.co/docs/integrations/stripe: (1) ``client_reference_id: dub_id_<click>``,
    (2) ``metadata.dubCustomerExternalId`` on a Checkout Session of a customer whose
    lead is known, (3) both ``dubCustomerExternalId`` and ``dubClickId`` on a Stripe
    customer. Both on a session are accepted as well.
    """
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
