"""``dub-relay check --try FILE``: a saved sign-up, replayed through the rules.

Nothing is sent and nothing is stored. The file is JSON (docs/signup-rules.md):

    {"request": {"method": "POST", "target": "/signup", "headers": {...},
                 "body": "..."},
     "response": {"status": 303, "headers": {...}, "body": "..."}}
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from relay.core.dub.track_lead import (
    InvalidFieldError,
    LeadFields,
    sanitise,
)
from relay.core.http import cookies
from relay.core.http.headers import Headers
from relay.core.rules.documents import (
    Copy,
    document,
)
from relay.core.rules.rule import (
    Draft,
    SignupRule,
    evaluate,
    match,
)

_KEYS: Final = {
    "request": {"method", "target", "headers", "body", "body_base64"},
    "response": {"status", "headers", "body", "body_base64"},
}


class TryoutError(Exception):
    """The file is no saved sign-up; one line that says why."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and the site's answer, as the proxy would have seen them."""

    method: str
    target: str
    headers: Headers
    body: bytes
    status: int
    response_headers: Headers
    response_body: bytes


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """What would become of it: a lead, or ``reason`` why there is none."""

    rule: str | None = None
    lead: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()
    reason: str | None = None


def read_exchange(path: str) -> Exchange:
    """Read the file; raise :class:`TryoutError` if it is not as documented."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise TryoutError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_exchange(content, path)


def parse_exchange(content: str | bytes, name: str = "the sign-up") -> Exchange:
    """Read a saved sign-up; raise :class:`TryoutError` if it is not as documented."""
    try:
        said = json.loads(content)
    except ValueError as error:
        raise TryoutError(f"{name}: is not JSON: {error}") from error
    if not isinstance(said, dict):
        raise TryoutError(f"{name}: must be an object")
    request, response = (_part(said, name) for name in _KEYS)
    return Exchange(
        method=_typed(request, "request.method", str, "POST").upper(),
        target=_typed(request, "request.target", str, None),
        headers=_headers(request, "request"),
        body=_body(request, "request"),
        status=_typed(response, "response.status", int, None),
        response_headers=_headers(response, "response"),
        response_body=_body(response, "response"),
    )


def _part(said: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = said.get(name)
    if not isinstance(part, dict):
        raise TryoutError(f"{name}: must be an object")
    for key in part:
        if key not in _KEYS[name]:
            known = ", ".join(sorted(_KEYS[name]))
            raise TryoutError(f"{name}: has a key that is unknown; known are {known}")
    return part


def _typed(part: Mapping[str, Any], where: str, kind: type, default: Any) -> Any:
    value = part.get(where.partition(".")[2], default)
    if not isinstance(value, kind) or isinstance(value, bool):
        word = "a number" if kind is int else "text"
        raise TryoutError(f"{where}: must be {word}")
    return value


def _headers(part: Mapping[str, Any], name: str) -> Headers:
    """Return header lines; a list of texts stands for a field that is repeated."""
    said = part.get("headers", {})
    if not isinstance(said, dict):
        raise TryoutError(f"{name}.headers: must be an object")
    lines = []
    for field, values in said.items():
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str):
                raise TryoutError(f"{name}.headers.{field}: must be text")
            lines.append((field.encode(), value.encode()))
    return lines


def _body(part: Mapping[str, Any], name: str) -> bytes:
    if "body_base64" in part:
        try:
            return base64.b64decode(part["body_base64"], validate=True)
        except (binascii.Error, TypeError, ValueError) as error:
            raise TryoutError(f"{name}.body_base64: is not base64") from error
    body = part.get("body", "")
    # What a person writes most naturally for a JSON body is the JSON itself.
    return (body if isinstance(body, str) else json.dumps(body)).encode()


def try_out(rules: Sequence[SignupRule], exchange: Exchange) -> RuleVerdict:
    """Say what the rules make of an exchange."""
    path, _, query = exchange.target.partition("?")
    found = match(rules, exchange.method, path)
    if found is None:
        return RuleVerdict(reason=f"no rule matches {exchange.method} {path}")
    rule, path_params = found
    draft = evaluate(
        rule,
        document(
            query=query,
            path_params=path_params,
            headers=exchange.headers,
            request=Copy.of(exchange.headers, exchange.body),
            response_status=exchange.status,
            response_headers=exchange.response_headers,
            response=Copy.of(exchange.response_headers, exchange.response_body),
        ),
    )
    if draft is None:
        return RuleVerdict(rule.label, reason=f"when says no: {rule.when.text}")
    return _judged(rule, draft, exchange)


def _judged(rule: SignupRule, draft: Draft, exchange: Exchange) -> RuleVerdict:
    click_id = _click(rule, exchange)
    if click_id is None:
        why = "the request has no dub_id cookie: counted as unattributed, not stored"
        return RuleVerdict(rule.label, notes=draft.notes, reason=why)
    if draft.problem is not None:
        why = f"kept as rejected: {draft.problem}"
        return RuleVerdict(rule.label, notes=draft.notes, reason=why)
    try:
        fields, left_out = sanitise(draft.fields, lenient_quantity=True)
    except InvalidFieldError as error:
        why = f"kept as rejected: {error.issue.text}"
        return RuleVerdict(rule.label, notes=draft.notes, reason=why)
    lead = _lead(fields, click_id)
    return RuleVerdict(rule.label, lead=lead, notes=(*draft.notes, *left_out))


def _click(rule: SignupRule, exchange: Exchange) -> str | None:
    given = [
        value.decode("utf-8", "surrogateescape")
        for name, value in exchange.headers
        if name.lower() == b"cookie"
    ]
    return cookies.click_id(given) or ("" if rule.known_customer else None)


def _lead(fields: LeadFields, click_id: str) -> dict[str, Any]:
    """Return the lead under Dub's names, without what is absent."""
    said = {
        "clickId": click_id,
        "eventName": fields.event_name,
        "customerExternalId": fields.customer_external_id,
        "customerName": fields.customer_name,
        "customerEmail": fields.customer_email,
        "customerAvatar": fields.customer_avatar,
        "mode": fields.mode.value,
        "eventQuantity": fields.event_quantity,
        "metadata": fields.metadata,
    }
    return {name: value for name, value in said.items() if value is not None}


def lines(verdict: RuleVerdict) -> Iterator[str]:
    """Write a verdict for people."""
    if verdict.rule is not None:
        yield f"rule  {verdict.rule}"
    if verdict.lead is not None:
        yield f"lead  {json.dumps(verdict.lead, ensure_ascii=False)}"
    for each in verdict.notes:
        yield f"note  {each}"
    if verdict.reason is not None:
        yield f"none  {verdict.reason}"


def as_json(verdict: RuleVerdict) -> dict[str, Any]:
    """Return a verdict for programs."""
    return {
        "rule": verdict.rule,
        "lead": verdict.lead,
        "notes": list(verdict.notes),
        "reason": verdict.reason,
    }
