"""What watches a relay: health, figures, and the document itself."""

from __future__ import annotations

from typing import Final

from relay.capture.openapi.components import (
    Paths,
    error,
    operation,
    response,
    status_of,
    text,
)

TAG: Final = "watching"

PATHS: Final[Paths] = {
    "/livez": {
        "get": operation(
            TAG,
            "Whether the process lives",
            {"200": response("It does.", status_of("alive"))},
        )
    },
    "/readyz": {
        "get": operation(
            TAG,
            "Whether leads are taken",
            {
                "200": response("They are.", status_of("ready")),
                "503": {
                    **error(503, "It is stopping, or the database cannot be written."),
                    "headers": {},
                },
            },
        )
    },
    "/metrics": {
        "get": operation(
            TAG, "Figures for Prometheus", {"200": text("Its format.", "text/plain")}
        )
    },
    "/openapi.json": {
        "get": operation(
            TAG,
            "This document",
            {
                "200": response("OpenAPI 3.1.", {"type": "object"}),
                "304": {"description": "Unchanged (If-None-Match)."},
            },
        )
    },
}
