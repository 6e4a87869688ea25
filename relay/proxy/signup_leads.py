"""Sign-ups that the proxy saw: they pass whatever happens to the lead."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple, Protocol

from relay.capture.intake import Intake
from relay.capture.spill import Spill
from relay.core.leads import LeadStatus
from relay.core.rules.evaluation import Draft
from relay.http.callers import MAX_BUCKETS, VisitorRate
from relay.http.limits import tally
from relay.http.request_body import Tasks
from relay.observability.logging import get_logger
from relay.observability.metrics import Metrics
from relay.outbox.contract import InsertResult, NewLead, OutboxUnavailableError

log = get_logger()

SOURCE: Final = "proxy"

UNANSWERED_PER_HOUR: Final = 100
"""Sign-ups of one address that stay held without an answer of the site. An office signs
up fewer people in an hour of trouble, and nobody looks through thousands."""

LONGEST_TURN_S: Final = 3600.0
"""How long a lead may have to stand behind others. After that it is due as they are:
where a proxy in front is not named, one address is everybody."""

BEHIND: Final = (
    "more than limits.signup_rate came from its address: it goes once no other is due"
)


@dataclass(frozen=True, slots=True)
class Held:
    """A sign-up that is to be written down, and what it is made of.

    ``ready`` is the store's own: what it becomes if the answer changes nothing.
    """

    lead_id: str
    draft: Draft
    ready: object = None


class Signups(Protocol):
    """Where sign-ups that passed the proxy are kept."""

    def prepare(
        self,
        draft: Draft,
        notes: Sequence[str],
        *,
        click_id: str,
        origin: Mapping[str, str],
    ) -> Held:
        """Make the lead that is to be held, under an id of its own."""

    async def hold(self, held: Held) -> None:
        """Commit a held lead before the request goes on."""

    async def take(
        self,
        draft: Draft,
        notes: Sequence[str],
        *,
        click_id: str | None,
        origin: Mapping[str, str],
        held: Held | None,
        address: str,
        patience: float,
    ) -> bool:
        """Commit the lead, or why there is none; True when it is safe.

        After ``patience`` seconds it is written to the spill file instead.
        ``address`` is the visitor's.
        """

    async def drop(self, held: Held) -> None:
        """Forget a held lead: it was no sign-up after all."""

    async def unanswered(self, held: Held, address: str) -> None:
        """Leave a held lead to a person: the site never said whether it took it."""

    def missed(self, reason: str) -> None:
        """Count and log a sign-up whose lead could not be kept."""


class ProxiedSignups:
    """Keeps the proxy's sign-ups; never raises for a store in trouble."""

    def __init__(
        self,
        intake: Intake,
        spill: Spill,
        metrics: Metrics,
        *,
        per_minute: int = 0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep them; beyond ``per_minute`` of one address leads go last (0: none)."""
        self._intake = intake
        self._spill = spill
        self._metrics = metrics
        self._committing = Tasks()
        self._rate = VisitorRate(per_minute) if per_minute else None
        self._unanswered = _Unanswered()
        self._monotonic = monotonic

    def prepare(
        self,
        draft: Draft,
        notes: Sequence[str],
        *,
        click_id: str,
        origin: Mapping[str, str],
    ) -> Held:
        """Make the lead that is to be held, under an id of its own."""
        new_lead = self._new_lead(draft, notes, click_id, origin)
        return Held(new_lead.lead.id, draft, new_lead)

    async def hold(self, held: Held) -> None:
        """Commit what is known before the request goes on."""
        if not isinstance(held.ready, NewLead):
            raise TypeError("a sign-up that was not prepared here")
        try:
            await self._intake.hold(held.ready)
        except OutboxUnavailableError as error:
            # Not missed yet: the lead is still taken once the site has answered.
            log.error("signup.not_held", lead=held.lead_id, reason=str(error))

    async def take(
        self,
        draft: Draft,
        notes: Sequence[str],
        *,
        click_id: str | None,
        origin: Mapping[str, str],
        held: Held | None,
        address: str,
        patience: float,
    ) -> bool:
        """Commit the lead of a sign-up that the site took; True when it is safe.

        The draft's problem says why the rule could make no lead: it is then kept
        as rejected, with that reason. A database that fails, or takes longer than
        ``patience`` seconds, is tried again out of the spill file.
        """
        if click_id is None:
            self._intake.unattributed(SOURCE)
            return False
        new_lead = self._final(draft, notes, click_id, origin, held)
        new_lead = self._in_turn(new_lead, address)
        lead_id = held.lead_id if held is not None else None
        reason = await self._commit(new_lead, lead_id, patience)
        if reason and not await self._spill.keep(new_lead, lead_id):
            # In memory, and not safe; what is dropped from there is counted as missed.
            log.error("signup.in_memory", lead=new_lead.lead.id, reason=reason)
            return False
        return new_lead.status is LeadStatus.QUEUED

    def _in_turn(self, new_lead: NewLead, address: str) -> NewLead:
        """Put a lead behind others, if too many came from its address."""
        if self._rate is None or new_lead.status is not LeadStatus.QUEUED:
            return new_lead
        wait = self._rate.turn(address, self._monotonic(), LONGEST_TURN_S)
        if not wait:
            return new_lead
        tally.note("signup.behind_others", address)
        self._metrics.bounded.labels("behind").inc()
        lead = replace(new_lead.lead, notes=(*new_lead.lead.notes, BEHIND))
        waits_ms = round(wait * 1000)
        return replace(new_lead, lead=lead, waits_ms=waits_ms, as_held=False)

    async def _commit(
        self, new_lead: NewLead, held: str | None, patience: float
    ) -> str | None:
        """Commit it, and say why that failed; a late commit goes on by itself."""
        committing = self._committing.start(self._intake.commit(new_lead, held))
        committing.add_done_callback(_is_logged)
        await patiently(committing, patience)
        if not committing.done():
            return "the database is slow"
        error = committing.exception()
        if error is None or isinstance(error, OutboxUnavailableError):
            return str(error) if error else None
        raise error

    def _final(
        self,
        draft: Draft,
        notes: Sequence[str],
        click_id: str,
        origin: Mapping[str, str],
        held: Held | None,
    ) -> NewLead:
        """Make the lead that takes a held one's place, as it was if it can be."""
        if held is None:
            return self._new_lead(draft, notes, click_id, origin)
        ready = held.ready
        if held.draft is draft and isinstance(ready, NewLead):
            queued = ready.status is LeadStatus.QUEUED
            return replace(ready, as_held=True) if queued else ready
        return self._new_lead(draft, notes, click_id, origin, held.lead_id)

    async def drop(self, held: Held) -> None:
        """Forget a held sign-up that the site refused."""
        try:
            await self._intake.drop(held.lead_id)
        except OutboxUnavailableError as error:
            # It stays in the ledger as held, where a person sees it.
            log.error("signup.not_dropped", lead=held.lead_id, reason=str(error))

    async def unanswered(self, held: Held, address: str) -> None:
        """Leave a held sign-up to a person, unless its address left so many already.

        Repeats, by one click and for one customer, are one: the last of them stays.
        """
        if not isinstance(held.ready, NewLead):
            raise TypeError("a sign-up that was not prepared here")
        found = self._unanswered.add(held.ready, address, self._monotonic())
        log.warning("signup.unanswered", lead=held.lead_id, result=found.result)
        if found.result != "held":
            self._metrics.bounded.labels(found.result).inc()
        if found.result == "not_held":
            tally.note("signup.too_many_unanswered", address)
        if found.goes is not None:
            await self._intake.drop(found.goes)

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
        return self._intake.drafted(
            SOURCE,
            draft.fields,
            draft.problem,
            notes,
            click_id=click_id,
            origin=origin,
            lead_id=held,
        )


class _Admission(NamedTuple):
    """What becomes of an unanswered sign-up, and which lead goes for it."""

    result: Literal["held", "folded", "not_held"]
    goes: str | None = None


class _Unanswered:
    """Bounds the sign-ups that stay held because the site never answered.

    By address, in this process; what a crash leaves behind is not counted.
    """

    def __init__(self) -> None:
        self._rate = VisitorRate(UNANSWERED_PER_HOUR, span=3600.0)
        # The last lead of each address, click and customer, by their hash.
        self._last: OrderedDict[int, str] = OrderedDict()

    def add(self, new_lead: NewLead, address: str, now: float) -> _Admission:
        """Count a sign-up; ``now`` is a monotonic time in seconds."""
        lead = new_lead.lead
        key = hash((address, lead.click_id, lead.customer_external_id))
        earlier = self._last.pop(key, None)
        if earlier is None and self._rate.take(address, now):
            return _Admission("not_held", lead.id)
        self._last[key] = lead.id
        if len(self._last) > MAX_BUCKETS:
            self._last.popitem(last=False)
        return _Admission("held" if earlier is None else "folded", earlier)


def _is_logged(task: asyncio.Task[InsertResult]) -> None:
    """Take note of a late error, which was logged where it arose."""
    if not task.cancelled():
        task.exception()


async def patiently(task: asyncio.Task[Any], seconds: float) -> None:
    """Wait for a task for so long at most; as asyncio.wait, in half its time."""
    loop = task.get_loop()
    over: asyncio.Future[None] = loop.create_future()

    def end(_: object = None) -> None:
        if not over.done():
            over.set_result(None)

    task.add_done_callback(end)
    timer = loop.call_later(seconds, end)
    try:
        await over
    finally:
        timer.cancel()
        task.remove_done_callback(end)
