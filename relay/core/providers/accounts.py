"""Events of providers as sign-ups, one function a provider; Stripe has its own module.

The shapes are those of the providers' own references,
which each docstring names.
"""

from __future__ import annotations

from typing import Final

from relay.core.providers.account import (
    Document,
    Event,
    Ignored,
    NewAccount,
    PayloadError,
    clicks,
    event_id,
    full_name,
    iso_ms,
    objects,
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
    found = [each for each in objects(user.get("email_addresses")) if each]
    primary = user.get("primary_email_address_id")
    chosen = [each for each in found if each.get("id") == primary] or found
    return text(chosen[0], "email_address") if chosen else None


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
    emails = objects(who.get("emails"))
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
