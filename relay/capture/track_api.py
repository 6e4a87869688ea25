"""``POST track/lead`` and ``track/sale``: Dub's own API, made durable.

The same schema, errors and order of checks as Dub's server routes, so that its
SDKs work with another server URL. What Dub says in 200s the relay says once the
lead is committed; only ``mode: "wait"`` waits for Dub's own answer, which may be an
error for now.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from aiohttp import web

from relay.capture.intake import Capture, Intake
from relay.core import jsontext
from relay.core.clock import Clock
from relay.core.dub import errors
from relay.core.dub.errors import CODES
from relay.core.dub.track_lead import (
    InvalidFieldError,
    LeadFields,
    keepable,
    validate,
)
from relay.core.dub.track_sale import (
    sale_fields,
    validate_sale,
)
from relay.core.http.headers import Headers
from relay.core.leads import OPEN, LeadRecord, LeadStatus, Mode
from relay.http.aiohttp_internals import RawRequestMessage
from relay.http.callers import Keys, Trusted, VisitorRate
from relay.http.responses import RefusedError, answer, try_again
from relay.outbox.contract import (
    Inserted,
    InsertResult,
    Outbox,
    OutboxUnavailableError,
)

WITHIN_S: Final = 4.0
"""How long a caller waits at most: Dub's SDK for Python gives up after 5 s."""

FIRST_NAP_S: Final = 0.005
"""Dub needs several times as long for its two calls."""

_TAKEN: Final = frozenset(
    {LeadStatus.DELIVERED, LeadStatus.CONFIRMED, LeadStatus.DUPLICATE}
)


class Waiting:
    """Waits for the end of leads, whichever relay delivers them."""

    def __init__(
        self, outbox: Outbox, clock: Clock, *, within: float = WITHIN_S
    ) -> None:
        self._outbox = outbox
        self._clock = clock
        self.within = within

    async def answer(
        self, result: InsertResult, instead: Mapping[str, Any], within: float
    ) -> web.Response:
        """Return Dub's answer to a lead, or say that it is kept and will be sent.

        ``instead`` is what a repeat gets whose lead has no answer to return.
        """
        try:
            entry = await self._ended(result.lead_id, within)
        except OutboxUnavailableError:
            entry = None  # the lead is committed all the same
        repeated = result.outcome is Inserted.DUPLICATE
        said = _told(entry, repeated=repeated)
        if said is not None:
            return said
        status = "duplicate" if repeated else entry.status if entry else None
        if status in _TAKEN:
            relay = {"id": result.lead_id, "status": status}
            return answer({**instead, "relay": relay})
        reason = entry.last_error if entry else None
        raise RefusedError(
            503,
            f"Dub has not taken this lead yet ({reason or 'no answer in time'}). It"
            f" is kept as {result.lead_id} and goes on from here; sending it again"
            " does no harm.",
        )

    async def _ended(self, lead_id: str, within: float) -> LeadRecord | None:
        """Return a lead when nothing more can happen to it in time, or time is up."""
        started = time.monotonic()
        while True:
            entry = await self._outbox.get(lead_id)
            waited = time.monotonic() - started
            if entry is None or not await self._may_end(entry, within - waited):
                return entry
            nap = max(FIRST_NAP_S, waited / 10)
            await asyncio.sleep(min(nap, within - waited))

    async def _may_end(self, entry: LeadRecord, left: float) -> bool:
        """Return whether a lead may still come to its end in so many seconds."""
        if left <= 0:
            return False
        if entry.status is LeadStatus.QUEUED:
            return not (await self._outbox.circuit()).open
        if entry.status is LeadStatus.WAITING and entry.due_at is not None:
            return entry.due_at < self._clock() + left * 1000
        return entry.status is LeadStatus.SENDING


def _told(entry: LeadRecord | None, *, repeated: bool) -> web.Response | None:
    """Write Dub's last answer as Dub wrote it, with the lead; None if there is none.

    An error is Dub's word for now, where the lead is on its way still; a repeat of
    such a lead is answered as any other repeat.
    """
    if entry is None or entry.answer is None:
        return None
    status, body = json.loads(entry.answer)
    if status == 200:
        stands = entry.status not in OPEN
    else:
        # In doubt: a later call, which may have counted, had no answer.
        is_moving = repeated and entry.status in OPEN
        stands = status in CODES.values() and not entry.in_doubt and not is_moving
    relay = {"id": entry.lead.id, "status": entry.status.value}
    return answer({**body, "relay": relay}, status) if stands else None


SOURCE: Final = "api"

BEARER: Final = "Bearer "
"""Dub takes it letter by letter, case included."""

KEY_PREFIX: Final = "dub_"
"""What a workspace's key begins with."""

STRANGER_RATE: Final = 60
"""Calls a minute that one address may make with a wrong key: enough for one who
tries one out, and guessing leads nowhere. It takes nothing from right ones."""

NOT_STORED: Final = "The relay could not store this. Send it again."

_IDEMPOTENCY_KEY: Final = re.compile(r"[!-~]{1,255}")

Check = Callable[[object], LeadFields]
Monotonic = Callable[[], float]


class TrackApi:
    """Dub's two server routes. ``keys`` are the bearer tokens that are right.

    ``rate`` is how many calls a minute one address may make.
    """

    def __init__(
        self,
        intake: Intake,
        waiting: Waiting,
        trusted: Trusted,
        *,
        keys: Sequence[str],
        rate: int,
        clock: Monotonic = time.monotonic,
    ) -> None:
        self._intake = intake
        self._waiting = waiting
        self._trusted = trusted
        self._keys = Keys(keys)
        self._rate = VisitorRate(rate)
        self._strangers = VisitorRate(STRANGER_RATE)
        self._clock = clock

    async def lead(self, request: web.Request) -> web.StreamResponse:
        """``POST track/lead``."""
        self._admit(request.headers, request.raw_headers, request.remote)
        return await self._lead(request.headers, await request.read())

    async def respond(
        self, message: RawRequestMessage, peer: str | None, body: bytes
    ) -> web.Response:
        """Do the same by what was sent; raise RefusedError."""
        self._admit(message.headers, message.raw_headers, peer)
        return await self._lead(message.headers, body)

    async def _lead(self, headers: Mapping[str, str], body: bytes) -> web.Response:
        started = self._clock()
        fields, result = await self._take(headers, body, "lead", validate)
        if fields.mode is Mode.WAIT:
            within = started + self._waiting.within - self._clock()
            return await self._waiting.answer(result, lead_body(fields), within)
        return answer(with_result(lead_body(fields), result))

    async def sale(self, request: web.Request) -> web.StreamResponse:
        """``POST track/sale``."""
        self._admit(request.headers, request.raw_headers, request.remote)
        body = await request.read()
        taken = await self._take(request.headers, body, "sale", validate_sale)
        fields, result = taken
        return answer(with_result(sale_body(fields), result))

    async def _take(
        self, headers: Mapping[str, str], body: bytes, kind: str, check: Check
    ) -> tuple[LeadFields, InsertResult]:
        """Go through Dub's checks in Dub's order, then commit."""
        key = _idempotency_key(headers)
        fields = checked(parsed(body), check)
        capture = Capture(
            source=SOURCE,
            click_id=fields.click_id or "",
            fields=fields,
            origin={"click": "clickId" if fields.click_id else "customer"},
            # One key may stand for a sign-up and for its first payment.
            idempotency_key=None if key is None else f"{kind}:{key}",
            body_hash=None if key is None else hashlib.sha256(body).digest(),
        )
        return fields, await self._commit(capture)

    def _admit(
        self, headers: Mapping[str, str], raw: Headers, peer: str | None
    ) -> None:
        """Check the key, then the rate; raise RefusedError."""
        refusal = self._judge(headers.get("Authorization"))
        rate = self._rate if refusal is None else self._strangers
        wait = rate.take(self._trusted.address_of(raw, peer), self._clock())
        if wait:
            self._intake.count(SOURCE, "throttled")
            raise RefusedError(
                429, errors.TOO_MANY_REQUESTS, {"Retry-After": str(math.ceil(wait))}
            )
        if refusal is not None:
            self._intake.count(SOURCE, "unauthorized")
            raise refusal

    def _judge(self, header: str | None) -> RefusedError | None:
        """Say what is wrong with the caller's key, in Dub's words; None: nothing."""
        if header is None:
            return RefusedError(401, errors.MISSING_HEADER)
        if not header.startswith(BEARER):
            return RefusedError(400, errors.MISCONFIGURED_HEADER)
        given = header.removeprefix(BEARER)
        if given in self._keys:
            return None
        if not given.startswith(KEY_PREFIX):
            return RefusedError(404, errors.WORKSPACE_ID_NOT_FOUND)
        return RefusedError(401, errors.INVALID_KEY)

    async def _commit(self, capture: Capture) -> InsertResult:
        try:
            result = await self._intake.take(capture)
        except OutboxUnavailableError:
            raise try_again(NOT_STORED) from None
        if result.outcome is Inserted.CONFLICT:
            raise RefusedError(
                409, "This Idempotency-Key was used before with another body."
            )
        return result


def with_result(body: Mapping[str, Any], result: InsertResult) -> dict[str, Any]:
    """Add what the relay has to say to an answer in Dub's shape."""
    status = (
        "duplicate" if result.outcome is Inserted.DUPLICATE else result.status.value
    )
    return {**body, "relay": {"id": result.lead_id, "status": status}}


def lead_body(fields: LeadFields) -> dict[str, Any]:
    """Return the answer to a lead that is committed; Dub has not named a link yet."""
    return {
        "click": {"id": fields.click_id or ""},
        "link": None,
        "customer": {
            "name": fields.customer_name,
            "email": fields.customer_email,
            "avatar": fields.customer_avatar,
            "externalId": fields.customer_external_id,
        },
    }


def sale_body(fields: LeadFields) -> dict[str, Any]:
    """Return the answer to a sale that is committed; only Dub knows the customer."""
    assert fields.sale is not None  # noqa: S101 - what validate_sale promises
    sale = {**sale_fields(fields.sale), "metadata": fields.metadata}
    return {"eventName": fields.event_name, "customer": None, "sale": sale}


def parsed(body: bytes) -> object:
    """Parse a call's JSON; refuse anything else in Dub's words."""
    try:
        return jsontext.decode(body)
    except ValueError:
        raise RefusedError(400, errors.INVALID_JSON) from None


def checked(document: object, check: Check) -> LeadFields:
    """Check a call's fields by Dub's rules; raise RefusedError in Dub's words."""
    try:
        return keepable(check(document))
    except InvalidFieldError as error:
        raise RefusedError(error.issue.status, error.issue.text) from None


def _idempotency_key(headers: Mapping[str, str]) -> str | None:
    key = headers.get("Idempotency-Key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise RefusedError(
            400, "Idempotency-Key must be 1 to 255 visible ASCII characters."
        )
    return key
