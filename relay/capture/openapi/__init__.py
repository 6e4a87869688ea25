"""The OpenAPI 3.1 document of the relay's own endpoints, and its endpoint.

``server_paths`` and ``page_paths`` describe the endpoints in groups; a new group is
listed in ``GROUPS``, a new scheme in ``SECURITY``. A test compares the document with
the routes of the application, and another calls them all as the document says.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from aiohttp import web

from relay.capture.openapi.components import SCHEMAS
from relay.capture.openapi.page_paths import HEALTH, PAGES, PUBLISHABLE_KEY
from relay.capture.openapi.server_paths import BEARER, HOOK_SECURITY, HOOKS, TRACK
from relay.core import VERSION, jsontext
from relay.core.http.forwarding import matches
from relay.http.raw_responses import FixedAnswer

PATH: Final = "openapi.json"

GROUPS: Final = (HOOKS, TRACK, PAGES, HEALTH)
"""All that is described, in the order in which it is shown."""

SECURITY: Final = {**HOOK_SECURITY, **BEARER, **PUBLISHABLE_KEY}
"""The schemes that operations name."""


def document(prefix: str) -> dict[str, Any]:
    """Return the document of a relay with this prefix."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dub-relay",
            "version": VERSION,
            "description": "A self-hosted attribution relay for Dub.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": prefix or "/"}],
        "paths": {path: item for group in GROUPS for path, item in group.items()},
        "components": {"schemas": SCHEMAS, "securitySchemes": SECURITY},
    }


class OpenApi:
    """Serves the document, written once when the relay starts."""

    def __init__(self, prefix: str) -> None:
        body = jsontext.encode(document(prefix))
        self._etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        kept = {"ETag": self._etag, "Cache-Control": "no-cache"}
        said = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        self._whole = FixedAnswer(200, kept | said, body)
        self._unchanged = FixedAnswer(304, kept)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer GET and HEAD."""
        asked = request.headers.getall("If-None-Match", [])
        known = matches(asked, self._etag)
        return (self._unchanged if known else self._whole).to(request)
