"""``POST track/lead/client`` and ``track/sale/client``, made durable.

Pages without a server of their own report sign-ups here. The same address, key, order
of checks and answers as Dub's, but the lead is committed before it is answered, and
delivered as every other.

A lead without a click id is Dub's to judge, unless the relay has a lead of its customer
already: the script sends one for each visitor whom no link has brought.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from relay.capture.intake import Capture, Intake
from relay.capture.pass_through import (
    CORS,
    MAX_BODY,
    Monotonic,
    Passthrough,
    readable_by_pages,
)
from relay.capture.spill import Spill
from relay.capture.track_api import (
    NOT_STORED,
    STRANGER_RATE,
    Check,
    Waiting,
    checked,
    lead_body,
    parsed,
    sale_body,
    with_result,
)
from relay.core.dub import browser_calls, errors
from relay.core.dub.browser_calls import LEAD, SALE, validate_client
from relay.core.dub.errors import CODES
from relay.core.dub.track_lead import LeadFields
from relay.core.dub.track_sale import validate_sale
from relay.core.leads import LeadStatus, Mode
from relay.http.callers import Keys, Trusted, VisitorRate
from relay.http.request_body import Tasks, read_small
from relay.http.responses import RefusedError, answer, try_again
from relay.outbox.contract import (
    Inserted,
    InsertResult,
    NewLead,
    Outbox,
    OutboxUnavailableError,
    Query,
)

SOURCE: Final = "browser"

LOOKED_AT: Final = 20
"""A customer's newest leads, one of which shows that Dub will know the customer."""

FINISH_S: Final = 5.0
"""How long calls under way may take when the relay stops: a commit takes one second
at most, a lead whose page waits four."""

_CHECKS: Final[dict[str, Check]] = {LEAD: validate_client, SALE: validate_sale}


@dataclass(frozen=True, slots=True)
class Admission:
    """Who may call: publishable keys, hosts of pages (none: any), calls a minute."""

    keys: Sequence[str]
    hostnames: Sequence[str] = ()
    rate: int = 60


class BrowserApi:
    """Dub's two routes for browsers; ``passthrough`` takes what Dub has to judge."""

    def __init__(
        self,
        intake: Intake,
        outbox: Outbox,
        spill: Spill,
        waiting: Waiting,
        passthrough: Passthrough,
        trusted: Trusted,
        admission: Admission,
        clock: Monotonic = time.monotonic,
    ) -> None:
        self._intake = intake
        self._outbox = outbox
        self._spill = spill
        self._waiting = waiting
        self._passthrough = passthrough
        self._trusted = trusted
        self._keys = Keys(admission.keys)
        self._hostnames = admission.hostnames
        self._rate = VisitorRate(admission.rate)
        self._strangers = VisitorRate(STRANGER_RATE)
        self._clock = clock
        self._tasks = Tasks()

    async def running(self, _: web.Application) -> AsyncIterator[None]:
        """Live as long as an application does (for ``cleanup_ctx``)."""
        yield
        await self._tasks.finish(FINISH_S)

    async def handle(self, path: str, request: web.Request) -> web.StreamResponse:
        """Take one call; errors can be read by any page."""
        with readable_by_pages():
            self._admit(request)
            body = await read_small(request, MAX_BODY)
            document = parsed(body)
            host = self._require_host(request)
            fields = checked(document, _CHECKS[path])
            # Of its own: a visitor who goes on to the next page has signed up.
            work = self._tasks.start(self._take(path, request, body, fields, host))
            done = await asyncio.shield(work)
            if isinstance(done, RefusedError):
                raise done
            return done

    def _admit(self, request: web.Request) -> None:
        """Check the key's form, the rate, then the key; raise RefusedError."""
        header = request.headers.get("Authorization")
        problem = browser_calls.malformed_key(header)
        if problem is None and browser_calls.key_of(header or "") not in self._keys:
            problem = browser_calls.UNKNOWN_KEY
        rate = self._rate if problem is None else self._strangers
        wait = rate.take(self._trusted.address(request), self._clock())
        if wait:
            self._intake.count(SOURCE, "throttled")
            raise RefusedError(
                429, errors.TOO_MANY_REQUESTS, {"Retry-After": str(math.ceil(wait))}
            )
        if problem is not None:
            self._intake.count(SOURCE, "unauthorized")
            code, message = problem
            raise RefusedError(CODES[code], message)

    def _require_host(self, request: web.Request) -> str | None:
        """Return the host of the page that calls; refuse one that is not allowed."""
        headers = request.headers
        host = browser_calls.page_host(headers.get("Referer"), headers.get("Origin"))
        if self._hostnames and not browser_calls.is_allowed(host, self._hostnames):
            self._intake.count(SOURCE, "forbidden")
            raise RefusedError(403, browser_calls.host_refused(host))
        return host

    async def _take(
        self,
        path: str,
        request: web.Request,
        body: bytes,
        fields: LeadFields,
        host: str | None,
    ) -> web.StreamResponse | RefusedError:
        """Store a call, or pass it on. Returns errors: nobody may be left for them."""
        started = self._clock()
        try:
            if not fields.click_id and not await self._is_known(fields):
                self._intake.count(SOURCE, "passed")
                return await self._passthrough.forward(path, request, body)
            done = await self._store(fields, host, started)
        except RefusedError as error:
            return error
        done.headers.update(CORS)
        return done

    async def _store(
        self, fields: LeadFields, host: str | None, started: float
    ) -> web.Response:
        new_lead = self._new_lead(fields, host)
        said = sale_body(fields) if fields.sale else lead_body(fields)
        try:
            result = await self._intake.commit(new_lead)
        except OutboxUnavailableError:
            # The page will be gone before the database is back.
            if not await self._spill.keep(new_lead, None):
                raise try_again(NOT_STORED) from None
            status = LeadStatus.QUEUED
            result = InsertResult(Inserted.NEW, new_lead.lead.id, status)
            return answer(with_result(said, result))
        if fields.sale is None and fields.mode is Mode.WAIT:
            left = started + self._waiting.within - self._clock()
            return await self._waiting.answer(result, said, left)
        return answer(with_result(said, result))

    async def _is_known(self, fields: LeadFields) -> bool:
        """Whether a lead of this customer is, or will be, at Dub."""
        query = Query(customer=fields.customer_external_id, limit=LOOKED_AT)
        try:
            entries = await self._outbox.list(query)
        except OutboxUnavailableError:
            return False
        return any(one.status is not LeadStatus.REJECTED for one in entries)

    def _new_lead(self, fields: LeadFields, host: str | None) -> NewLead:
        origin = {"click": "clickId" if fields.click_id else "customer"}
        if host is not None:
            origin["page"] = host
        capture = Capture(
            source=SOURCE,
            click_id=fields.click_id or "",
            fields=fields,
            origin=origin,
        )
        return self._intake.new_lead(capture)
