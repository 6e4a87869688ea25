"""A request and a reply of the API, without sockets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

from relay.core.dub import errors
from relay.sandbox.faults import Conditions
from relay.sandbox.model import RecordedLead, RefusalError

LEAD_PATHS: Final = ("/track/lead", "/track/lead/client")

CORS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, OPTIONS",
    "Access-Control-Allow-Headers": "Content-Type, Authorization",
}
"""What Dub's browser endpoints send; its server endpoints have no CORS."""


@dataclass(frozen=True)
class Incoming:
    """A request, read to its end. Header names are compared without case."""

    method: str
    path: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes
    address: str
    now: int

    @cached_property
    def parsed(self) -> Any:
        """The body as JSON, whatever its content type; raise RefusalError."""
        try:
            text = self.body.decode("utf-8", "replace")
            return json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise RefusalError(errors.BAD_REQUEST, errors.INVALID_JSON) from None

    @cached_property
    def fields(self) -> Mapping[str, Any]:
        """The body's fields, empty when it is no JSON object. Never raises."""
        try:
            parsed = self.parsed
        except RefusalError:
            return {}
        return parsed if isinstance(parsed, dict) else {}

    @property
    def step(self) -> str | None:
        """Which of the relay's two steps a lead's call is; None for other calls."""
        if self.path not in LEAD_PATHS or self.method != "POST":
            return None
        return "deferred" if self.fields.get("mode") == "deferred" else "record"


def _no_constant(name: str) -> None:
    # Python reads NaN and Infinity, JSON.parse does not.
    raise ValueError(name)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the API answers; ``lead`` is set when one was recorded."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    lead: RecordedLead | None = None
    code: str | None = None
    note: str = ""


def refused(refusal: RefusalError, headers: Mapping[str, str] | None = None) -> Reply:
    """Put an error into Dub's envelope."""
    return Reply(
        status=errors.CODES[refusal.code],
        body=errors.error_body(refusal.code, refusal.message),
        headers=headers or {},
        code=refusal.code,
        note=refusal.message,
    )


_MADE_UP: Final = {
    status: code
    for code, status in errors.CODES.items()
    if code not in ("exceeded_limit", "invite_pending")
}
"""The code of each of Dub's statuses, the plain one where it has two."""

_HTML: Final = (
    "<!doctype html><title>Bad gateway</title><h1>Bad gateway</h1>"
    "<p>The server in front of the API has no answer for you.</p>"
)


def made_up(conditions: Conditions, headers: Mapping[str, str]) -> Reply:
    """Make the reply of a fault that names a status."""
    status = conditions.status or 500
    if conditions.html:
        return Reply(status, _HTML, {"Content-Type": "text/html"})
    if status < 400:
        return Reply(status, {})
    code = conditions.code or _MADE_UP.get(status, errors.INTERNAL)
    message = conditions.message or _message(status)
    # Rate headers come from Dub itself, not from what stands in front of it.
    own = status in _MADE_UP and status != 401
    return Reply(
        status,
        _envelope(code, message),
        headers if own else {},
        code=code,
    )


def _message(status: int) -> str:
    if status == 429:
        return errors.TOO_MANY_REQUESTS
    if status == 500:
        return errors.INTERNAL_ERROR
    return f"The sandbox was told to answer {status}."


def _envelope(code: str, message: str) -> dict[str, Any]:
    """Write an error, with a code that is none of Dub's as well."""
    body = errors.error_body(errors.INTERNAL, message)
    detail = {**body["error"], "code": code, "doc_url": errors.doc_url(code)}
    return {"error": detail}


def with_retry_after(reply: Reply, value: str | None) -> Reply:
    """Replace the Retry-After of an error as the fault says; "" leaves it out."""
    if value is None or reply.status < 400:
        return reply
    headers = {name: it for name, it in reply.headers.items() if name != "Retry-After"}
    if value:
        headers["Retry-After"] = value
    return replace(reply, headers=headers)


def with_cors(reply: Reply) -> Reply:
    """Add the headers that let any page read the reply."""
    return replace(reply, headers={**reply.headers, **CORS})
