"""``POST hooks/dub``: Dub's own word that a lead was recorded.

An answer of Dub's says that a lead was taken; recording goes on after it. Only
the ``lead.created`` webhook proves that it ended well, and it settles leads
whose answer was lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from relay.core import signing
from relay.core.clock import Clock
from relay.core.dub.track_lead import fold_event
from relay.core.leads import Lead, Mode
from relay.http.responses import (
    RETRY_AFTER_S,
    RefusedError,
    answer,
    read_json,
)
from relay.observability.logging import get_logger
from relay.outbox.contract import Outbox, OutboxUnavailableError, Query

log = get_logger()

LEAD_CREATED: Final = "lead.created"


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What a webhook says was recorded."""

    customer: str
    event: str
    click_id: str | None

    def is_of(self, lead: Lead) -> bool:
        """Whether this may be that lead. A deferred one is recorded as nothing."""
        return (
            lead.mode is not Mode.DEFERRED
            and lead.sale is None
            and fold_event(lead.event_name) == fold_event(self.event)
            and lead.click_id in ("", self.click_id or lead.click_id)
        )


class DubHook:
    """Takes Dub's webhooks, verified by the secrets that Dub showed once.

    Dub signs no time, so a webhook can be replayed; it only ever confirms what
    it confirmed before.
    """

    def __init__(self, outbox: Outbox, secrets: Sequence[str], clock: Clock) -> None:
        self._outbox = outbox
        self._secrets = secrets
        self._clock = clock

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Confirm the lead that a ``lead.created`` names; take note of the rest."""
        if not self._secrets:
            raise RefusedError(404, "hooks/dub is off: set DUB_WEBHOOK_SECRET.")
        body = await request.read()
        signature = request.headers.get("Dub-Signature", "")
        if not signing.verify_dub_webhook(self._secrets, signature, body):
            raise RefusedError(401, "Dub-Signature does not fit DUB_WEBHOOK_SECRET.")
        recorded = _read(read_json(body))
        if recorded is None:
            return answer({"status": "ignored"})
        try:
            confirmed = await self._confirm(recorded)
        except OutboxUnavailableError:
            raise RefusedError(
                503,
                "The database takes nothing at the moment. Send it again.",
                {"Retry-After": RETRY_AFTER_S},
            ) from None
        return answer({"status": "confirmed" if confirmed else "unknown"})

    async def _confirm(self, recorded: _Recorded) -> int:
        entries = await self._outbox.list(Query(customer=recorded.customer))
        ids = [e.lead.id for e in entries if recorded.is_of(e.lead)]
        confirmed = await self._outbox.confirm(ids, self._clock())
        for lead_id in ids if confirmed else ():
            log.info("lead.confirmed", lead=lead_id)
        return confirmed


def _read(document: Any) -> _Recorded | None:
    """Take what matters out of an envelope; None for another kind of event."""
    if not isinstance(document, Mapping):
        raise RefusedError(422, "A webhook of Dub's is a JSON object.")
    if document.get("event") != LEAD_CREATED:
        return None
    match document.get("data"):
        case {"eventName": str(event), "customer": {"externalId": str(id_)}, **rest}:
            click = rest.get("click")
            said = click.get("id") if isinstance(click, Mapping) else None
            return _Recorded(id_, event, said if isinstance(said, str) else None)
        case _:
            raise RefusedError(422, "data needs eventName and customer.externalId.")
