"""Sign-ups that the proxy saw: they pass whatever happens to the lead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from relay.capture.intake import Capture, Intake
from relay.capture.spill import Spill
from relay.core.dub.track_lead import InvalidFieldError, LeadFields, sanitise
from relay.core.leads import LeadStatus
from relay.core.rules.evaluation import Draft
from relay.observability.logging import get_logger
from relay.observability.metrics import Metrics
from relay.outbox.contract import NewLead, OutboxUnavailableError

log = get_logger()

SOURCE: Final = "proxy"

_UNKNOWN: Final = "unknown"
"""Stands in for a required field while a held sign-up's answer is not known."""


@dataclass(frozen=True, slots=True)
class Held:
    """A sign-up that is written down, and what it was made of.

    ``ready`` is the store's own: what it becomes if the answer changes nothing.
    """

    lead_id: str
    draft: Draft
    ready: object = None


class Signups(Protocol):
    """Where sign-ups that passed the proxy are kept."""

    async def hold(
        self,
        draft: Draft,
        notes: Sequence[str],
        *,
        click_id: str,
        origin: Mapping[str, str],
    ) -> Held | None:
        """Commit a held lead before the request goes on; None if it failed."""

    async def take(
        self,
        draft: Draft,
        notes: Sequence[str],
        *,
        click_id: str | None,
        origin: Mapping[str, str],
        held: Held | None,
    ) -> bool:
        """Commit the lead, or why there is none; True when it is safe."""

    async def drop(self, held: Held) -> None:
        """Forget a held lead: it was no sign-up after all."""

    def missed(self, reason: str) -> None:
        """Count and log a sign-up whose lead could not be kept."""


class ProxiedSignups:
    """Keeps the proxy's sign-ups; never raises for a store in trouble."""

    def __init__(self, intake: Intake, spill: Spill, metrics: Metrics) -> None:
        self._intake = intake
        self._spill = spill
        self._metrics = metrics

    async def hold(
        self,
        draft: Draft,
        notes: Sequence[str],
        *,
        click_id: str,
        origin: Mapping[str, str],
    ) -> Held | None:
        """Commit what is known before the request goes on; None if it failed."""
        new_lead = self._new_lead(draft, notes, click_id, origin)
        try:
            lead_id = await self._intake.hold(new_lead)
        except OutboxUnavailableError as error:
            # Not missed yet: the lead is still taken once the site has answered.
            log.error("signup.not_held", reason=str(error))
            return None
        as_held = new_lead.status is LeadStatus.QUEUED
        return Held(
            lead_id, draft, replace(new_lead, as_held=True) if as_held else None
        )

    async def take(
        self,
        draft: Draft,
        notes: Sequence[str],
        *,
        click_id: str | None,
        origin: Mapping[str, str],
        held: Held | None,
    ) -> bool:
        """Commit the lead of a sign-up that the site took; True when it is safe.

        The draft's problem says why the rule could make no lead: it is then kept
        as rejected, with that reason.
        """
        if click_id is None:
            self._intake.unattributed(SOURCE)
            return False
        lead_id = held.lead_id if held is not None else None
        if held is not None and held.draft is draft and isinstance(held.ready, NewLead):
            new_lead = held.ready
        else:
            new_lead = self._new_lead(draft, notes, click_id, origin, lead_id)
        try:
            await self._intake.commit(new_lead, lead_id)
        except OutboxUnavailableError as error:
            if not await self._spill.keep(new_lead, lead_id):
                self.missed(str(error))
                return False
        return new_lead.status is LeadStatus.QUEUED

    async def drop(self, held: Held) -> None:
        """Forget a held sign-up that the site refused."""
        try:
            await self._intake.drop(held.lead_id)
        except OutboxUnavailableError as error:
            # It stays in the ledger as held, where a person sees it.
            log.error("signup.not_dropped", lead=held.lead_id, reason=str(error))

    def missed(self, reason: str) -> None:
        """Count and log a sign-up that passed without its lead being kept."""
        log.error("signup.missed", reason=reason)
        self._metrics.missed.inc()

    def _new_lead(
        self,
        draft: Draft,
        notes: Sequence[str],
        click_id: str,
        origin: Mapping[str, str],
        held: str | None = None,
    ) -> NewLead:
        """Make the new lead, which may be kept only to be explained."""
        problem = draft.problem
        if problem is None:
            try:
                clean, left_out = sanitise(draft.fields, lenient_quantity=True)
            except InvalidFieldError as error:
                problem = error.issue.text
            else:
                capture = Capture(SOURCE, click_id, clean, (*notes, *left_out), origin)
                return self._intake.new_lead(capture, held)
        salvaged = _salvaged(draft.fields, click_id, origin, notes)
        return NewLead(
            self._intake.lead(salvaged, held),
            dedupe_key="",
            dedupe_since=None,
            status=LeadStatus.REJECTED,
            reason=problem,
        )


def _salvaged(
    fields: Mapping[str, object],
    click_id: str,
    origin: Mapping[str, str],
    notes: Sequence[str],
) -> Capture:
    """Make a capture out of whatever fields are usable, the others blank."""
    blank = {"eventName": _UNKNOWN, "customerExternalId": _UNKNOWN}
    usable = dict(fields)
    try:
        clean, left_out = sanitise(blank | usable, lenient_quantity=True)
    except InvalidFieldError:
        usable = {
            name: value
            for name, value in fields.items()
            if _is_usable(blank | {name: value})
        }
        clean, left_out = sanitise(blank | usable, lenient_quantity=True)
    return Capture(
        SOURCE, click_id, _unblanked(clean, usable), (*notes, *left_out), origin
    )


def _is_usable(fields: Mapping[str, object]) -> bool:
    try:
        sanitise(fields, lenient_quantity=True)
    except InvalidFieldError:
        return False
    return True


def _unblanked(clean: LeadFields, usable: Mapping[str, object]) -> LeadFields:
    event = clean.event_name if "eventName" in usable else ""
    customer = clean.customer_external_id if "customerExternalId" in usable else ""
    return replace(clean, event_name=event, customer_external_id=customer)
