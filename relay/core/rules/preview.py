"""``dub-relay check --try FILE``: saved sign-ups, replayed through the rules.

Nothing is sent and nothing is stored. The file is a HAR, as browsers export what their
network panel shows, or JSON (docs/signup-rules.md):

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
from relay.core.rules.bodies import Copy
from relay.core.rules.candidates import quoted
from relay.core.rules.documents import answered, asked_document
from relay.core.rules.evaluation import Beside, Draft, decide
from relay.core.rules.har import Exchange, TryoutError, read_har
from relay.core.rules.json_verdict import Ruling
from relay.core.rules.rule import SignupRule, match
from relay.core.rules.success import Asked, Verdict

_KEYS: Final = {
    "request": {"method", "target", "headers", "body", "body_base64"},
    "response": {"status", "headers", "body", "body_base64"},
}


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """What would become of it: a lead, or ``reason`` why there is none.

    ``when`` would decide it, where the default test cannot.
    """

    rule: str | None = None
    lead: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()
    reason: str | None = None
    when: str | None = None
    request: str | None = None


def read_exchanges(path: str) -> list[Exchange]:
    """Read the file; raise :class:`TryoutError` if it is not as documented."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise TryoutError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_exchanges(content, path)


def parse_exchanges(content: str | bytes, name: str = "the sign-up") -> list[Exchange]:
    """Read saved sign-ups; raise :class:`TryoutError` if there are none."""
    try:
        said = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise TryoutError(f"{name}: is not JSON: {error}") from error
    if not isinstance(said, dict):
        raise TryoutError(f"{name}: must be an object")
    return read_har(said) if "log" in said else [_exchange(said)]


def _exchange(said: Mapping[str, Any]) -> Exchange:
    request, response = (_part(said, each) for each in _KEYS)
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


def try_all(rules: Sequence[SignupRule], exchanges: Sequence[Exchange]) -> RuleVerdict:
    """Say what the rules make of exchanges: of the first that makes a lead, if any.

    Else of the first that a rule matches.
    """
    tried = [try_out(rules, each) for each in exchanges]
    matched = [each for each in tried if each.rule is not None]
    best = [each for each in matched if each.lead is not None] or matched or tried
    if len(exchanges) == 1 or matched:
        return best[0]
    posts = sorted({each.request or "" for each in tried if each.request} - {""})
    asked = ", ".join(each for each in posts if not each.startswith("GET "))
    return RuleVerdict(
        reason=f"no rule matches any of {len(tried)} requests"
        + (f"; those that may be a sign-up: {asked}" if asked else "")
    )


def try_out(rules: Sequence[SignupRule], exchange: Exchange) -> RuleVerdict:
    """Say what the rules make of an exchange."""
    path, _, query = exchange.target.partition("?")
    request = f"{exchange.method} {path}"
    matches = match(rules, exchange.method, path, query)
    if not matches:
        return RuleVerdict(reason=f"no rule matches {request}", request=request)
    asked = asked_document(
        query=query,
        path_params=matches[0].params,
        headers=exchange.headers,
        request=Copy.of(exchange.headers, exchange.body),
    )
    copy = Copy.of(exchange.response_headers, exchange.response_body)
    whole = answered(asked, exchange.status, exchange.response_headers, copy)
    beside = Beside(
        Asked.of(exchange.target, _host(exchange), exchange.headers),
        whole.answer_start,
        unreadable=whole.answer_unread,
    )
    rule, judged = decide(matches, whole, beside)
    if judged.draft is None:
        verdict = judged.verdict
        return RuleVerdict(
            rule.label, reason=_unless_accepted(verdict), when=verdict.when
        )
    return _judged(rule, judged.draft, exchange)


def _unless_accepted(verdict: Verdict) -> str:
    if verdict.outcome is Ruling.UNDECIDED:
        return f"undecided, so no lead: {verdict.reason}"
    return verdict.reason


def _host(exchange: Exchange) -> str:
    hosts = (value for name, value in exchange.headers if name.lower() == b"host")
    return next(hosts, b"").decode("utf-8", "replace")


def _judged(rule: SignupRule, draft: Draft, exchange: Exchange) -> RuleVerdict:
    click_id = _click(rule, exchange)
    if click_id is None:
        why = "the request has no dub_id cookie: counted as unattributed, not stored"
        if not any(name.lower() == b"cookie" for name, _ in exchange.headers):
            why += " (browsers leave cookies out of a HAR unless asked for them)"
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
    if verdict.when is not None:
        yield f"when  would be decided by: when = {quoted(verdict.when)}"


def as_json(verdict: RuleVerdict) -> dict[str, Any]:
    """Return a verdict for programs."""
    said = {
        "rule": verdict.rule,
        "lead": verdict.lead,
        "notes": list(verdict.notes),
        "reason": verdict.reason,
    }
    return said | ({"when": verdict.when} if verdict.when else {})
