"""``POST hooks/dub``: Dub's own word that a lead or a sale was recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiohttp import web

from relay.core import signing
from relay.core.clock import Clock
from relay.core.dub.credit import credited_link
from relay.core.dub.events import CLOCKS_MS, DubEvent, Kind, epoch_ms, fits
from relay.core.leads import LeadRecord, LeadStatus
from relay.http.responses import RefusedError, answer, read_json, try_again
from relay.observability.logging import get_logger
from relay.outbox.contract import Outbox, OutboxUnavailableError, Proof, Query

log = get_logger()

_KINDS: Final = {"lead.created": Kind.LEADS, "sale.created": Kind.SALES}

_SENT: Final = frozenset({LeadStatus.DELIVERED, LeadStatus.UNCONFIRMED})


def _shown_by(event: DubEvent, records: Sequence[LeadRecord]) -> list[str]:
    """Return the ids of what a webhook confirms, of a customer's records.

    Each sale has a webhook of its own, so one without an invoice confirms one sale,
    the oldest that it fits. A webhook can be sent again at any time: it says nothing of
    a lead that came after its event.
    """
    before = [each for each in records if each.lead.created_at <= event.at + CLOCKS_MS]
    fit = [each.lead for each in before if fits(event, each) and _may_count(each)]
    if event.kind is Kind.SALES and not event.invoice_id:
        fit = sorted(fit, key=lambda lead: (lead.created_at, lead.id))[:1]
    return [lead.id for lead in fit]


def _may_count(record: LeadRecord) -> bool:
    """Whether a call was made for it, if it is a sale: name and amount may repeat."""
    sent = record.in_doubt or record.status in _SENT
    return record.lead.sale is None or sent


class DubHook:
    """Accepts Dub's webhooks, verified by the secrets that Dub showed once.

    Dub answers before it has recorded a lead. Only ``lead.created`` proves that
    recording ended well, and it settles leads whose answer was lost; ``sale.created``
    does the same for sales.

    Dub signs no time, so a webhook can be replayed; it only ever confirms what
    it confirmed before.
    """

    def __init__(self, outbox: Outbox, secrets: Sequence[str], clock: Clock) -> None:
        self._outbox = outbox
        self._secrets = secrets
        self._clock = clock

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Confirm the lead or sale that a webhook names; take note of the rest."""
        if not self._secrets:
            raise RefusedError(404, "hooks/dub is off: set DUB_WEBHOOK_SECRET.")
        body = await request.read()
        signature = request.headers.get("Dub-Signature", "")
        if not signing.verify_dub_webhook(self._secrets, signature, body):
            raise RefusedError(401, "Dub-Signature does not fit DUB_WEBHOOK_SECRET.")
        event = _read(read_json(body), self._clock())
        if event is None:
            return answer({"status": "ignored"})
        try:
            confirmed = await self._confirm(event)
        except OutboxUnavailableError:
            raise try_again(
                "The database takes nothing at the moment. Send it again."
            ) from None
        return answer({"status": "confirmed" if confirmed else "unknown"})

    async def _confirm(self, event: DubEvent) -> int:
        entries = await self._outbox.list(Query(customer=event.external_id))
        ids = _shown_by(event, entries)
        proof = Proof("webhook", link=event.link)
        confirmed = await self._outbox.confirm(ids, self._clock(), proof)
        for lead_id in ids if confirmed else ():
            log.info("lead.confirmed", lead=lead_id)
        return confirmed


def _read(document: Any, now: int) -> DubEvent | None:
    """Read an envelope as the event that it announces; None for another kind."""
    if not isinstance(document, Mapping):
        raise RefusedError(422, "A webhook of Dub's is a JSON object.")
    kind = _KINDS.get(str(document.get("event")))
    if kind is None:
        return None
    match document.get("data"):
        case {"eventName": str(name), "customer": {"externalId": str(id_)}, **rest}:
            click = rest.get("click")
            said = click.get("id") if isinstance(click, Mapping) else None
            sale = _sold(rest.get("sale")) if kind is Kind.SALES else {}
            amount, invoice = sale.get("amount"), sale.get("invoiceId")
            at = epoch_ms(document.get("createdAt"))
            return DubEvent(
                kind,
                str(document.get("id")),
                now if at is None else min(at, now),
                name,
                click_id=said if isinstance(said, str) else None,
                external_id=id_,
                link=credited_link(rest.get("link")),
                invoice_id=invoice if isinstance(invoice, str) and invoice else None,
                amount=amount if type(amount) is int else None,
            )
        case _:
            raise RefusedError(422, "data needs eventName and customer.externalId.")


def _sold(sale: object) -> Mapping[str, Any]:
    if not isinstance(sale, Mapping):
        raise RefusedError(422, "data needs sale.")
    return sale
