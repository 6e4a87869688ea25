"""Sign-ups that went around the relay, as a front server's log has them.

One JSON object a line, with what rules read of a request and little of the response:

    {"time": "...", "method": "POST", "target": "/signup", "scheme": "https",
     "host": "www.example.com", "cookie": "...", "referer": "...", "type": "...",
     "coding": "", "length": "27", "body": "...", "status": "303", "location": "/x"}

A name may end in ``_base64``. Without that a text's characters are bytes, as nginx
writes them (``escape=json``).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from relay.core.rules.bodies import Copy
from relay.core.rules.documents import answered, asked_document
from relay.core.rules.evaluation import Beside, Draft, decide, draft, placed
from relay.core.rules.expression_tree import Trail
from relay.core.rules.har import Exchange
from relay.core.rules.rule import SignupRule, match
from relay.core.rules.success import Asked

MAX_LINE: Final = 1024 * 1024
"""Bytes of a line that are read: none that a front server of ours writes is longer."""

_HEADERS: Final = {
    "host": b"Host",
    "cookie": b"Cookie",
    "referer": b"Referer",
    "type": b"Content-Type",
    "coding": b"Content-Encoding",
}

_LOGGED: Final = (("response", "status"), ("response", "headers", "location"))
"""What of a response stands in the log."""

_UNSEEN: Final = (
    "the rule reads the site's response, which went around the relay and was not logged"
)


class BypassError(ValueError):
    """A line that is no logged sign-up; says why, without anything of it."""


class Bypassed(NamedTuple):
    """A request that went around, and the site's answer as far as it is known.

    ``at`` is when, as the log has it.
    """

    exchange: Exchange
    secure: bool
    at: str

    @property
    def host(self) -> str:
        """Return the host that the visitor sees."""
        hosts = (v for name, v in self.exchange.headers if name.lower() == b"host")
        return next(hosts, b"").decode("latin-1")


class Judged(NamedTuple):
    """The rule that a logged sign-up is judged by, and its draft; None: refused."""

    rule: SignupRule
    draft: Draft | None


_NO_REQUEST: Final = "<BADREQ>"
"""What HAProxy logs for a connection that brought no request."""


def read_line(line: bytes) -> Bypassed | None:
    """Read a line of the log; None for one of no request.

    Raises BypassError if it cannot be understood.
    """
    if len(line) > MAX_LINE:
        raise BypassError(f"over {MAX_LINE} bytes")
    try:
        said = json.loads(line.decode("latin-1"))
    except (ValueError, RecursionError):
        raise BypassError("not JSON: cut off, or no log of dub-relay front's") from None
    if not isinstance(said, dict):
        raise BypassError("not an object")
    record = _Record(said)
    method, target = record.text("method"), record.text("target")
    if method == _NO_REQUEST:
        return None
    if not (method and target.startswith("/")):
        raise BypassError("has no method or target")
    status = record.text("status")
    if not status.isascii() or not status.isdigit():
        raise BypassError("has no status")
    body, length = record.raw("body"), record.text("length")
    if not body and length not in {"", "0"}:
        raise BypassError("its body was too long to be logged")
    location = record.raw("location")
    return Bypassed(
        Exchange(
            method.upper(),
            target,
            [(name, v) for key, name in _HEADERS.items() if (v := record.raw(key))],
            body,
            int(status),
            [(b"Location", location)] if location else [],
            None,
        ),
        record.text("scheme") == "https",
        record.text("time"),
    )


@dataclass(frozen=True, slots=True)
class _Record:
    said: Mapping[str, Any]

    def raw(self, name: str) -> bytes:
        coded = self.said.get(f"{name}_base64")
        value = self.said.get(name) if coded is None else coded
        # HAProxy and Envoy write "-" and null for what is not there.
        if value is None or value == "-":
            return b""
        text = str(value) if isinstance(value, str | int) else ""
        try:
            if coded is not None:
                return base64.b64decode(text, validate=True)
            return text.encode("latin-1")
        except (binascii.Error, ValueError):
            raise BypassError(f"{name}: not bytes") from None

    def text(self, name: str) -> str:
        return self.raw(name).decode("latin-1")


def judge_bypassed(rules: Sequence[SignupRule], one: Exchange) -> Judged | None:
    """Judge a sign-up by the rules; None if none matches.

    What only the response could tell leaves a draft with a problem, to be kept as
    rejected: a person can look, and send it.
    """
    path, _, query = one.target.partition("?")
    matches = match(rules, one.method, path, query)
    if not matches:
        return None
    asked = asked_document(
        query=query,
        path_params=matches[0].params,
        headers=one.headers,
        request=Copy.of(one.headers, one.body),
    )
    known = one.response_body is not None
    copy = Copy.of(one.response_headers, one.response_body) if known else None
    whole = answered(asked, one.status, one.response_headers, copy)
    unread = whole.answer_unread if known else True
    host = next((v for name, v in one.headers if name.lower() == b"host"), b"")
    beside = Beside(
        Asked.of(one.target, host.decode("latin-1"), one.headers),
        whole.answer_start,
        unreadable=unread,
    )
    rule, judged = decide(matches, whole, beside)
    if judged.draft is not None or known or one.status >= _REFUSES:
        return Judged(rule, judged.draft)
    if rule.when is None or not any(map(_is_unseen, rule.when.reads)):
        return Judged(rule, None)
    # `when` said no to a response that it has not seen.
    found = next(each for each in matches if each.rule is rule)
    made = draft(rule, placed(whole, found))
    return Judged(rule, replace(made, problem=made.problem or _UNSEEN))


_REFUSES: Final = 400
"""The status from which on an answer is an error, whatever a body says."""


def _is_unseen(trail: Trail) -> bool:
    """Whether an expression looks at what of a response no log has."""
    if trail and trail[0] != "response":
        return False
    return not any(trail[: len(each)] == each for each in _LOGGED)
