"""The endpoints that servers call: signed hooks, and Dub's own API made durable."""

from __future__ import annotations

from typing import Any, Final

from relay.capture.openapi.components import (
    Json,
    Paths,
    error,
    header,
    operation,
    response,
)
from relay.core.dub.fields import MAX_SAFE_INTEGER, PLACEHOLDERS
from relay.core.dub.track_lead import (
    MAX_CUSTOMER_ID,
    MAX_EVENT_NAME,
    MAX_QUANTITY,
)
from relay.core.leads import LeadStatus, Mode
from relay.core.providers import PROVIDERS
from relay.core.providers.account import Provider

_HOOKS: Final = "hooks"

HOOK_SECURITY: Final[Json] = {
    "standardWebhooks": {
        "type": "apiKey",
        "in": "header",
        "name": "webhook-signature",
        "description": (
            "Standard Webhooks: `v1,` and base64 of HMAC-SHA256 over "
            "`id.timestamp.body`; several with spaces between."
        ),
    },
    "dubSignature": {
        "type": "apiKey",
        "in": "header",
        "name": "Dub-Signature",
        "description": "Dub's: lower-case hex of HMAC-SHA256 over the body.",
    },
}

STANDARD_WEBHOOKS: Final = (
    header(
        "webhook-id",
        "The message's own id; the same one again is taken once.",
        {"type": "string", "pattern": "^[!-\\-/-~]{1,256}$"},
    ),
    header(
        "webhook-timestamp",
        "When it was signed, in Unix seconds; 300 s off at most.",
        {"type": "string", "pattern": "^[0-9]{1,15}$"},
    ),
)

COMMITTING: Final = (400, 401, 404, 413, 422, 429, 503)
"""The errors of every endpoint that commits a lead."""


def some_text(most: int, but: str | None = None) -> Json:
    """Describe a text of so many characters, not blank, that ``but`` does not match."""
    # With one character that is no white space, and no NUL, which no database takes.
    pattern = "^[^\\u0000]*[^\\s\\u0000][^\\u0000]*$"
    if but is not None:
        pattern = f"^(?!{but}){pattern[1:]}"
    return {"type": "string", "minLength": 1, "maxLength": most, "pattern": pattern}


LEFT_OUT: Final[Json] = {
    "description": "Left out and noted on the lead if Dub would not take it."
}

SIGNUP: Final[Json] = {
    "type": "object",
    "required": ["eventName", "customerExternalId"],
    "properties": {
        "clickId": {
            "type": ["string", "null"],
            "pattern": "^[^\\u0000]*$",
            "description": 'Beats `cookie`. `""`: this customer\'s earlier click.',
        },
        "cookie": {
            "type": ["string", "null"],
            "description": "The raw Cookie header of the registration's request.",
        },
        "eventName": some_text(MAX_EVENT_NAME),
        "customerExternalId": {
            **some_text(MAX_CUSTOMER_ID, but=PLACEHOLDERS),
            "description": "Your database's. A placeholder (`null`, `{id}`) is none.",
        },
        "customerName": LEFT_OUT,
        "customerEmail": LEFT_OUT,
        "customerAvatar": LEFT_OUT,
        "mode": {"type": "string", "enum": [mode.value for mode in Mode]},
        "eventQuantity": {
            "type": ["integer", "null"],
            "minimum": 1,
            "maximum": MAX_QUANTITY,
        },
        "metadata": LEFT_OUT,
    },
}


def result(*words: str, lead: Any = "string") -> Json:
    """Describe what a hook answers: the lead's id and what became of it."""
    return {
        "type": "object",
        "required": ["id", "status"],
        "properties": {
            "id": {"type": lead, "pattern": "^lead_"},
            "status": {"type": "string", "enum": list(words)},
        },
    }


def _provider(row: Provider) -> Json:
    """Describe a provider's hook; its signature is the provider's own."""
    words = ("queued", "duplicate", "unattributed", "spilled", "ignored")
    said = result(*words, lead=["string", "null"])
    return operation(
        _HOOKS,
        f"{row.title}'s own event of a new user",
        {
            "200": response("Taken before, or nothing for the relay.", said),
            "202": response("Committed, or no click led to it.", said),
            "409": error(409, "This event came before with another body."),
        },
        errors=COMMITTING,
        body={"type": "object"},
        more=f"Signed as {row.title} signs; on where `{row.env}` is set.",
    )


HOOKS: Final[Paths] = {
    **{f"/hooks/{row.name}": {"post": _provider(row)} for row in PROVIDERS},
    "/hooks/signup": {
        "post": operation(
            _HOOKS,
            "A registration, reported by the site's server",
            {
                "200": response("Taken before.", result("duplicate")),
                "202": response(
                    "Committed to disk, or no click led to it (`id` is null).",
                    result("queued", "unattributed", lead=["string", "null"]),
                ),
                "409": error(409, "This webhook-id came before with another body."),
            },
            errors=COMMITTING,
            body=SIGNUP,
            parameters=STANDARD_WEBHOOKS,
            security="standardWebhooks",
        )
    },
    "/hooks/dub": {
        "post": operation(
            _HOOKS,
            "Dub's own webhooks: `lead.created` confirms a lead, `sale.created` a sale",
            {
                "200": response(
                    "Taken note of.",
                    {
                        "type": "object",
                        "required": ["status"],
                        "properties": {
                            "status": {"enum": ["confirmed", "unknown", "ignored"]}
                        },
                    },
                )
            },
            errors=COMMITTING,
            body={"type": "object"},
            security="dubSignature",
        )
    },
}


# --- ``track/lead`` and ``track/sale``. ---

_API: Final = "Dub's API"

BEARER: Final[Json] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "`DUB_API_KEY`, or one of `RELAY_API_TOKEN`.",
    }
}

KEY: Final[Json] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key again is taken once; with another body it is 409.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}

RECEIPT: Final[Json] = {
    "type": "object",
    "required": ["id", "status"],
    "properties": {
        "id": {"type": "string", "pattern": "^lead_"},
        "status": {"type": "string", "enum": [status.value for status in LeadStatus]},
    },
    "description": "What the relay has to say; all else is Dub's.",
}

LEAD: Final[Json] = {
    "type": "object",
    "required": ["eventName", "customerExternalId"],
    "properties": {
        "eventName": some_text(MAX_EVENT_NAME),
        "customerExternalId": some_text(MAX_CUSTOMER_ID),
    },
    "description": "What must be there; the rest is as Dub documents it.",
}

SALE: Final[Json] = {
    "type": "object",
    "required": ["customerExternalId", "amount"],
    "properties": {
        "customerExternalId": some_text(MAX_CUSTOMER_ID),
        "amount": {"type": "integer", "minimum": 0, "maximum": MAX_SAFE_INTEGER},
    },
    "description": "What must be there; the rest is as Dub documents it.",
}


def _taken(what: str, body: Json) -> Json:
    schema = {
        "type": "object",
        "required": ["relay"],
        "properties": {"relay": RECEIPT},
    }
    return operation(
        _API,
        what,
        {
            "200": response("Committed, in the shape of Dub's answer.", schema),
            "409": error(409, "This Idempotency-Key came before with another body."),
        },
        errors=COMMITTING,
        body=body,
        parameters=(KEY,),
        security="bearer",
        more='With `mode: "wait"`, a final error of Dub\'s passes as it is.',
    )


TRACK: Final[Paths] = {
    "/track/lead": {"post": _taken("A lead, in Dub's schema", LEAD)},
    "/track/sale": {
        "post": _taken("A sale, in its customer's line behind the lead", SALE)
    },
}
