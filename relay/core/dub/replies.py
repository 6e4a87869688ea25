"""What an answer of Dub's means for the lead: one table, read from the top.

Dub's messages matter as much as its statuses: a 404 may be a wrong key, a click
that is not there yet, or a link that is gone for good. Reasons are written for
people and never quote what a person typed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Final

from relay.core import jsontext
from relay.core.dub.credit import credited_link
from relay.core.leads import CreditedLink, Step

MAX_WAIT_MS: Final = 300_000
"""The longest wait taken from a header. Dub's window is one minute; five forgive
clocks that disagree, and a wrong value cannot stop delivery."""

EPOCH_MS_ABOVE: Final = 1e11
EPOCH_S_ABOVE: Final = 1e9
"""Dub's Retry-After is an epoch in ms where RFC 9110 10.2.3 says seconds. As
seconds from now these would be 3,000 and 30 years: no value means both."""

# At most 15 digits, for epoch milliseconds have 13; ASCII only, as `\d` is not.
_NUMBER: Final = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?")
_CODE: Final = re.compile(r"[a-z_]{1,40}")
_FIELD_MESSAGE: Final = re.compile(r"[a-z_]+: [\w.]*: .{1,200}", re.ASCII)

MAX_DATE: Final = 40
"""RFC 9110's longest date form has 33 characters."""

CUT_STATUSES: Final = (408, 502, 504)
"""What a proxy answers that has given the call up, while Dub may be at work on it."""

WAIT_STATUSES: Final = (429, 503)
"""Where Retry-After asks for a wait. Dub sends it on other errors as well, but
there it only says when the rate's window ends."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer as it came; header names in lower case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """No answer came. ``sent`` is False when the request cannot have counted.

    ``timed_out``: our own time limit cut the call, and Dub may still be at work.
    """

    sent: bool
    reason: str
    timed_out: bool = False


class Meaning(StrEnum):
    """What an answer means, whichever step it answers."""

    TAKEN = "taken"
    NO_LINK = "no_link"
    AGAIN = "again"
    THROTTLED = "throttled"
    CLICK_MISSING = "click_missing"
    OPERATOR = "operator"
    FINAL = "final"


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer, understood.

    ``reason`` is one plain sentence without personal data. ``may_have_counted``:
    a recording call that may have reached Dub's counters although no answer
    proves it. ``claims_key``: it may have claimed Dub's dedupe key, counted or not.
    ``timed_out``: Dub may still be at work on it. ``retry_at`` (epoch ms) is the
    wait that was asked for. ``link`` is the one that Dub credits.
    """

    meaning: Meaning
    reason: str
    may_have_counted: bool = False
    claims_key: bool = False
    timed_out: bool = False
    retry_at: int | None = None
    http_status: int | None = None
    code: str | None = None
    link: CreditedLink | None = None


@dataclass(frozen=True, slots=True)
class DubError:
    """An answer that is no 200. ``code`` is None when it is not Dub-shaped."""

    status: int
    code: str | None
    message: str


@dataclass(frozen=True, slots=True)
class _Rule:
    """A row of the table. ``message`` matches at the start of Dub's message.

    ``claims_key``: Dub answers so after it has claimed its dedupe key.
    """

    statuses: range
    meaning: Meaning
    reason: str
    message: str = ""
    code: str = ""
    dub_shaped: bool | None = None
    claims_key: bool = False

    def matches(self, error: DubError) -> bool:
        """Return whether this row speaks of the error."""
        return (
            error.status in self.statuses
            and self.dub_shaped in (None, error.code is not None)
            and re.match(self.code, error.code or "") is not None
            and re.match(self.message, error.message) is not None
        )


def _one(status: int) -> range:
    return range(status, status + 1)


_AGAIN, _OPERATOR, _FINAL = Meaning.AGAIN, Meaning.OPERATOR, Meaning.FINAL

_RULES: Final = (
    _Rule(_one(429), Meaning.THROTTLED, "Dub's rate limit is reached (429)"),
    _Rule(range(500, 600), _AGAIN, "Dub had an internal error ({status})"),
    _Rule(range(300, 400), _AGAIN, "Dub answered with a redirect ({status})"),
    # Request Timeout and Too Early say "repeat it" (RFC 9110 15.5.9, RFC 8470).
    _Rule(_one(408), _AGAIN, "The request was too slow for Dub (408)"),
    _Rule(_one(425), _AGAIN, "Dub asks to repeat the request (425)"),
    # A proxy, a firewall, a captive portal: its answer proves nothing about the
    # lead nor about the key, and Dub may have done the work before it.
    _Rule(
        range(400, 500),
        _AGAIN,
        "Not Dub but something else answered ({status}): is DUB_API_URL right, and"
        " does anything between change the calls?",
        dub_shaped=False,
    ),
    _Rule(
        _one(401),
        _OPERATOR,
        "The API key has expired",
        message="Unauthorized: Access token expired",
    ),
    _Rule(_one(401), _OPERATOR, "Dub does not accept the API key (401)"),
    _Rule(
        _one(403),
        _OPERATOR,
        "The workspace's plan is too low: tracking needs Business",
        message="Unauthorized: Need higher plan",
    ),
    _Rule(
        _one(403),
        _OPERATOR,
        "The API key's role is too low: it must be owner or member",
        message="You don't have the required role",
    ),
    _Rule(_one(403), _OPERATOR, "Dub forbids this call to the API key (403)"),
    _Rule(
        _one(400),
        _OPERATOR,
        "The API key cannot be sent: Dub does not read the Authorization header",
        message="Misconfigured authorization header",
    ),
    _Rule(
        _one(404),
        _OPERATOR,
        "The API key is not one of a workspace: it must begin with dub_",
        message="Workspace ID not found",
    ),
    _Rule(
        _one(404),
        _OPERATOR,
        "The API key's workspace is gone, or its owner is no member any more",
        message="Workspace not found",
    ),
    _Rule(
        range(409, 411),
        _OPERATOR,
        "The invitation to the API key's workspace was not accepted ({status})",
        code="invite_",
    ),
    _Rule(
        _one(404),
        Meaning.CLICK_MISSING,
        "Dub does not know the click, or not yet",
        message="Click event not found",
        claims_key=True,
    ),
    _Rule(
        _one(404),
        _AGAIN,
        "Dub does not show the customer's lead yet, to which the sale belongs",
        message="Lead event not found",
    ),
    _Rule(
        _one(404),
        _FINAL,
        "The link of this click or customer does not exist any more",
        message="Link not found",
        claims_key=True,
    ),
    _Rule(
        _one(404),
        _FINAL,
        "The link of this click or customer belongs to another workspace",
        message=r"Link .* does not belong to the workspace",
        claims_key=True,
    ),
    _Rule(
        _one(404),
        _FINAL,
        "The link of this click or customer is disabled",
        message=r"Link .* is disabled",
        claims_key=True,
    ),
    _Rule(
        _one(400),
        _FINAL,
        "Dub knows no earlier click of this customer",
        message="The `clickId` property was not provided",
    ),
    _Rule(range(400, 500), _FINAL, "Dub refused the lead ({status})"),
    _Rule(range(1000), _AGAIN, "Dub gave an unexpected answer ({status})"),
)
"""From the top, the first row that matches; the last one matches everything."""


def interpret(reply: Answer | NoAnswer, step: Step, now: int) -> Outcome:
    """Say what a reply to this step's call means; now in epoch ms."""
    if isinstance(reply, NoAnswer):
        outcome = Outcome(
            Meaning.AGAIN,
            reply.reason,
            may_have_counted=reply.sent,
            claims_key=reply.sent,
            timed_out=reply.timed_out,
        )
    elif reply.status == 200:
        outcome = _interpret_success(_parse(reply.body), step)
    else:
        outcome = _interpret_error(reply, now)
    return replace(
        outcome,
        may_have_counted=outcome.may_have_counted and step is not Step.PROVE,
        # A deferred call passes the key by, and a sale has none.
        claims_key=outcome.claims_key and step is Step.RECORD,
    )


def kept(reply: Answer | NoAnswer) -> str | None:
    """Write an answer down for who waits for it; None for what is not of Dub's shape.

    JSON text: ``[status, body]``.
    """
    if isinstance(reply, NoAnswer):
        return None
    document = _parse(reply.body)
    own = isinstance(document, dict) and (reply.status == 200 or "error" in document)
    return json.dumps([reply.status, document]) if own else None


def retry_after(value: str | None, now: int) -> int | None:
    """Read Retry-After as epoch ms, never before now nor five minutes after it.

    Takes Dub's epoch milliseconds, epoch seconds, seconds from now, and dates.
    None when it is absent or absurd.
    """
    text = (value or "").strip(" \t")
    at: int | None = None
    if _NUMBER.fullmatch(text):
        at = _from_number(float(text), now)
    elif text.isascii() and text[:1].isalpha() and len(text) <= MAX_DATE:
        at = _from_date(text)
    return None if at is None else min(max(at, now), now + MAX_WAIT_MS)


def _from_number(number: float, now: int) -> int:
    """Separate epoch ms, epoch seconds and seconds from now by their size."""
    if number > EPOCH_MS_ABOVE:
        return math.ceil(number)
    if number > EPOCH_S_ABOVE:
        return math.ceil(number * 1000)
    return now + math.ceil(number * 1000)


def _from_date(text: str) -> int | None:
    """Read an HTTP date (RFC 9110 5.6.7, the two old forms included)."""
    try:
        date = parsedate_to_datetime(text)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return int(date.timestamp() * 1000)
    except (ValueError, OverflowError):
        # No date; or a time zone so far off that its difference overflows.
        return None


def _interpret_success(document: object, step: Step) -> Outcome:
    """Read the body of a 200: the link in it decides."""
    fields = document if isinstance(document, dict) else {}
    if step is Step.SALE:
        return _interpret_sale(fields)
    if isinstance(fields.get("link"), dict):
        reason = "Dub took the lead"
        if step is Step.PROVE:
            reason = "Dub knows the click and its link"
        link = credited_link(fields["link"])
        return Outcome(
            Meaning.TAKEN, reason, claims_key=True, http_status=200, link=link
        )
    if _is_without_link(fields):
        # The key was claimed before: by an earlier call, of ours or another's.
        reason = "Dub answered without a link: it had this customer and event before"
        return Outcome(Meaning.NO_LINK, reason, http_status=200)
    return _not_understood()


def _interpret_sale(fields: Mapping[str, Any]) -> Outcome:
    """Read the body of a sale's 200: without a customer nothing was counted."""
    if isinstance(fields.get("sale"), dict):
        return Outcome(Meaning.TAKEN, "Dub took the sale", http_status=200)
    if fields.get("sale", ...) is None and fields.get("customer", ...) is None:
        reason = "Dub counted nothing: it knows no lead of this customer"
        return Outcome(Meaning.NO_LINK, reason, http_status=200)
    return _not_understood()


def _not_understood() -> Outcome:
    return Outcome(
        Meaning.AGAIN,
        "Dub's answer (200) could not be understood",
        may_have_counted=True,
        claims_key=True,
        http_status=200,
    )


def _is_without_link(fields: Mapping[str, Any]) -> bool:
    """Separate Dub's own "link: null" from any other JSON that has no link."""
    return (
        fields.get("link", ...) is None
        and isinstance(fields.get("click"), dict)
        and isinstance(fields.get("customer"), dict)
    )


def _interpret_error(answer: Answer, now: int) -> Outcome:
    """Read any other answer by the table."""
    error = error_of(answer)
    rule = next(rule for rule in _RULES if rule.matches(error))
    # Only Dub's own word shows that it refused the call before it counted.
    refused = error.code is not None and 400 <= error.status < 500
    return Outcome(
        rule.meaning,
        _reason(rule, error),
        may_have_counted=not refused,
        claims_key=rule.claims_key or not refused,
        timed_out=error.code is None and error.status in CUT_STATUSES,
        retry_at=_asked_wait(answer, now),
        http_status=error.status,
        code=error.code,
    )


def _reason(rule: _Rule, error: DubError) -> str:
    """Fill in the sentence; name the field where Dub names one.

    Only zod's message is quoted: it names types and limits, never a value.
    """
    if error.status == 422 and _FIELD_MESSAGE.fullmatch(error.message):
        return f"Dub refused a field: {error.message}"
    return rule.reason.format(status=error.status)


def _asked_wait(answer: Answer, now: int) -> int | None:
    """Return the time that a 429 or 503 asks to wait for; None if it does not."""
    if answer.status not in WAIT_STATUSES:
        return None
    asked = retry_after(answer.headers.get("retry-after"), now)
    if asked is None:
        return retry_after(answer.headers.get("x-ratelimit-reset"), now)
    return asked


def error_of(answer: Answer) -> DubError:
    """Take Dub's envelope off an error, if it is one."""
    document = _parse(answer.body)
    detail = document.get("error") if isinstance(document, dict) else None
    fields = detail if isinstance(detail, dict) else {}
    code, message = fields.get("code"), fields.get("message")
    if isinstance(code, str) and _CODE.fullmatch(code) and isinstance(message, str):
        return DubError(answer.status, code, message)
    return DubError(answer.status, None, "")


def _parse(body: bytes) -> object:
    """Read JSON; None for what is none, and for what nests too deep to read."""
    try:
        parsed: object = jsontext.decode(body)
    except ValueError:
        return None
    return parsed
