"""A request and a reply of the API, without sockets."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

from relay.core.dub import errors
from relay.core.dub.browser_calls import (
    UNKNOWN_KEY,
    host_refused,
    is_allowed,
    page_host,
)
from relay.sandbox.faults import Conditions
from relay.sandbox.model import Event, RefusalError

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
    """What the API answers, and the leads and sales that it recorded."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    recorded: tuple[Event, ...] = ()
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
    return f"The sandbox was set to answer {status}."


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


# --- Who may call: keys, what they are worth, and the rate they may call at. ---

DEFAULT_RATE: Final = 1200
"""Calls a minute of Dub's Business plan: shown in headers, held only by the knob."""

PUBLISHABLE_RATE: Final = 600
"""Calls a minute of a publishable key, for all visitors together."""

ANALYTICS_RATE: Final = 4
"""Calls a second of Dub's Business plan to ``/events``, apart from all others; shown
in headers, held only by the knob."""

SERVER: Final = "server"
"""The workspace's own key, among those whose calls are counted."""

_MINUTE_MS: Final = 60_000

_WORTH: Final[Mapping[str, tuple[str, str]]] = {
    "revoked": ("unauthorized", errors.INVALID_KEY),
    "expired": ("unauthorized", errors.EXPIRED_KEY),
    "no-membership": ("not_found", errors.WORKSPACE_NOT_FOUND),
    "wrong-role": ("forbidden", errors.WRONG_ROLE),
}

_BEFORE_RATE: Final = ("revoked", "expired")


@dataclass(frozen=True, slots=True)
class Meter:
    """Calls that are counted together: those of a key, by the minute or the second."""

    key: str
    analytics: bool = False

    @classmethod
    def of(cls, path: str, key: str) -> Meter:
        """Return the meter of a key's call: Dub goes by ``/events`` in the path."""
        return cls(key, "/events" in path)

    @property
    def span_ms(self) -> int:
        """How long a call counts."""
        return 1000 if self.analytics else _MINUTE_MS

    @property
    def plan(self) -> int:
        """The plan's figure, as the headers show it."""
        if self.key != SERVER:
            return PUBLISHABLE_RATE
        return ANALYTICS_RATE if self.analytics else DEFAULT_RATE

    def held_to(self, rate: int | None) -> int | None:
        """Return the rate that holds: the knob's, else only a publishable key's own."""
        return PUBLISHABLE_RATE if rate is None and self.key != SERVER else rate


@dataclass(frozen=True, slots=True)
class Allowance:
    """The rate headers of one call; Dub writes both times in epoch ms."""

    limit: int
    remaining: int
    reset: int

    def headers(self) -> dict[str, str]:
        """Return the headers that every error after the rate check carries."""
        return {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(self.reset),
            "Retry-After": str(self.reset),
        }


class Circuit:
    """The keys of one workspace, and the calls of the last minute."""

    def __init__(self, api_key: str, publishable_key: str) -> None:
        self.api_key = api_key
        self.publishable_key = publishable_key
        self._calls: dict[Meter, deque[int]] = {}

    def reset(self) -> None:
        """Forget the calls that were counted."""
        self._calls.clear()

    def identify(self, authorization: str | None, conditions: Conditions) -> None:
        """Check the key itself; raise RefusalError."""
        if authorization is None:
            raise RefusalError("unauthorized", errors.MISSING_HEADER)
        if not authorization.startswith("Bearer "):
            raise RefusalError(errors.BAD_REQUEST, errors.MISCONFIGURED_HEADER)
        key = authorization.removeprefix("Bearer ")
        if not key.startswith("dub_"):
            raise RefusalError("not_found", errors.WORKSPACE_ID_NOT_FOUND)
        if key != self.api_key:
            raise RefusalError("unauthorized", errors.INVALID_KEY)
        if conditions.key in _BEFORE_RATE:
            raise RefusalError(*_WORTH[conditions.key])

    def require_publishable(self, key: str) -> None:
        """Check a browser's key, whose call was counted; raise RefusalError."""
        if key != self.publishable_key:
            raise RefusalError(*UNKNOWN_KEY)

    def count(self, meter: Meter, now: int, rate: int | None) -> tuple[bool, Allowance]:
        """Count a call; whether it may pass, and its rate headers."""
        used, rate = self._used(meter, now), meter.held_to(rate)
        passed = rate is None or used < rate
        if passed:
            self._calls[meter].append(now)
        return passed, self.standing(meter, now, rate)

    def standing(self, meter: Meter, now: int, rate: int | None = None) -> Allowance:
        """Return the rate headers as they stand, without counting a call."""
        limit = meter.plan if rate is None else rate
        reset = (now // meter.span_ms + 1) * meter.span_ms
        return Allowance(limit, max(0, limit - self._used(meter, now)), reset)

    def _used(self, meter: Meter, now: int) -> int:
        calls = self._calls.setdefault(meter, deque())
        while calls and calls[0] <= now - meter.span_ms:
            calls.popleft()
        return len(calls)

    def admit(self, conditions: Conditions) -> None:
        """Check workspace, role and plan, after the rate; raise RefusalError."""
        if conditions.key in _WORTH:
            raise RefusalError(*_WORTH[conditions.key])
        require_plan(conditions)


def require_plan(conditions: Conditions) -> None:
    """Refuse a workspace whose plan has no conversion tracking."""
    if conditions.plan == "free":
        raise RefusalError("forbidden", errors.NEED_HIGHER_PLAN)


def require_hostname(
    allowed: Sequence[str], referer: str | None, origin: str | None
) -> None:
    """Hold a browser's call to the workspace's allowed hostnames.

    An empty list allows all. Referer counts before Origin; ``*.site`` covers
    its subdomains but not the site itself.
    """
    host = page_host(referer, origin)
    if allowed and not is_allowed(host, allowed):
        raise RefusalError("forbidden", host_refused(host))
