"""What a person may do: each thing confirmed first, and written down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from relay.core.clock import Clock
from relay.core.leads import LeadRecord, LeadStatus, why_not_again
from relay.dashboard.access import AdminSession
from relay.dashboard.live import LiveWatch
from relay.dashboard.pages import Pages
from relay.http.responses import RefusedError
from relay.observability.logging import get_logger
from relay.operations.erasure import Erased
from relay.outbox.contract import Act, Outbox, Query
from relay.outbox.personal_data import ON_THE_WAY
from relay.outbox.records import pseudonym

log = get_logger()

MOST: Final = 5_000
"""Leads sent again by one click; more are sent by the next."""

SHOWN: Final = 200
"""Lines of the audit log on its page."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is about to be done, as the person who confirms it reads it.

    ``subject`` is what the audit log calls it. ``run`` does it and gives a line on
    how it ended.
    """

    question: str
    verb: str
    subject: str
    run: Callable[[], Awaitable[str]]


class Acting:
    """Asks first, then does it and writes it down."""

    def __init__(
        self,
        outbox: Outbox,
        watch: LiveWatch,
        pages: Pages,
        clock: Clock,
        erase: Callable[[str], Awaitable[Erased]],
    ) -> None:
        self._outbox = outbox
        self._erase = erase
        self._watch = watch
        self._pages = pages
        self._clock = clock
        self._plans: Mapping[str, Callable[[str], Awaitable[Plan]]] = {
            "retry": self._retry_one,
            "retry-like": self._retry_like,
            "forget": self._forget,
            "pause": self._pause,
            "resume": self._resume,
        }

    async def act(self, request: web.Request, session: AdminSession) -> web.Response:
        """Show what would happen; with ``sure`` in the form, do it."""
        form = await request.post()
        name, subject = str(form.get("do", "")), str(form.get("subject", ""))
        if name not in self._plans:
            raise RefusedError(400, "The dashboard has no such action.")
        plan = await self._plans[name](subject)
        if not form.get("sure"):
            return self._pages.answer(
                "confirm.html", session, plan=plan, do=name, subject=subject, done=None
            )
        done = await plan.run()
        act = Act(self._clock(), session.actor, name, plan.subject, done)
        await self._outbox.record(act)
        log.info("dashboard.act", actor=session.actor, act=name, result=done)
        self._watch.stale()
        return self._pages.answer(
            "confirm.html", session, plan=plan, do=name, done=done
        )

    async def audit(self, _: web.Request, session: AdminSession) -> web.Response:
        """List what people did, newest first."""
        acts = await self._outbox.acts(SHOWN)
        return self._pages.answer("audit.html", session, acts=acts, most=SHOWN)

    async def _retry_one(self, lead_id: str) -> Plan:
        entry = await self._found(lead_id)

        async def run() -> str:
            return await self._send([entry])

        question = f"Send {lead_id} again? It is {entry.status} now."
        return Plan(question, "Send it again", lead_id, run)

    async def _retry_like(self, lead_id: str) -> Plan:
        """Plan for all that rest in the same state for the same reason."""
        like = await self._found(lead_id)
        alike = [
            entry
            for entry in await self._outbox.list(Query(status=like.status, limit=MOST))
            if entry.last_error == like.last_error and why_not_again(entry) is None
        ]

        async def run() -> str:
            return await self._send(alike)

        many = "1 lead is" if len(alike) == 1 else f"{len(alike)} leads are"
        why = f", with the reason “{like.last_error}”" if like.last_error else ""
        question = f"{many} {like.status}{why}. Send all of them again?"
        return Plan(question, f"Send {len(alike)} again", f"like {lead_id}", run)

    async def _found(self, lead_id: str) -> LeadRecord:
        entry = await self._outbox.get(lead_id)
        if entry is None:
            raise RefusedError(404, "There is no such lead in this database.")
        if (reason := why_not_again(entry)) is not None:
            raise RefusedError(409, f"{lead_id} {reason}.")
        return entry

    async def _send(self, entries: Sequence[LeadRecord]) -> str:
        """Send leads again in the order in which they came."""
        sent = 0
        for entry in sorted(entries, key=lambda entry: entry.lead.created_at):
            sent += await self._outbox.requeue(entry.lead.id, self._clock())
        left = len(entries) - sent
        moved = f"; {left} had moved on meanwhile" if left else ""
        return f"{sent} sent again{moved}."

    async def _forget(self, customer: str) -> Plan:
        """Plan to erase one customer; the audit log keeps a hash of the id alone."""
        found = await self._outbox.list(Query(customer=customer))
        fresh = [entry for entry in found if entry.erased_at is None]
        if not fresh:
            raise RefusedError(404, "There is no data of this customer to erase.")
        losing = sum(entry.status in ON_THE_WAY for entry in fresh)
        lost = f" {losing} of them would never get to Dub." if losing else ""

        async def run() -> str:
            erased = await self._erase(customer)
            number = sum(erased.forgotten.leads.values())
            return f"{number} erased. {erased.problem or ''}".rstrip()

        many = "1 lead" if len(fresh) == 1 else f"{len(fresh)} leads"
        question = (
            f"Erase the personal data of {customer} in {many}, everywhere and for"
            f" good?{lost}"
        )
        return Plan(question, "Erase it", pseudonym(customer), run)

    async def _pause(self, _: str) -> Plan:
        async def run() -> str:
            await self._outbox.pause(paused=True)
            return "Paused."

        question = (
            "Pause delivery? Sign-ups are still taken in, and nothing is lost;"
            " no lead goes to Dub until somebody resumes it."
        )
        return Plan(question, "Pause delivery", "delivery", run)

    async def _resume(self, _: str) -> Plan:
        async def run() -> str:
            await self._outbox.pause(paused=False)
            return "Resumed."

        counts = await self._outbox.counts()
        waiting = sum(counts.get(s, 0) for s in (LeadStatus.QUEUED, LeadStatus.WAITING))
        many = "1 lead waits" if waiting == 1 else f"{waiting} leads wait"
        question = f"Resume delivery? {many}."
        return Plan(question, "Resume delivery", "delivery", run)
