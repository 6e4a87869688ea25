"""Providers' events as their references show them, signed by their own libraries.

WorkOS's library only checks: what is signed for it here is checked by it first.
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import standardwebhooks

WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLUSw"
ROLLED = "whsec_bm90IGEgc2VjcmV0LCBidXQgYW4gZXhhbXBsZQ=="
Sign = Callable[[str, str, str, float], dict[str, str]]


def by_svix(secret: str, message_id: str, body: str, at: float) -> dict[str, str]:
    import svix  # noqa: PLC0415 - loads slowly

    moment = datetime.fromtimestamp(int(at), UTC)
    return {
        "svix-id": message_id,
        "svix-timestamp": str(int(at)),
        "svix-signature": svix.Webhook(secret).sign(message_id, moment, body),
    }


def by_standard(secret: str, message_id: str, body: str, at: float) -> dict[str, str]:
    moment = datetime.fromtimestamp(int(at), UTC)
    signer = standardwebhooks.Webhook(secret.removeprefix("v1,"))
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at)),
        "webhook-signature": signer.sign(message_id, moment, body),
    }


def by_stripe(secret: str, _: str, body: str, at: float) -> dict[str, str]:
    import stripe  # noqa: PLC0415 - loads slowly

    header = stripe.WebhookSignature.generate_signature_header(body, secret, int(at))
    return {"Stripe-Signature": header}


def by_workos(secret: str, _: str, body: str, at: float) -> dict[str, str]:
    from workos.webhooks._verification import verify_header  # noqa: PLC0415 - loads slowly

    stamp = int(at * 1000)
    digest = hmac.new(secret.encode(), f"{stamp}.{body}".encode(), "sha256")
    header = f"t={stamp}, v1={digest.hexdigest()}"
    away = int(abs(time.time() - at)) + 60
    verify_header(
        event_body=body.encode(), event_signature=header, secret=secret, tolerance=away
    )
    return {"WorkOS-Signature": header}


def clerk(user: str, click: str | None) -> dict[str, Any]:
    return {
        "data": {
            "id": user,
            "object": "user",
            "created_at": int(time.time() * 1000),
            "first_name": "Ada",
            "last_name": "Lovelace",
            "has_image": True,
            "image_url": "https://img.clerk.com/ada",
            "primary_email_address_id": "idn_2",
            "email_addresses": [
                {"id": "idn_1", "email_address": "old@example.com"},
                {"id": "idn_2", "email_address": "ada@example.com"},
            ],
            "public_metadata": {},
            "private_metadata": {},
            "unsafe_metadata": {} if click is None else {"dubTicket": click},
        },
        "event_attributes": {"http_request": {"client_ip": "0.0.0.0"}},  # noqa: S104
        "instance_id": "ins_1",
        "object": "event",
        "timestamp": int(time.time() * 1000),
        "type": "user.created",
    }


def supabase(user: str, click: str | None) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat()
    own = {"full_name": "Ada Lovelace", "avatar_url": "https://example.com/ada.png"}
    return {
        "metadata": {
            "uuid": "8b34dcdd-9df1-4c10-850a-b3277c653040",
            "time": now,
            "name": "before-user-created",
            "ip_address": "127.0.0.1",
        },
        "user": {
            "id": user,
            "aud": "authenticated",
            "role": "",
            "email": "ada@example.com",
            "phone": "",
            "app_metadata": {"provider": "email", "providers": ["email"]},
            "user_metadata": own if click is None else own | {"dubTicket": click},
            "identities": [],
            "created_at": "0001-01-01T00:00:00Z",
            "updated_at": "0001-01-01T00:00:00Z",
            "is_anonymous": False,
        },
    }


def auth0(user: str, click: str | None) -> dict[str, Any]:
    return {
        "trigger": "post-user-registration",
        "user": {
            "user_id": user,
            "name": "Ada Lovelace",
            "email": "ada@example.com",
            "picture": "https://s.gravatar.com/avatar/ada",
            "created_at": datetime.now(UTC).isoformat(),
            "user_metadata": {} if click is None else {"dubTicket": click},
            "app_metadata": {},
        },
    }


def workos(user: str, click: str | None) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {
        "id": "event_01E4ZCR3C56J083X43JQXF3JK5",
        "event": "user.created",
        "data": {
            "object": "user",
            "id": user,
            "email": "ada@example.com",
            "email_verified": True,
            "first_name": "Ada",
            "last_name": "Lovelace",
            "profile_picture_url": "https://workoscdn.com/images/ada",
            "external_id": None,
            "metadata": {} if click is None else {"dubTicket": click},
            "created_at": now,
            "updated_at": now,
        },
        "created_at": now,
    }


def stytch(user: str, click: str | None) -> dict[str, Any]:
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "073Z"
    return {
        "action": "CREATE",
        "event_id": "webhook-event-test-00000000-0000-0000-0000-000000000000",
        "id": user,
        "object_type": "user",
        "project_id": "project-test-00000000-0000-0000-0000-000000000000",
        "source": "DIRECT",
        "timestamp": stamp,
        "user": {
            "created_at": "2024-11-21T06:47:49Z",
            "emails": [
                {"email": "ada@example.com", "email_id": "email-1", "verified": False}
            ],
            "name": {"first_name": "Ada", "last_name": "Lovelace", "middle_name": ""},
            "status": "active",
            "trusted_metadata": {},
            "untrusted_metadata": {} if click is None else {"dubTicket": click},
            "user_id": user,
        },
        "vertical": "CONSUMER",
    }


def firebase(user: str, click: str | None) -> dict[str, Any]:
    return {
        "type": "user.created",
        "createdAt": datetime.now(UTC).isoformat(),
        "user": {
            "uid": user,
            "email": "ada@example.com",
            "displayName": "Ada Lovelace",
            "photoURL": "https://example.com/ada.png",
        },
        "dubTicket": click,
    }


def stripe_session(user: str, click: str | None) -> dict[str, Any]:
    metadata = {"dubCustomerExternalId": user}
    if click is not None:
        metadata["dubTicket"] = click
    person = {"email": "ada@example.com", "name": "Ada Lovelace"}
    return {
        "id": "evt_1NG8Du2eZvKYlo2CUI79vXWy",
        "object": "event",
        "api_version": "2025-03-31.basil",
        "created": int(time.time()),
        "data": {
            "object": {
                "id": "cs_test_a11YYufWQzNY63zpQ6QSNRQhkUpVph4WRmzW0zWJO2zn",
                "object": "checkout.session",
                "amount_total": 2198,
                "client_reference_id": None,
                "currency": "usd",
                "customer": "cus_1",
                "customer_details": person,
                "invoice": "in_1",
                "metadata": metadata,
                "mode": "payment",
                "payment_link": None,
                "payment_status": "paid",
                "status": "complete",
            }
        },
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": None, "idempotency_key": None},
        "type": "checkout.session.completed",
    }


@dataclass(frozen=True)
class Sender:
    """How one provider speaks: its events, and its signatures."""

    name: str
    event: Callable[[str, str | None], dict[str, Any]]
    sign: Sign
    secret: str = WHSEC
    next_secret: str = ROLLED

    def signed(
        self,
        document: Mapping[str, Any],
        *,
        message_id: str = "msg_1",
        secret: str | None = None,
        at: float | None = None,
    ) -> tuple[dict[str, str], bytes]:
        """Headers and bytes of one delivery."""
        body = json.dumps(document)
        stamp = time.time() if at is None else at
        return self.sign(secret or self.secret, message_id, body, stamp), body.encode()


SENDERS = [
    Sender("clerk", clerk, by_svix),
    Sender("supabase", supabase, by_standard, f"v1,{WHSEC}", f"v1,{ROLLED}"),
    Sender("auth0", auth0, by_standard),
    Sender("workos", workos, by_workos, "FrQWzvMo0eqse22Ceyia2uuww", "another-secret"),
    Sender("stytch", stytch, by_svix),
    Sender("firebase", firebase, by_standard),
    Sender("stripe", stripe_session, by_stripe, "whsec_one", "whsec_two"),
]
BY_NAME = {sender.name: sender for sender in SENDERS}
