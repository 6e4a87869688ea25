"""``POST hooks/<provider>``: a provider's own event becomes a lead; ``hooks/dub``.

The same for every row of :data:`relay.core.providers.PROVIDERS`: the signature
first, then the payload, then the commit. Only then is the provider answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from relay.capture.intake import Capture, Intake
from relay.capture.spill import Spill
from relay.core import signing
from relay.core.clock import Clock
from relay.core.dub.credit import credited_link
from relay.core.dub.track_lead import (
    InvalidFieldError,
    fold_event,
    sanitise,
)
from relay.core.dub.track_sale import sanitise_sale
from relay.core.http.tickets import (
    FoundClick,
    Opener,
)
from relay.core.leads import CreditedLink, Lead, LeadRecord, LeadStatus, Mode
from relay.core.providers.account import (
    Ignored,
    NewAccount,
    PayloadError,
    Provider,
    ProviderSale,
)
from relay.http.responses import RefusedError, answer, read_json, read_object, try_again
from relay.observability.logging import get_logger
from relay.outbox.contract import (
    Inserted,
    NewLead,
    Outbox,
    OutboxUnavailableError,
    Proof,
    Query,
)

log = get_logger()

PATIENCE_S: Final = 2.0
"""How long a sign-up that waits for us may wait for the database; then its lead
goes to the spill file. Supabase gives a hook five seconds."""

STATUS: Final = {"queued": 202, "unattributed": 202}
"""What is answered with; anything else with 200."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What all providers' hooks share."""

    intake: Intake
    spill: Spill
    opener: Opener
    event: str
    clock: Clock


class ProviderHook:
    """One provider's endpoint."""

    def __init__(self, provider: Provider, keys: Sequence[bytes], parts: Parts) -> None:
        self._provider = provider
        self._keys = keys
        self._parts = parts

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer as ``hooks/signup`` does; with 200 what is no sign-up."""
        name = self._provider.name
        if not self._keys:
            raise RefusedError(404, f"hooks/{name} is off: set {self._provider.env}.")
        body = await request.read()
        message_id = self._verify(request.headers, body)
        try:
            said = await self._take(body, message_id)
        except RefusedError as refused:
            if not self._provider.blocking:
                raise
            # Genuine, and a person's sign-up waits for the answer.
            log.error("hook.unusable", source=name, reason=refused.message)
            said = self._ignored(refused.message)
        return answer(said, STATUS.get(said["status"], 200))

    def _verify(self, headers: Mapping[str, str], body: bytes) -> str:
        now = self._parts.clock()
        try:
            return self._provider.verify(self._keys, headers, body, now)
        except signing.SignatureMismatchError:
            self._count("forged")
            problem = f"The signature does not fit {self._provider.env}."
        except signing.BadSignatureError as error:
            stale = isinstance(error, signing.StaleTimestampError)
            self._count("stale" if stale else "unsigned")
            problem = str(error)
        raise RefusedError(401, problem)

    async def _take(self, body: bytes, message_id: str) -> dict[str, Any]:
        event = self._read(body, message_id)
        if isinstance(event, Ignored):
            return self._ignored(event.reason)
        said = await self._lead(event)
        if event.sale is not None:
            said["sale"] = await self._sale(event, event.sale)
        return said

    def _read(self, body: bytes, message_id: str) -> NewAccount | Ignored:
        document = read_object(body)
        try:
            return self._provider.read(document, message_id)
        except PayloadError as error:
            raise RefusedError(422, str(error)) from None

    async def _lead(self, signup: NewAccount) -> dict[str, Any]:
        if not signup.lead:
            return self._ignored("This purchase is of a customer known before.")
        opener, now = self._parts.opener, self._parts.clock()
        found = opener.find(signup.trusted, signup.writable, now, signup.at)
        if found.click_id is None:
            self._parts.intake.unattributed(self._provider.name)
            return {"id": None, "status": "unattributed", "reason": found.told_by}
        return await self._commit(self._new_lead(signup, found, found.click_id))

    def _new_lead(
        self, signup: NewAccount, found: FoundClick, click_id: str
    ) -> NewLead:
        try:
            fields, notes = sanitise({**signup.person, "eventName": self._parts.event})
        except InvalidFieldError as error:
            raise RefusedError(422, error.issue.text) from None
        capture = Capture(
            source=self._provider.name,
            click_id=click_id,
            fields=fields,
            notes=notes,
            origin={"click": found.told_by, "event": signup.kind},
            # No hash of the body: repeats differ in it (Stripe counts in it how
            # many deliveries are pending).
            idempotency_key=signup.event_id,
        )
        return self._parts.intake.new_lead(capture)

    async def _commit(self, new_lead: NewLead) -> dict[str, Any]:
        patience = PATIENCE_S if self._provider.blocking else None
        try:
            async with asyncio.timeout(patience):
                result = await self._parts.intake.commit(new_lead)
        except (OutboxUnavailableError, TimeoutError):
            return await self._uncommitted(new_lead)
        new = result.outcome is Inserted.NEW
        return {"id": result.lead_id, "status": "queued" if new else "duplicate"}

    async def _uncommitted(self, new_lead: NewLead) -> dict[str, Any]:
        """Spill what nobody will send again; have the rest sent again."""
        if not self._provider.blocking:
            raise try_again(
                "The lead could not be stored. Send it again: it counts once."
            ) from None
        if await self._parts.spill.keep(new_lead, None):
            return {"id": new_lead.lead.id, "status": "queued"}
        self._count("missed")
        return {"id": None, "status": "missed", "reason": "neither database nor disk"}

    async def _sale(self, signup: NewAccount, sale: ProviderSale) -> dict[str, Any]:
        """Commit a sale; in its customer's line it waits behind the lead, if any."""
        try:
            fields, notes = sanitise_sale({**signup.person, **sale.body})
        except InvalidFieldError as error:
            raise RefusedError(422, error.issue.text) from None
        capture = Capture(
            source=self._provider.name,
            click_id="",
            fields=fields,
            notes=notes,
            origin={"click": "customer", "event": signup.kind},
            idempotency_key=f"sale:{signup.event_id}",
        )
        return await self._commit(self._parts.intake.new_lead(capture))

    def _ignored(self, reason: str) -> dict[str, Any]:
        self._count("ignored")
        return {"status": "ignored", "reason": reason}

    def _count(self, result: str) -> None:
        self._parts.intake.count(self._provider.name, result)


# --- ``POST hooks/dub``: Dub's own word that a lead or a sale was recorded. ---

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
            return lead.sale is not None and sent and self._is_sale(lead, self.sold)
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
            return lead.sale.invoice_id == invoice
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
            sold = rest.get("sale") if kind == SALE_CREATED else None
            if kind == SALE_CREATED and not isinstance(sold, Mapping):
                raise RefusedError(422, "data needs sale.")
            link = credited_link(rest.get("link"))
            return _Recorded(id_, event, click_id, link, sold)
        case _:
            raise RefusedError(422, "data needs eventName and customer.externalId.")
