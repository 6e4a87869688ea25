"""The delivery of one lead: two calls at most, and what to write about them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol, TypeVar

from relay.core import jsontext, signing
from relay.core.clock import (
    Clock,
    Roll,
    iso,
)
from relay.core.dub.lookup import (
    CustomerMatch,
    LookupVerdict,
    can_show,
    judge,
    over_at,
    unlocked_at,
)
from relay.core.dub.refunds import (
    REFUND_BODY,
    Commission,
    found_commission,
    interpret_refund,
    left_to_a_person,
)
from relay.core.dub.replies import (
    Answer,
    Meaning,
    NoAnswer,
    Outcome,
    interpret,
    kept,
)
from relay.core.dub.retry import (
    Move,
    Park,
    Policy,
    Proceed,
    decide,
    unrepeatable,
)
from relay.core.dub.track_lead import lead_body
from relay.core.dub.track_sale import sale_body
from relay.core.leads import (
    SETTLED,
    Attempt,
    CreditedLink,
    Lead,
    LeadRecord,
    LeadStatus,
    Mode,
    Sale,
    Step,
)
from relay.core.pacing import Pace
from relay.observability.logging import get_logger
from relay.observability.metrics import Metrics
from relay.outbox.contract import (
    Claim,
    Outbox,
    OutboxUnavailableError,
    Proof,
    Settlement,
)

T = TypeVar("T")

log = get_logger()

KEY_WORKS: Final = frozenset(
    {Meaning.TAKEN, Meaning.NO_LINK, Meaning.CLICK_MISSING, Meaning.FINAL},
)
"""Answers that Dub gives only after it has accepted key, workspace and plan."""


KEY_WAIT_MS: Final = 60_000
"""How soon a lead is looked at again whose data no key of ours can read: a relay
with the right keys, or this one after a restart, then sends it."""

SETTLE_S: Final = 5.0
"""What a lease allows for commits and a busy loop on top of the calls. Were it
too short, a lead would be claimed a second time while its call is under way:
Dub would not count it twice, but its state would end in doubt."""


DATABASE_NAP_S: Final = 0.5
"""Pause before the database is asked again to keep what Dub has answered."""

EMPTY: Final = b"{}"
"""A lead that Dub refuses, whose sender has passed all its checks by then."""

AWAITED_MS: Final = 10_000
"""How long after its capture a caller may wait for the answer to a lead."""


def lease_ms(timeout_s: float, *, two_step: bool = True) -> int:
    """How long a claimed lead belongs to its worker, in ms.

    It is renewed before the recording call. So it lasts for a place to become free
    and for one call; without the proving call, also for the look-up. Not longer than
    that: what a worker that died had claimed waits so long.
    """
    calls = 2 if two_step else 3
    return round((calls * timeout_s + SETTLE_S) * 1000)


@dataclass(frozen=True, slots=True)
class DeliveryTerms:
    """What the settings say about delivery.

    With ``two_step`` off, only the recording call is made: half the calls, but
    a click that Dub cannot find yet then costs a week (its dedupe key).
    """

    policy: Policy
    in_flight: int
    lease_ms: int
    rate: int
    two_step: bool = True

    @property
    def pace(self) -> Pace:
        """What a lead costs.

        Its calls are paid for when it is claimed, so that neither waits for its
        turn while the lease runs.
        """
        return Pace(self.rate, 2 if self.two_step else 1)


class Track(Protocol):
    """The calls to Dub, as delivery needs them."""

    async def find_customer(
        self, external_id: str, signature: str
    ) -> Answer | NoAnswer:
        """Send ``GET /customers?externalId=…`` once."""

    async def track_lead(self, body: bytes, signature: str) -> Answer | NoAnswer:
        """Send ``POST /track/lead`` once."""

    async def track_sale(self, body: bytes, signature: str) -> Answer | NoAnswer:
        """Send ``POST /track/sale`` once."""

    async def find_commission(self, invoice: str, signature: str) -> Answer | NoAnswer:
        """Send ``GET /commissions?invoiceId=…`` once."""

    async def refund_commission(
        self, commission: str, body: bytes, signature: str
    ) -> Answer | NoAnswer:
        """Send ``PATCH /commissions/{id}`` once."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """How a delivery ended: what the last answer meant, None if none was asked."""

    meaning: Meaning | None = None
    reason: str = ""

    @property
    def key_works(self) -> bool:
        """Whether Dub has accepted key, workspace and plan."""
        return self.meaning in KEY_WORKS


NOTHING_ASKED: Final = Delivered()


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was made, and its answer where somebody waits for it."""

    attempt: Attempt
    answer: str | None = None


class Delivery:
    """Takes a claim through Dub's two-step protocol and settles it."""

    def __init__(
        self,
        outbox: Outbox,
        dub: Track,
        *,
        secrets: tuple[str, ...],
        terms: DeliveryTerms,
        clock: Clock,
        roll: Roll,
        metrics: Metrics,
    ) -> None:
        self._outbox = outbox
        self._dub = dub
        self._secrets = secrets
        self._terms = terms
        self._clock = clock
        self._roll = roll
        self._metrics = metrics
        # Leads are taken ahead of calls: they wait for their commits meanwhile.
        self._places = asyncio.Semaphore(terms.in_flight)
        self.last_delivered: str | None = None

    async def deliver(self, claim: Claim) -> Delivered:
        """Make the calls and write how they ended; the claim must be leased."""
        lead = claim.entry.lead
        if claim.entry.sealed is not None:
            return await self._wait_for_data_key(claim, claim.entry.sealed)
        now = self._clock()
        if (move := unrepeatable(claim.entry, now)) is not None:
            return await self._end(claim, _settlement(move, [], now))
        if lead.sale is not None:
            return await self._sold(claim, lead.sale)
        calls: list[Call] = []
        if self._terms.two_step or lead.mode is Mode.DEFERRED:
            outcome = await self._call(lead, Step.PROVE, calls)
            decision = self._decide(claim.entry, Step.PROVE, outcome)
            if not isinstance(decision, Proceed):
                return await self._settle(claim, decision, outcome, calls)
            # The recording call may be answered without a link.
            return await self._record(claim, Step.RECORD, calls, outcome.link)
        return await self._record(claim, Step.RECORD, calls)

    async def probe(self) -> Outcome:
        """Ask Dub with an empty lead, which it refuses once key and plan are right.

        A lead of somebody's could fail for what is in it. The call counts nothing.
        """
        now = self._clock()
        await self._outbox.spend(self._terms.pace.plan, now, 1)
        signature = signing.sign_call(self._secrets, "probe", EMPTY, now)
        started = time.perf_counter()
        reply = await self._dub.track_lead(EMPTY, signature)
        outcome = interpret(reply, Step.PROVE, self._clock())
        took = time.perf_counter() - started
        self._metrics.calls.labels("probe", outcome.meaning.value).observe(took)
        return outcome

    async def _record(
        self,
        claim: Claim,
        step: Step,
        calls: list[Call],
        proved: CreditedLink | None = None,
    ) -> Delivered:
        """Make the call that counts; write down before that it may."""
        lead = claim.entry.lead
        if not await self._outbox.begin_recording(
            claim, [call.attempt for call in calls], self._clock(), self._terms.lease_ms
        ):
            log.warning("lead.lease_lost", lead=lead.id)
            return Delivered()
        calls = []
        outcome = await self._call(lead, step, calls, proved=proved is not None)
        outcome = replace(outcome, link=outcome.link or proved)
        decision = self._decide(claim.entry, step, outcome)
        move = decision if isinstance(decision, Move) else None
        if step is Step.RECORD and move and move.status is LeadStatus.UNCONFIRMED:
            answered = outcome.meaning is Meaning.NO_LINK
            decision = await self._reconciled(
                claim.entry, move, calls, answered=answered
            )
        return await self._settle(claim, decision, outcome, calls)

    async def _sold(self, claim: Claim, sale: Sale) -> Delivered:
        if sale.refund:
            return await self._refund(claim, sale)
        return await self._record(claim, Step.SALE, [])

    async def _refund(self, claim: Claim, sale: Sale) -> Delivered:
        """Mark the commission of an invoice as refunded, if Dub has one."""
        lead, calls = claim.entry.lead, list[Call]()
        if not self._terms.two_step:
            # One call was paid for when it was claimed.
            plan, at = self._terms.pace.plan, self._clock()
            await self._persistently(lambda: self._outbox.spend(plan, at, 1))
        reply, at, took = await self._asked(
            lead, b"", partial(self._dub.find_commission, sale.invoice_id or "")
        )
        found = found_commission(reply, self._clock())
        if isinstance(found, Commission):
            shown = f"Dub shows the commission {found.id}"
            outcome = Outcome(Meaning.TAKEN, shown, http_status=200)
            await self._noted(calls, Step.LOOK_UP, outcome, at, took)
            outcome = await self._change(lead, sale, found, calls)
        else:
            outcome = found
            await self._noted(calls, Step.REFUND, outcome, at, took)
        decision = self._decide(claim.entry, Step.REFUND, outcome)
        return await self._settle(claim, decision, outcome, calls)

    async def _change(
        self, lead: Lead, sale: Sale, commission: Commission, calls: list[Call]
    ) -> Outcome:
        if sale.by_hand is not None:
            return left_to_a_person(sale.by_hand)
        mark = partial(self._dub.refund_commission, commission.id, REFUND_BODY)
        reply, at, took = await self._asked(lead, REFUND_BODY, mark)
        outcome = interpret_refund(reply, self._clock())
        await self._noted(calls, Step.REFUND, outcome, at, took)
        return outcome

    async def _asked(
        self,
        lead: Lead,
        body: bytes,
        call: Callable[[str], Awaitable[Answer | NoAnswer]],
    ) -> tuple[Answer | NoAnswer, int, float]:
        """Make a call when a place is free: the reply, when it began, its seconds."""
        async with self._places:
            at = self._clock()
            signature = signing.sign_call(self._secrets, lead.id, body, at)
            started = time.perf_counter()
            reply = await call(signature)
            return reply, at, time.perf_counter() - started

    async def _noted(
        self, calls: list[Call], step: Step, outcome: Outcome, at: int, took: float
    ) -> None:
        """Count a call that was made, and note it for the timeline."""
        self._metrics.calls.labels(step.value, outcome.meaning.value).observe(took)
        if outcome.meaning is Meaning.THROTTLED:
            now = self._clock()
            until = outcome.retry_at or now
            plan = self._terms.pace.plan
            await self._persistently(lambda: self._outbox.throttled(plan, now, until))
            log.warning("delivery.throttled", until=iso(until))
        attempt = Attempt(
            at=at,
            step=step,
            duration_ms=round(took * 1000),
            outcome=outcome.reason,
            http_status=outcome.http_status,
            code=outcome.code,
        )
        calls.append(Call(attempt))

    async def _reconciled(
        self, entry: LeadRecord, move: Move, calls: list[Call], *, answered: bool
    ) -> Move:
        """Ask Dub once for the customer, where that can show what became of a lead.

        ``answered``: Dub holds its lock, so that the same call again is harmless.
        """
        attempts = await self._persistently(
            lambda: self._outbox.attempts(entry.lead.id)
        )
        attempts += [call.attempt for call in calls]
        doubted = replace(entry, in_doubt=True)
        if not can_show(doubted, attempts):
            return move
        verdict = await self._look_up(doubted, calls)
        over = over_at(attempts)
        early = self._clock() < over
        if verdict.found is CustomerMatch.UNKNOWN or (early and not answered):
            return move
        if early:
            # Dub may still be at work on the call that we gave up.
            return replace(move, status=LeadStatus.WAITING, due_at=over)
        due_at = max(unlocked_at(attempts), self._clock())
        note = (
            f"{verdict.reason}, but Dub keeps this customer and event locked for a "
            f"week and would ignore the lead; it is sent again at {iso(due_at)}."
        )
        return Move(LeadStatus.WAITING, due_at, verdict.reason, note=note, since=due_at)

    async def _look_up(self, entry: LeadRecord, calls: list[Call]) -> LookupVerdict:
        at = self._clock()
        # It belongs to no claim: the next one finds that much less.
        plan = self._terms.pace.plan
        await self._persistently(lambda: self._outbox.spend(plan, at, 1))
        signature = signing.sign_call(self._secrets, entry.lead.id, b"", at)
        started = time.perf_counter()
        reply = await self._dub.find_customer(
            entry.lead.customer_external_id, signature
        )
        took = time.perf_counter() - started
        verdict = judge(reply, entry)
        self._metrics.calls.labels(Step.LOOK_UP.value, verdict.found.value).observe(
            took
        )
        attempt = Attempt(
            at=at,
            step=Step.LOOK_UP,
            duration_ms=round(took * 1000),
            outcome=verdict.reason,
            http_status=None if isinstance(reply, NoAnswer) else reply.status,
        )
        calls.append(Call(attempt))
        return verdict

    async def _wait_for_data_key(self, claim: Claim, reason: str) -> Delivered:
        """Leave a lead whose data cannot be read for later; no call is made."""
        now = self._clock()
        end = Settlement(
            LeadStatus.WAITING, due_at=now + KEY_WAIT_MS, last_error=reason, since=now
        )
        return await self._end(claim, end)

    async def _call(
        self, lead: Lead, step: Step, calls: list[Call], *, proved: bool = False
    ) -> Outcome:
        sale = step is Step.SALE
        document = sale_body(lead) if sale else lead_body(lead, step, proved=proved)
        body = jsontext.encode(document)
        track = self._dub.track_sale if sale else self._dub.track_lead
        reply, at, took = await self._asked(lead, body, partial(track, body))
        now = self._clock()
        outcome = interpret(reply, step, now)
        await self._noted(calls, step, outcome, at, took)
        if lead.mode is Mode.WAIT and now - lead.created_at < AWAITED_MS:
            calls[-1] = replace(calls[-1], answer=kept(reply))
        return outcome

    def _decide(
        self, entry: LeadRecord, step: Step, outcome: Outcome
    ) -> Proceed | Park | Move:
        return decide(
            entry,
            step,
            outcome,
            now=self._clock(),
            since=entry.since or entry.lead.created_at,
            roll=self._roll(),
            policy=self._terms.policy,
        )

    async def _settle(
        self,
        claim: Claim,
        decision: Park | Move | Proceed,
        outcome: Outcome,
        calls: list[Call],
    ) -> Delivered:
        end = replace(_settlement(decision, calls, self._clock()), link=outcome.link)
        if not outcome.claims_key:
            # begin_recording took the call for one that claims it.
            end = replace(end, key_claimed_at=claim.entry.key_claimed_at)
        return await self._end(claim, end, Delivered(outcome.meaning, outcome.reason))

    async def _end(
        self, claim: Claim, end: Settlement, delivered: Delivered = NOTHING_ASKED
    ) -> Delivered:
        """Write how a delivery ended, however long the database is away."""
        lead = claim.entry.lead
        settled = await self._persistently(
            lambda: self._outbox.settle(claim, end, self._clock())
        )
        if not settled:
            settled = await self._settled_late(claim, end)
        _log_end(lead, end, kept=settled)
        if settled and end.status is LeadStatus.DELIVERED:
            self.last_delivered = lead.id
        return delivered

    async def _settled_late(self, claim: Claim, end: Settlement) -> bool:
        """See what became of a lead whose lease was lost before its end was written.

        It may have been written: the answer to a commit can be lost. Else Dub's own
        answer that it took the lead is as good as its webhook.
        """
        lead_id = claim.entry.lead.id
        found = await self._persistently(lambda: self._outbox.get(lead_id))
        if found is None or end.status is not LeadStatus.DELIVERED:
            return found is not None and found.status is end.status
        if found.status in SETTLED:
            return True
        now = self._clock()
        proof = Proof(ours=True, link=end.link)
        confirmed = await self._persistently(
            lambda: self._outbox.confirm([lead_id], now, proof)
        )
        return bool(confirmed)

    async def _persistently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Repeat what the database could not do: a call of ours has its answer.

        Were that thrown away, the lead would be in doubt although Dub's word was
        there. Cancelled, it tries once more.
        """
        while True:
            try:
                return await work()
            except OutboxUnavailableError as error:
                log.error("delivery.database_unavailable", reason=str(error))
            try:
                await asyncio.sleep(DATABASE_NAP_S)
            except asyncio.CancelledError:
                with contextlib.suppress(OutboxUnavailableError):  # logged above
                    await work()
                raise


def _settlement(
    decision: Park | Move | Proceed, calls: list[Call], now: int
) -> Settlement:
    attempts = [call.attempt for call in calls]
    # A look-up may have come after the call that is waited for.
    answers = [call.answer for call in calls if call.answer is not None]
    answer = answers[-1] if answers else None
    if isinstance(decision, Proceed):
        raise TypeError("a recording call never proceeds to another step")
    if isinstance(decision, Park):
        return Settlement(
            LeadStatus.PARKED,
            attempts,
            last_error=decision.reason,
            in_doubt=decision.in_doubt,
        )
    return Settlement(
        decision.status,
        attempts,
        due_at=decision.due_at,
        last_error=decision.reason,
        delivered_at=now if decision.status is LeadStatus.DELIVERED else None,
        in_doubt=decision.in_doubt,
        notes=(decision.note,) if decision.note else (),
        since=decision.since,
        answer=answer,
    )


def _log_end(lead: Lead, end: Settlement, *, kept: bool) -> None:
    if not kept:
        log.warning("lead.lease_lost", lead=lead.id)
    elif end.status in (LeadStatus.DELIVERED, LeadStatus.DUPLICATE):
        log.info(f"lead.{end.status}", lead=lead.id)
    else:
        due = None if end.due_at is None else iso(end.due_at)
        log.warning(f"lead.{end.status}", lead=lead.id, reason=end.last_error, due=due)
