"""The loop that takes due leads out of the outbox and has them delivered."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import Final

from relay.core.clock import (
    Clock,
    SetBack,
)
from relay.core.dub.replies import (
    Meaning,
)
from relay.core.dub.retry import probe_delay
from relay.core.leads import LeadStatus
from relay.core.pacing import LONGEST_PAUSE_MS, ready_at
from relay.delivery.deliver import (
    KEY_WORKS,
    Delivered,
    Delivery,
    DeliveryTerms,
)
from relay.delivery.rollback import LastSeen
from relay.observability.logging import get_logger
from relay.outbox.contract import (
    Circuit,
    Claim,
    Outbox,
    OutboxUnavailableError,
    Query,
    Settlement,
)

log = get_logger()

POLL_S: Final = 1.0
"""How long the loop sleeps at most: another process may have made leads due."""

RESTART_S: Final = 1.0
"""Pause before the loop is started again after a defect ended it."""

SHORTEST_NAP_S: Final = 0.05
"""A due lead may stand behind an older one of its customer; do not spin on it."""

TROUBLE_NAP_S: Final = 1.0
"""Pause after the database refused, so that a full disk is not hammered."""

STOP_GRACE_S: Final = 5.0
"""How long calls under way may still take at a stop. Dub answers within one
second; whatever hangs longer is given back to the outbox."""

DOWN_AFTER: Final = 5
"""Failures in a row, of whichever leads, after which Dub is taken for down. One
lead that Dub chokes on must not stop the others; five cost no more than a burst."""

LOOK_BACK: Final = 500
"""Newest leads that are asked whether the clock was set back: others may have come,
by the new clock, before the first look."""

PARK_BATCH: Final = 500
"""Leads parked or unparked in one transaction, so that none holds the writer long."""

AHEAD: Final = 2
"""One lead for so many calls is taken on top: while others wait for their commits,
these see to it that no place for a call stands empty."""

BATCH: Final = 8
"""A claim waits until one in so many of all calls is over, so that a backlog is not
claimed lead by lead. It is less than what is taken ahead, so no place stands empty."""

SET_BACK_MS: Final = 1_000
"""A clock that goes back by more was set; NTP's own corrections are smaller. What a
smaller step delays is not worth looking for."""


class Worker:
    """Delivers what is due, with some more leads than ``terms.in_flight`` at once.

    Run it as one task with :meth:`run`; end it with :meth:`stop`, which returns
    when every claim is settled or given back.
    """

    def __init__(
        self,
        outbox: Outbox,
        delivery: Delivery,
        seen: LastSeen,
        *,
        terms: DeliveryTerms,
        clock: Clock,
    ) -> None:
        self._outbox = outbox
        self._delivery = delivery
        self._seen = seen
        self._terms = terms
        self._clock = clock
        self._set_back = SetBack(clock)
        self._stepped = False
        self._most = terms.in_flight + -(-terms.in_flight // AHEAD)
        self._batch = max(1, terms.in_flight // BATCH)
        self._wake = asyncio.Event()
        self.stopping = False
        self._failures_in_a_row = 0
        self._failures_before = 0
        self._look_for_parked_at = 0.0
        self._running: dict[asyncio.Task[None], Claim] = {}
        self._probing: asyncio.Task[None] | None = None
        outbox.on_ready(self._wake.set)

    async def run(self) -> None:
        """Go on until stop() is called, whatever happens.

        Trouble with the database is waited out; a defect is logged, and the loop
        starts again.
        """
        while not self.stopping:
            try:
                await self._run()
            except Exception as error:  # noqa: BLE001 - logged, and started again
                log.error(
                    "delivery.crashed", error=type(error).__name__, detail=str(error)
                )
                await asyncio.sleep(RESTART_S)

    async def _run(self) -> None:
        await self._probe_soon()
        await self._look_back()
        while not self.stopping:
            self._wake.clear()
            try:
                await self._seen.compare()
                await self._look_at_the_clock()
                busy = await self._turn()
                await self._seen.remember(self._delivery.last_delivered)
            except OutboxUnavailableError as error:
                log.error("delivery.database_unavailable", reason=str(error))
                # What comes back may be an older copy.
                self._seen.doubtful = True
                await self._nap(TROUBLE_NAP_S)
            else:
                if not busy:
                    await self._nap(POLL_S if self._full else await self._until_due())

    async def stop(self) -> None:
        """Stop claiming, let the calls under way end, give the others back."""
        self.stopping = True
        self._wake.set()
        if self._probing is not None:
            self._probing.cancel()
        late: set[asyncio.Task[None]] = set()
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=STOP_GRACE_S)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        await self._seen.remember(self._delivery.last_delivered, at_once=True)

    async def _probe_soon(self) -> None:
        """Probe at once after a start: perhaps a person has just put it right."""
        try:
            circuit = await self._outbox.circuit()
            now = self._clock()
            if circuit.open:
                await self._outbox.set_circuit(
                    replace(circuit, probe_at=now, failures=0)
                )
        except OutboxUnavailableError as error:
            log.error("delivery.database_unavailable", reason=str(error))

    async def _look_back(self) -> None:
        """See whether the clock was set back since the last lead came."""
        with contextlib.suppress(OutboxUnavailableError):  # the first turn logs it
            newest = await self._outbox.list(Query(limit=LOOK_BACK))
            latest = max((entry.lead.created_at for entry in newest), default=0)
            self._stepped |= latest > self._clock() + SET_BACK_MS

    async def _look_at_the_clock(self) -> None:
        """Let no lead wait for the size of the step by which the clock went back."""
        if self._set_back.by() > SET_BACK_MS:
            self._stepped = True
        if not self._stepped:
            return
        log.warning("delivery.clock_set_back")
        now = self._clock()
        latest = now + max(self._terms.policy.max_ms, LONGEST_PAUSE_MS)
        free_at = now + self._terms.policy.key_ms
        while (
            await self._outbox.reschedule(now, latest, free_at, PARK_BATCH)
            == PARK_BATCH
        ):
            pass
        self._stepped = False
        await self._probe_soon()

    @property
    def _free(self) -> int:
        return self._most - len(self._running)

    @property
    def _full(self) -> bool:
        return self._free < self._batch

    async def _turn(self) -> bool:
        """Claim once. True when there may be more to claim straight away."""
        if self._full:
            return False
        circuit = await self._outbox.circuit()
        now = self._clock()
        if circuit.paused:
            return False
        if circuit.open:
            return await self._turn_open(circuit, now)
        self._failures_before = circuit.failures
        await self._unpark(now)
        free = self._free
        claims = await self._outbox.claim(
            free, now, self._terms.lease_ms, self._terms.pace
        )
        for claim in claims:
            self._start(claim)
        return bool(claims) and len(claims) < free

    async def _turn_open(self, circuit: Circuit, now: int) -> bool:
        self._look_for_parked_at = 0.0
        parked = await self._outbox.park_due(now, PARK_BATCH) if circuit.parks else 0
        idle = self._probing is None or self._probing.done()
        if idle and (circuit.probe_at is None or circuit.probe_at <= now):
            # The next probe is booked before this one goes, so that of several
            # relays on one database only one sends it.
            booked = replace(
                circuit,
                probe_at=now + probe_delay(circuit.failures, self._terms.policy),
                failures=circuit.failures + 1,
            )
            await self._outbox.set_circuit(booked)
            self._probing = asyncio.create_task(self._probe(booked))
        return parked == PARK_BATCH

    async def _unpark(self, now: int) -> None:
        """Let parked leads go on: no call is known to fail any more.

        Looked for now and then, for a relay may have died after it parked a lead
        and before it opened the circuit, or after it closed it.
        """
        if time.monotonic() < self._look_for_parked_at:
            return
        while await self._outbox.list(Query(status=LeadStatus.PARKED, limit=1)):
            if not await self._outbox.unpark(now, PARK_BATCH):
                break
        self._look_for_parked_at = time.monotonic() + POLL_S

    def _start(self, claim: Claim) -> None:
        task = asyncio.create_task(self._deliver(claim))
        self._running[task] = claim
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        claim = self._running.pop(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()):
            # The lease ends by itself and the lead is tried again: a defect of
            # ours delays a lead, it does not lose one.
            log.error(
                "delivery.failed",
                lead=claim.entry.lead.id,
                error=type(error).__name__,
                detail=str(error),
            )

    async def _deliver(self, claim: Claim) -> None:
        try:
            end = await self._delivery.deliver(claim)
        except asyncio.CancelledError:
            await self._give_back(claim)
            raise
        except OutboxUnavailableError as error:
            # Not settled: the lease ends and the lead is claimed again.
            log.error(
                "delivery.not_settled", lead=claim.entry.lead.id, reason=str(error)
            )
            return
        await self._move_circuit(end)

    async def _give_back(self, claim: Claim) -> None:
        """Return a claim at a stop; begin_recording has said if it is in doubt."""
        now = self._clock()
        end = Settlement(
            LeadStatus.WAITING,
            due_at=now,
            last_error="the relay was stopped during the call",
        )
        if await self._outbox.settle(claim, end, now):
            log.info("lead.given_back", lead=claim.entry.lead.id)

    async def _move_circuit(self, end: Delivered) -> None:
        """Open the circuit where further calls would fail."""
        if end.meaning is Meaning.OPERATOR:
            await self._open_circuit(end.reason, parks=True)
        elif end.meaning is Meaning.AGAIN:
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= DOWN_AFTER:
                await self._open_circuit(end.reason, parks=False)
        elif end.key_works:
            self._failures_in_a_row = 0
            if self._failures_before:
                await self._forget_failures()

    async def _open_circuit(self, reason: str, *, parks: bool) -> None:
        circuit = await self._outbox.circuit()
        if circuit.open and (circuit.parks or not parks):
            return  # as tight already; the probe that is booked stands
        # Leads that fail although the probes pass: each time a longer pause.
        before = 0 if circuit.open else circuit.failures
        opened = Circuit(
            open=True,
            reason=reason,
            probe_at=self._clock() + probe_delay(before, self._terms.policy),
            failures=before,
            parks=parks,
        )
        await self._outbox.set_circuit(opened)
        log.error("delivery.parked" if parks else "delivery.dub_down", reason=reason)

    async def _probe(self, booked: Circuit) -> None:
        """Close the circuit if Dub answers as it should; else say why not."""
        log.info("delivery.probe")
        try:
            found = await self._delivery.probe()
            if found.meaning in KEY_WORKS or found.meaning is Meaning.THROTTLED:
                await self._outbox.set_circuit(Circuit(failures=booked.failures))
                self._failures_in_a_row = 0
                log.info("delivery.resumed")
            elif found.meaning is Meaning.OPERATOR or not booked.parks:
                parks = found.meaning is Meaning.OPERATOR
                seen = replace(booked, reason=found.reason, parks=parks)
                await self._outbox.set_circuit(seen)
        except OutboxUnavailableError as error:
            log.error("delivery.database_unavailable", reason=str(error))
        finally:
            self._wake.set()

    async def _forget_failures(self) -> None:
        """Write that leads get through again, unless the circuit has opened since."""
        self._failures_before = 0
        circuit = await self._outbox.circuit()
        if not circuit.open and circuit.failures:
            await self._outbox.set_circuit(Circuit())

    async def _until_due(self) -> float:
        """Return the seconds to sleep: until a lead is due and can be paid for."""
        due = await self._outbox.next_due()
        circuit = await self._outbox.circuit()
        if due is None or circuit.paused or circuit.open:
            return POLL_S
        now, pace = self._clock(), self._terms.pace
        paid = ready_at(await self._outbox.budget(), pace.plan, now, pace.calls)
        wait = max((max(due, paid) - now) / 1000, SHORTEST_NAP_S)
        return min(wait, POLL_S)

    async def _nap(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
        except TimeoutError:
            return
