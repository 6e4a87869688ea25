"""What the entries of the document are put together from."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from relay.core.dub.errors import CODES

Json = Mapping[str, Any]
"""A piece of the document."""

Paths = Mapping[str, Json]
"""Path items by their path below the prefix, which starts with a slash."""

JSON: Final = "application/json"

SCHEMAS: Final[Json] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message", "doc_url"],
                "properties": {
                    "code": {"type": "string", "enum": list(CODES)},
                    "message": {"type": "string"},
                    "doc_url": {"type": "string", "format": "uri"},
                },
            }
        },
    },
}
"""Dub's envelope, which every error under the prefix has."""

RETRY_AFTER: Final[Json] = {
    "Retry-After": {
        "description": "Seconds to wait.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    }
}

ALWAYS: Final = (405, 500)
"""Of every endpoint: another method, and a defect of the relay's."""

_MEANINGS: Final[Mapping[int, str]] = {
    400: "The body is not JSON, or broke off.",
    401: "The signature or the key is missing, stale or does not fit.",
    404: "There is nothing here, or it is switched off.",
    405: "Another method; Allow names those there are.",
    408: "The body did not come in time.",
    413: "The body is too long.",
    422: "A field is missing or wrong; the message says which.",
    429: "Too many calls from this address.",
    500: "A defect of the relay's.",
    502: "Dub could not be reached, or gave no answer of its API's.",
    503: "It could not be committed. Send it again.",
    504: "Dub did not answer in time.",
}

_WITH_RETRY_AFTER: Final = frozenset({429, 503})


def operation(
    tag: str,
    summary: str,
    responses: Mapping[str, Json],
    *,
    errors: tuple[int, ...] = (),
    body: Json | None = None,
    parameters: tuple[Json, ...] = (),
    security: str | None = None,
    more: str = "",
    body_required: bool = True,
) -> Json:
    """Describe what a method of a path does. ``errors`` are beside ``ALWAYS``."""
    failed = {str(it): error(it) for it in sorted({*errors, *ALWAYS})}
    found: dict[str, Any] = {
        "tags": [tag],
        "summary": summary,
        "responses": {**responses, **failed},
    }
    if more:
        found["description"] = more
    if parameters:
        found["parameters"] = list(parameters)
    if body is not None:
        found["requestBody"] = {
            "required": body_required,
            "content": {JSON: {"schema": body}},
        }
    if security is not None:
        found["security"] = [{security: []}]
    return found


def response(description: str, schema: Json, **more: Any) -> Json:
    """Describe a JSON answer; ``more`` are other members, such as ``headers``."""
    return {"description": description, "content": {JSON: {"schema": schema}}, **more}


def error(status: int, meaning: str = "") -> Json:
    """Describe an error in Dub's shape."""
    description = meaning or _MEANINGS.get(status, HTTPStatus(status).phrase)
    more = {"headers": RETRY_AFTER} if status in _WITH_RETRY_AFTER else {}
    return response(description, {"$ref": "#/components/schemas/Error"}, **more)


def text(description: str, *types: str) -> Json:
    """Describe an answer that is no JSON."""
    content = {each: {"schema": {"type": "string"}} for each in types}
    return {"description": description, "content": content}


def header(name: str, description: str, schema: Json) -> Json:
    """Describe a header that a request must have."""
    return {
        "name": name,
        "in": "header",
        "required": True,
        "description": description,
        "schema": schema,
    }


def status_of(*words: str) -> Json:
    """Describe an object with one of these words as its ``status``."""
    return {
        "type": "object",
        "required": ["status"],
        "properties": {"status": {"type": "string", "enum": list(words)}},
    }
