"""Which new leads repeat an earlier lead. Pure, the same for every database."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from relay.core.leads import LeadStatus
from relay.outbox.contract import Inserted, InsertResult, NewLead
from relay.outbox.records import ERASED, UNCOUNTED, pseudonym, request_key


class Earlier(NamedTuple):
    """What must be known of a lead that was taken before."""

    lead_id: str
    status: LeadStatus
    customer: str
    dedupe_key: str
    created_at: int
    request: str | None
    body_hash: bytes | None


class Ledger:
    """Answers new leads one after the other, each in the light of those before.

    It starts with the leads that the store has already taken, so that the new leads
    of one transaction meet each other as if they had come one at a time.
    """

    def __init__(self, earlier: Iterable[Earlier]) -> None:
        self._requests: dict[str, Earlier] = {}
        self._counted: dict[tuple[str, str], Earlier] = {}
        self._erased = False
        for lead in earlier:
            self._note(lead)

    def enter(self, new_lead: NewLead) -> InsertResult:
        """Answer a new lead: NEW ones are to be stored by the caller."""
        request = request_key(new_lead)
        repeat = self._repeat(new_lead, request)
        if repeat is not None:
            return repeat
        lead = new_lead.lead
        self._note(
            Earlier(
                lead.id,
                new_lead.status,
                lead.customer_external_id,
                new_lead.dedupe_key,
                lead.created_at,
                request,
                new_lead.body_hash,
            )
        )
        return InsertResult(Inserted.NEW, lead.id, new_lead.status)

    def _repeat(self, new_lead: NewLead, request: str | None) -> InsertResult | None:
        if request is not None and (earlier := self._requested(request)):
            # The hash of the body went with the personal data.
            gone = earlier.request != request
            same = gone or earlier.body_hash == new_lead.body_hash
            taken = Inserted.DUPLICATE if same else Inserted.CONFLICT
            return InsertResult(taken, earlier.lead_id, earlier.status)
        if new_lead.dedupe_since is None or new_lead.status in UNCOUNTED:
            return None
        counted = self._counted_as(
            new_lead.lead.customer_external_id, new_lead.dedupe_key
        )
        if counted is None or counted.created_at < new_lead.dedupe_since:
            return None
        return InsertResult(Inserted.DUPLICATE, counted.lead_id, counted.status)

    def _requested(self, request: str) -> Earlier | None:
        found = self._requests.get(request)
        if found is None and self._erased:
            found = self._requests.get(pseudonym(request))
        return found

    def _counted_as(self, customer: str, dedupe_key: str) -> Earlier | None:
        """Find the newest that counts, under its name or erased."""
        found = self._counted.get((customer, dedupe_key))
        if not self._erased:
            return found
        erased = self._counted.get((pseudonym(customer), pseudonym(dedupe_key)))
        both = [one for one in (found, erased) if one is not None]
        return max(both, key=lambda one: one.created_at, default=None)

    def _note(self, lead: Earlier) -> None:
        if lead.customer.startswith(ERASED):
            self._erased = True
        if lead.request is not None:
            self._requests[lead.request] = lead
        if lead.status in UNCOUNTED:
            return
        key = (lead.customer, lead.dedupe_key)
        known = self._counted.get(key)
        if known is None or known.created_at <= lead.created_at:
            self._counted[key] = lead
