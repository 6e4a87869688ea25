"""``track/lead`` and ``track/sale``: Dub's own API, made durable."""

from __future__ import annotations

from typing import Final

from relay.capture.openapi.components import (
    Json,
    Paths,
    error,
    operation,
    response,
)
from relay.capture.openapi.hook_paths import some_text
from relay.core.dub.fields import MAX_SAFE_INTEGER
from relay.core.dub.track_lead import (
    MAX_CUSTOMER_ID,
    MAX_EVENT_NAME,
)
from relay.core.leads import LeadStatus

TAG: Final = "Dub's API"

SECURITY: Final[Json] = {
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

_ERRORS: Final = (400, 401, 404, 413, 422, 429, 503)


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
        TAG,
        what,
        {
            "200": response("Committed, in the shape of Dub's answer.", schema),
            "409": error(409, "This Idempotency-Key came before with another body."),
        },
        errors=_ERRORS,
        body=body,
        parameters=(KEY,),
        security="bearer",
        more='With `mode: "wait"`, a final error of Dub\'s passes as it is.',
    )


PATHS: Final[Paths] = {
    "/track/lead": {"post": _taken("A lead, in Dub's schema", LEAD)},
    "/track/sale": {
        "post": _taken("A sale, in its customer's line behind the lead", SALE)
    },
}
