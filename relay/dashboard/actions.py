"""What an operator may do on the dashboard: each thing is confirmed first."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from relay.core.clock import Clock
from relay.core.leads import LeadRecord, LeadStatus, why_not_again
from relay.dashboard.access import AdminSession
from relay.dashboard.live import LiveWatch
from relay.dashboard.pages import MAX_FORM, Pages
from relay.http.request_body import read_form
from relay.http.responses import RefusedError
from relay.observability.logging import get_logger
from relay.operations.operator import Operator
from relay.outbox.contract import Outbox, Query, Wanted
from relay.outbox.encryption import Seal
from relay.outbox.personal_data import ON_THE_WAY

log = get_logger()

MOST: Final = 5_000
"""Leads sent again by one click; more are sent by the next."""

SHOWN: Final = 200
"""Lines of the audit log on its page."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is about to be done, as the person who confirms it reads it.

    ``run`` does it, writes the audit log, and returns a line on how it ended.
    """

    question: str
    verb: str
    run: Callable[[Operator], Awaitable[str]]


class Acting:
    """Asks first, then lets the operator do it."""

    def __init__(
        self,
        outbox: Outbox,
        watch: LiveWatch,
        pages: Pages,
        clock: Clock,
        *,
        database: str,
        seal: Seal,
        dedupe_days: int,
    ) -> None:
        self._outbox = outbox
        self._database = database
        self._seal = seal
        self._dedupe_days = dedupe_days
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
        form = await read_form(request, MAX_FORM)
        name, subject = form.get("do", ""), form.get("subject", "")
        if name not in self._plans:
            raise RefusedError(400, "The dashboard has no such action.")
        plan = await self._plans[name](subject)
        if not form.get("sure"):
            return self._pages.answer(
                "confirm.html", session, plan=plan, do=name, subject=subject, done=None
            )
        done = await plan.run(Operator(self._outbox, session.actor))
        log.info("dashboard.act", actor=session.actor, act=name, result=done)
        self._watch.stale()
        return self._pages.answer(
            "confirm.html", session, plan=plan, do=name, done=done
        )

    async def audit(self, _: web.Request, session: AdminSession) -> web.Response:
        """List what people did, newest first."""
        acts = await self._outbox.audit_log(SHOWN)
        return self._pages.answer("audit.html", session, acts=acts, most=SHOWN)

    async def _retry_one(self, lead_id: str) -> Plan:
        entry = await self._found(lead_id)

        async def run(operator: Operator) -> str:
            days = self._dedupe_days
            return str(await operator.retry([entry], lead_id, dedupe_days=days))

        question = f"Send {lead_id} again? It is {entry.status} now."
        return Plan(question, "Send it again", run)

    async def _retry_like(self, lead_id: str) -> Plan:
        """Plan for all that rest in the same state for the same reason."""
        like = await self._found(lead_id)
        reading = Operator(self._outbox, "")
        alike = await reading.in_state(like.status, MOST, like)

        async def run(operator: Operator) -> str:
            done = await operator.retry(
                alike,
                f"like {lead_id}",
                dedupe_days=self._dedupe_days,
                act="retry-like",
            )
            return str(done)

        many = "1 lead is" if len(alike) == 1 else f"{len(alike)} leads are"
        why = f", with the reason “{like.last_error}”" if like.last_error else ""
        question = f"{many} {like.status}{why}. Send all of them again?"
        return Plan(question, f"Send {len(alike)} again", run)

    async def _found(self, lead_id: str) -> LeadRecord:
        entry = await self._outbox.get(lead_id)
        if entry is None:
            raise RefusedError(404, "There is no such lead in this database.")
        if (reason := why_not_again(entry)) is not None:
            raise RefusedError(409, f"{lead_id} {reason}.")
        return entry

    async def _forget(self, customer: str) -> Plan:
        """Plan to erase one customer; the audit log keeps a hash of the id alone."""
        found = await self._outbox.list(Query(customer=customer))
        fresh = [entry for entry in found if entry.erased_at is None]
        if not fresh:
            raise RefusedError(404, "There is no data of this customer to erase.")
        losing = sum(entry.status in ON_THE_WAY for entry in fresh)
        lost = f" {losing} of them would never get to Dub." if losing else ""

        async def run(operator: Operator) -> str:
            wanted = Wanted(customer=customer)
            return str(await operator.forget(wanted, self._database, self._seal))

        many = "1 lead" if len(fresh) == 1 else f"{len(fresh)} leads"
        question = (
            f"Erase the personal data of {customer} in {many}, everywhere and for"
            f" good?{lost}"
        )
        return Plan(question, "Erase it", run)

    async def _pause(self, _: str) -> Plan:
        async def run(operator: Operator) -> str:
            return await operator.pause(paused=True)

        question = (
            "Pause delivery? Sign-ups are still stored, and nothing is lost;"
            " no lead goes to Dub until somebody resumes it."
        )
        return Plan(question, "Pause delivery", run)

    async def _resume(self, _: str) -> Plan:
        async def run(operator: Operator) -> str:
            return await operator.pause(paused=False)

        counts = await self._outbox.counts()
        waiting = sum(counts.get(s, 0) for s in (LeadStatus.QUEUED, LeadStatus.WAITING))
        many = "1 lead waits" if waiting == 1 else f"{waiting} leads wait"
        question = f"Resume delivery? {many}."
        return Plan(question, "Resume delivery", run)
