"""A rule's draft becomes a new lead, or is kept as rejected, with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from relay.capture.intake import Capture, Intake
from relay.core.dub.track_lead import InvalidFieldError, LeadFields, sanitise
from relay.core.leads import LeadStatus
from relay.core.rules.evaluation import Draft
from relay.outbox.contract import NewLead

_UNKNOWN: Final = "unknown"
"""Stands in for a required field while a held sign-up's answer is not known."""


def drafted_lead(
    intake: Intake,
    source: str,
    draft: Draft,
    notes: Sequence[str],
    *,
    click_id: str,
    origin: Mapping[str, str],
    lead_id: str | None = None,
) -> NewLead:
    """Make the new lead of a draft, which may be kept only to be explained.

    ``lead_id`` is the one that it was held under.
    """
    problem = draft.problem
    if problem is None:
        try:
            clean, left_out = sanitise(draft.fields, lenient_quantity=True)
        except InvalidFieldError as error:
            problem = error.issue.text
        else:
            capture = Capture(source, click_id, clean, (*notes, *left_out), origin)
            return intake.new_lead(capture, lead_id)
    salvaged = _salvaged(draft.fields, source, click_id, origin, notes)
    return NewLead(
        intake.lead(salvaged, lead_id),
        dedupe_key="",
        dedupe_since=None,
        status=LeadStatus.REJECTED,
        reason=problem,
    )


def _salvaged(
    fields: Mapping[str, object],
    source: str,
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
        source, click_id, _unblanked(clean, usable), (*notes, *left_out), origin
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
