"""``POST hooks/dub``: Dub's own word that a lead or a sale was recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from relay.core import signing
from relay.core.clock import Clock
from relay.core.dub.credit import credited_link
from relay.core.dub.track_lead import fold_event
from relay.core.leads import CreditedLink, Lead, LeadRecord, LeadStatus, Mode
from relay.http.responses import RefusedError, answer, read_json, try_again
from relay.observability.logging import get_logger
from relay.outbox.contract import Outbox, OutboxUnavailableError, Proof, Query

log = get_logger()

LEAD_CREATED: Final = "lead.created"
SALE_CREATED: Final = "sale.created"

_SENT: Final = frozenset({LeadStatus.DELIVERED, LeadStatus.UNCONFIRMED})


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What a webhook says was recorded; ``sold`` is the webhook's ``sale``."""

    customer: str
    event: str
    click_id: str | None
    link: CreditedLink | None
    sold: Mapping[str, Any] | None = None

    def among(self, records: Sequence[LeadRecord]) -> list[str]:
        """Return the ids of what this webhook confirms, of a customer's records.

        Each sale has a webhook of its own, so one without an invoice confirms one
        sale, the oldest that it fits.
        """
        fit = [each.lead for each in records if self._is_of(each)]
        if self.sold is not None and not self.sold.get("invoiceId"):
            fit = sorted(fit, key=lambda lead: (lead.created_at, lead.id))[:1]
        return [lead.id for lead in fit]

    def _is_of(self, record: LeadRecord) -> bool:
        """Whether this may be that lead. A deferred one is recorded as nothing."""
        lead = record.lead
        if self.sold is not None:
            sent = record.in_doubt or record.status in _SENT
            is_sale = lead.sale is not None and not lead.sale.refund
            return is_sale and sent and self._is_sale(lead, self.sold)
        return (
            lead.mode is not Mode.DEFERRED
            and lead.sale is None
            and fold_event(lead.event_name) == fold_event(self.event)
            and lead.click_id in ("", self.click_id or lead.click_id)
        )

    def _is_sale(self, lead: Lead, sold: Mapping[str, Any]) -> bool:
        """Compare by the invoice, else by name and amount.

        Dub converts amounts into its own currency: then the invoice alone shows it.
        """
        assert lead.sale is not None  # noqa: S101 - asked by _is_of
        if invoice := sold.get("invoiceId"):
            return bool(lead.sale.invoice_id == invoice)
        return (
            not lead.sale.invoice_id
            and lead.event_name == self.event
            and lead.sale.amount == sold.get("amount")
            and lead.sale.currency == sold.get("currency")
        )


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
        recorded = _read(read_json(body))
        if recorded is None:
            return answer({"status": "ignored"})
        try:
            confirmed = await self._confirm(recorded)
        except OutboxUnavailableError:
            raise try_again(
                "The database takes nothing at the moment. Send it again."
            ) from None
        return answer({"status": "confirmed" if confirmed else "unknown"})

    async def _confirm(self, recorded: _Recorded) -> int:
        entries = await self._outbox.list(Query(customer=recorded.customer))
        ids = recorded.among(entries)
        proof = Proof("webhook", link=recorded.link)
        confirmed = await self._outbox.confirm(ids, self._clock(), proof)
        for lead_id in ids if confirmed else ():
            log.info("lead.confirmed", lead=lead_id)
        return confirmed


def _read(document: Any) -> _Recorded | None:
    """Take what matters out of an envelope; None for another kind of event."""
    if not isinstance(document, Mapping):
        raise RefusedError(422, "A webhook of Dub's is a JSON object.")
    kind = document.get("event")
    if kind not in (LEAD_CREATED, SALE_CREATED):
        return None
    match document.get("data"):
        case {"eventName": str(event), "customer": {"externalId": str(id_)}, **rest}:
            click = rest.get("click")
            said = click.get("id") if isinstance(click, Mapping) else None
            click_id = said if isinstance(said, str) else None
            sold = _sold(rest.get("sale")) if kind == SALE_CREATED else None
            link = credited_link(rest.get("link"))
            return _Recorded(id_, event, click_id, link, sold)
        case _:
            raise RefusedError(422, "data needs eventName and customer.externalId.")


def _sold(sale: object) -> Mapping[str, Any]:
    if not isinstance(sale, Mapping):
        raise RefusedError(422, "data needs sale.")
    return sale
