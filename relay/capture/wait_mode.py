"""``mode: "wait"``: a lead's caller waits for Dub's own answer.

Whoever delivers the lead may be another process, so the outbox is asked again and
again, each time after a tenth of what was waited so far: a quick answer is told
quickly, and a slow one costs few questions (docs/decisions/0011).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from relay.core.clock import Clock
from relay.core.dub.errors import CODES
from relay.core.leads import LeadRecord, LeadStatus
from relay.http.responses import (
    RefusedError,
    answer,
)
from relay.outbox.contract import Outbox, OutboxUnavailableError, Receipt, Taken

WITHIN_S: Final = 10.0
"""How long a caller waits at most."""

FIRST_NAP_S: Final = 0.005
"""Dub needs several times as long for its two calls."""

_UNDER_WAY: Final = frozenset(
    {LeadStatus.QUEUED, LeadStatus.SENDING, LeadStatus.WAITING}
)

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
        self, receipt: Receipt, instead: Mapping[str, Any], within: float
    ) -> web.Response:
        """Give Dub's answer to a lead, or say that it is kept and will be sent.

        ``instead`` is what a repeat gets whose lead has no answer to tell.
        """
        try:
            entry = await self._ended(receipt.lead_id, within)
        except OutboxUnavailableError:
            entry = None  # the lead is committed all the same
        told = _told(entry)
        if told is not None:
            return told
        repeated = receipt.taken is Taken.DUPLICATE
        status = "duplicate" if repeated else entry.status if entry else None
        if status in _TAKEN:
            relay = {"id": receipt.lead_id, "status": status}
            return answer({**instead, "relay": relay})
        reason = entry.last_error if entry else None
        raise RefusedError(
            503,
            f"Dub has not taken this lead yet ({reason or 'no answer in time'}). It"
            f" is kept as {receipt.lead_id} and goes on from here; sending it again"
            " does no harm.",
        )

    async def _ended(self, lead_id: str, within: float) -> LeadRecord | None:
        """Give a lead when nothing more can happen to it in time, or time is up."""
        started = time.monotonic()
        while True:
            entry = await self._outbox.get(lead_id)
            waited = time.monotonic() - started
            if entry is None or not await self._may_end(entry, within - waited):
                return entry
            nap = max(FIRST_NAP_S, waited / 10)
            await asyncio.sleep(min(nap, within - waited))

    async def _may_end(self, entry: LeadRecord, left: float) -> bool:
        """Tell whether a lead may still come to its end in so many seconds."""
        if left <= 0:
            return False
        if entry.status is LeadStatus.QUEUED:
            return not (await self._outbox.gate()).closed
        if entry.status is LeadStatus.WAITING and entry.due_at is not None:
            return entry.due_at < self._clock() + left * 1000
        return entry.status is LeadStatus.SENDING


def _told(entry: LeadRecord | None) -> web.Response | None:
    """Write Dub's final answer as Dub wrote it; None if there is none.

    An error that may pass is not final: the lead is still on its way.
    """
    if entry is None or entry.answer is None or entry.status in _UNDER_WAY:
        return None
    status, body = json.loads(entry.answer)
    if status == 200:
        relay = {"id": entry.lead.id, "status": entry.status.value}
        return answer({**body, "relay": relay})
    if entry.status is LeadStatus.REJECTED and status in CODES.values():
        return answer(body, status)
    return None
