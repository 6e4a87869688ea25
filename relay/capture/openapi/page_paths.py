"""What the site's pages and their script call, and what watches a relay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from relay.capture.openapi.components import (
    Json,
    Paths,
    error,
    header,
    operation,
    response,
    status_of,
    text,
)
from relay.capture.pass_through import (
    KEYED_PATHS,
    OPEN_PATHS,
)
from relay.capture.snippet import (
    EXTRAS,
    NAMES,
)

_PAGES: Final = "pages"

JAVASCRIPT: Final = "text/javascript"

_SCRIPT: Final = {
    "200": text("The script.", JAVASCRIPT),
    "304": {"description": "Unchanged (If-None-Match)."},
}

ORIGIN: Final = header(
    "Origin", "Of the very origin that is asked.", {"type": "string", "format": "uri"}
)

COOKIE: Final[Json] = {
    "type": "object",
    "properties": {
        "dub_id": {
            "type": ["string", "null"],
            "pattern": "^[A-Za-z0-9_-]{8,64}$",
            "description": "Absent: restore what was lost. null: forget it.",
        },
        "used": {
            "type": "boolean",
            "description": "true: a sign-up has used the click of this browser.",
        },
    },
}

_WRITTEN: Final = {"204": {"description": "Done; Set-Cookie has the cookies."}}

PUBLISHABLE_KEY: Final[Json] = {
    "publishableKey": {
        "type": "http",
        "scheme": "bearer",
        "description": "Dub's publishable key (`dub_pk_…`).",
    }
}

_TEXT: Final[Json] = {"type": "string", "minLength": 1}


def _needs(*names: str) -> Json:
    return {"required": list(names), "properties": dict.fromkeys(names, _TEXT)}


CALLS: Final[Mapping[str, Json]] = {
    "track/click": {"type": "object", **_needs("domain", "key")},
    "track/visit": {"type": "object", **_needs("domain", "url")},
    "track/open": {
        "type": "object",
        "anyOf": [_needs("deepLink"), _needs("dubDomain")],
    },
    "track/lead/client": {
        "type": "object",
        **_needs("clickId", "eventName", "customerExternalId"),
    },
    "track/sale/client": {
        "type": "object",
        "required": ["customerExternalId", "amount"],
        "properties": {
            "customerExternalId": _TEXT,
            "amount": {
                "type": "integer",
                "minimum": 0,
                "description": "In cents.",
            },
        },
    },
}
"""What Dub needs at least; the rest is its documentation's."""

DUBS_OWN: Final = {
    "description": "Dub's own answer, or what the relay says in its place.",
    "content": {"application/json": {"schema": {}}},
}


_TICKET: Final[Json] = {
    "type": "object",
    "required": ["ticket"],
    "properties": {
        "ticket": {"type": ["string", "null"]},
        "expiresIn": {"type": "number", "description": "Seconds."},
    },
}

_ISSUED: Final = operation(
    _PAGES,
    "The visitor's click, signed for a page of the site",
    {"200": response("The ticket; null where no click is known.", _TICKET)},
    errors=(403,),
    parameters=(ORIGIN,),
)


def _scripts() -> Iterator[tuple[str, Json]]:
    for name in (*NAMES, EXTRAS):
        yield f"/{name}", {"get": operation(_PAGES, "The snippet", _SCRIPT)}
    by_hash = operation(
        _PAGES,
        "The snippet under an address that never changes",
        _SCRIPT,
        errors=(404,),
        parameters=(
            {
                "name": "variant",
                "in": "path",
                "required": True,
                "schema": {"enum": [name.removesuffix(".js") for name in NAMES]},
            },
            {
                "name": "hash",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
            },
        ),
    )
    yield "/{variant}.{hash}.js", {"get": by_hash}


_PASSING_ERRORS: Final = (400, 408, 413, 429, 502, 504)

_ERRORS: Final = (*_PASSING_ERRORS, 401, 403, 422, 503)
"""Also of a call that is stored."""


def _passed_on() -> Iterator[tuple[str, Json]]:
    for path in (*OPEN_PATHS, *KEYED_PATHS):
        yield (
            f"/{path}",
            {
                "post": operation(
                    _PAGES,
                    f"A browser's call of Dub's `{path}`, "
                    + ("stored, or passed on" if path in KEYED_PATHS else "passed on"),
                    {"2XX": DUBS_OWN, "4XX": DUBS_OWN},
                    errors=_ERRORS if path in KEYED_PATHS else _PASSING_ERRORS,
                    body=CALLS[path],
                    security="publishableKey" if path in KEYED_PATHS else None,
                ),
                "options": operation(
                    _PAGES, "Its preflight", {"204": {"description": "As Dub answers."}}
                ),
            },
        )


PAGES: Final[Paths] = {
    **dict(_scripts()),
    **dict(_passed_on()),
    "/ticket": {"get": _ISSUED, "post": _ISSUED},
    "/cookie": {
        "post": operation(
            _PAGES,
            "The click cookie, written by the site's own server",
            _WRITTEN,
            errors=(400, 403, 408, 413, 415, 422),
            body=COOKIE,
            parameters=(ORIGIN,),
        ),
        "delete": operation(
            _PAGES,
            "The click cookie and its signed copy, removed",
            _WRITTEN,
            errors=(403,),
            parameters=(ORIGIN,),
        ),
    },
}


# --- Health, figures, and the document itself. ---

_WATCHING: Final = "watching"

HEALTH: Final[Paths] = {
    "/livez": {
        "get": operation(
            _WATCHING,
            "Whether the process lives",
            {"200": response("It does.", status_of("alive"))},
        )
    },
    "/readyz": {
        "get": operation(
            _WATCHING,
            "Whether leads are taken",
            {
                "200": response("They are.", status_of("ready")),
                "503": {
                    **error(503, "It stops, is out of descriptors, or cannot write."),
                    "headers": {},
                },
            },
        )
    },
    "/metrics": {
        "get": operation(
            _WATCHING,
            "Figures for Prometheus",
            {"200": text("Its format.", "text/plain")},
        )
    },
    "/openapi.json": {
        "get": operation(
            _WATCHING,
            "This document",
            {
                "200": response("OpenAPI 3.1.", {"type": "object"}),
                "304": {"description": "Unchanged (If-None-Match)."},
            },
        )
    },
}
