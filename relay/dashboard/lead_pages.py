"""The list of leads, and the story of one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from relay.core.clock import Clock
from relay.core.leads import Attempt, LeadRecord, LeadStatus, why_not_again
from relay.core.rules.rule import SignupRule
from relay.dashboard.access import AdminSession
from relay.dashboard.pages import Pages
from relay.http.responses import RefusedError
from relay.operations.presentation import (
    STEP_WORDS,
    click_origin,
    cookie_story,
    credit_words,
    events_words,
    kind_of,
    next_step,
    sale_words,
)
from relay.outbox.contract import AuditEntry, Circuit, Outbox, Query

PAGE: Final = 50
"""Leads on a page of the list."""

TITLES: Final = {"lead": "Sign-up", "sale": "Sale", "refund": "Refund"}
"""What the timeline calls an entry, by its kind."""

FILTERS: Final = ("status", "customer", "click", "event", "link", "partner")

_AT: Final = re.compile(r"(?<=.)[^@]*(?=@)|(?<=.)[^@]+$")


@dataclass(frozen=True, slots=True)
class Moment:
    """One thing that happened to a lead, in plain words; ``at`` is epoch ms."""

    at: int | None
    title: str
    text: str = ""
    tone: str = ""
    details: Sequence[str] = ()


class LeadPages:
    """Shows leads; a person's own data only when asked for, and that is noted."""

    def __init__(
        self, outbox: Outbox, pages: Pages, clock: Clock, rules: Sequence[SignupRule]
    ) -> None:
        self._outbox = outbox
        self._rules = {rule.label: rule for rule in reversed(rules)}
        self._pages = pages
        self._clock = clock

    async def index(self, request: web.Request, session: AdminSession) -> web.Response:
        """List the leads that a person asks for, newest first."""
        asked = {
            name: value
            for name in FILTERS
            if (value := request.query.get(name, "").strip())
        }
        query = _query(asked, request.query.get("before"))
        found = await self._outbox.list(query)
        shown = found[:PAGE]
        older = None
        if len(found) > PAGE:
            older = urlencode({**asked, "before": shown[-1].lead.id})
        part = "HX-Request" in request.headers and "HX-Boosted" not in request.headers
        return self._pages.answer(
            "_rows.html" if part else "leads.html",
            session,
            entries=shown,
            asked=asked,
            older=older,
            first="before" not in request.query,
            statuses=list(LeadStatus),
        )

    async def story(self, request: web.Request, session: AdminSession) -> web.Response:
        """Show the timeline of one lead; names and addresses are masked."""
        return await self._tell(request, session, masked=True)

    async def reveal(self, request: web.Request, session: AdminSession) -> web.Response:
        """Show it with the person's own data, and note who asked."""
        lead_id = request.match_info["id"]
        act = AuditEntry(self._clock(), session.actor, "reveal", lead_id)
        await self._outbox.record(act)
        return await self._tell(request, session, masked=False)

    async def _tell(
        self, request: web.Request, session: AdminSession, *, masked: bool
    ) -> web.Response:
        lead_id = request.match_info["id"]
        entry = await self._outbox.get(lead_id)
        if entry is None:
            raise RefusedError(404, "There is no such lead in this database.")
        attempts = await self._outbox.attempts(lead_id)
        circuit = await self._outbox.circuit()
        return self._pages.answer(
            "lead.html",
            session,
            entry=entry,
            person=dict(_person(entry, masked=masked)),
            masked=masked,
            moments=list(moments(entry, attempts, circuit, self._clock(), self._rules)),
            retryable=why_not_again(entry) is None,
            erasable=entry.erased_at is None,
        )


def _query(asked: Mapping[str, str], before: str | None) -> Query:
    status = asked.get("status")
    if status is not None and status not in list(LeadStatus):
        raise RefusedError(400, "There is no such state.")
    return Query(
        status=LeadStatus(status) if status else None,
        customer=asked.get("customer"),
        click=asked.get("click"),
        event=asked.get("event"),
        link=asked.get("link"),
        partner=asked.get("partner"),
        before=before or None,
        # One more says whether there are older ones.
        limit=PAGE + 1,
    )


def moments(
    entry: LeadRecord,
    attempts: Sequence[Attempt],
    circuit: Circuit,
    now: int,
    rules: Mapping[str, SignupRule],
) -> Iterator[Moment]:
    """Return what happened to a lead, and what happens next, in order."""
    lead = entry.lead
    click = lead.click_id or "no click id of its own"
    cookie = cookie_story(entry)
    yield Moment(
        None,
        "Landing and click" if cookie else "Click",
        f"{click}, from {click_origin(entry)}.",
        details=(cookie,) if cookie else (),
    )
    said = (*_sources(entry), *_read_by(rules.get(lead.origin.get("rule", ""))))
    title = TITLES[kind_of(lead)]
    yield Moment(lead.created_at, title, _captured(entry), details=said)
    if lead.notes:
        yield Moment(None, "Noted on the way", tone="warn", details=lead.notes)
    for attempt in attempts:
        yield _call(attempt)
    if (credited := credit_words(entry.link)) is not None:
        yield Moment(entry.delivered_at, "Credited by Dub", f"{credited}.")
    if (at_dub := events_words(entry)) is not None:
        tone = "bad" if entry.missing_at or entry.doubled_at else "good"
        seen_at = entry.events[0][1] if entry.events else entry.missing_at
        yield Moment(seen_at, "In Dub's own records", f"{at_dub}.", tone)
    if entry.last_error and not (attempts and attempts[-1].outcome == entry.last_error):
        yield Moment(None, "Why it stands where it stands", entry.last_error, "bad")
    yield Moment(None, "What happens next", next_step(entry, circuit, now), "next")


def _captured(entry: LeadRecord) -> str:
    lead = entry.lead
    rule = lead.origin.get("rule")
    by = f"rule {rule}" if rule else f"the {lead.source}"
    sold = f" for {sale_words(lead.sale)}" if lead.sale else ""
    return f"“{lead.event_name}” of {lead.customer_external_id}{sold}, seen by {by}."


def _sources(entry: LeadRecord) -> tuple[str, ...]:
    """Say which field came from where, as far as that was written down."""
    known = entry.lead.origin.items()
    return tuple(
        f"{name}: {said}"
        for name, said in known
        if name not in ("click", "rule", "landed")
    )


def _read_by(rule: SignupRule | None) -> Iterator[str]:
    """Say which field comes from where, by the rule as it reads now."""
    if rule is not None:
        for name, expression in rule.fields.items():
            yield f"{name}: from {expression.text}"
        for name, expression in rule.metadata.items():
            yield f"metadata.{name}: from {expression.text}"


def _call(attempt: Attempt) -> Moment:
    code = f"HTTP {attempt.http_status}" if attempt.http_status else "no answer"
    good = attempt.http_status is not None and attempt.http_status < 300
    title = f"Call to Dub: {STEP_WORDS[attempt.step]}"
    text = f"{attempt.outcome} ({code}, {attempt.duration_ms} ms)"
    return Moment(attempt.at, title, text, "good" if good else "bad")


def _person(entry: LeadRecord, *, masked: bool) -> Iterator[tuple[str, str]]:
    lead = entry.lead
    fields: tuple[tuple[str, Any], ...] = (
        ("Name", lead.customer_name),
        ("E-mail", lead.customer_email),
        ("Avatar", lead.customer_avatar),
        ("Metadata", dict(lead.metadata) if lead.metadata else None),
    )
    for name, value in fields:
        if value is not None:
            yield name, mask(str(value)) if masked else str(value)


def mask(text: str) -> str:
    """Leave the first letter, and an e-mail's domain."""
    return _AT.sub("•••", text, count=1) if len(text) > 1 else "•"
