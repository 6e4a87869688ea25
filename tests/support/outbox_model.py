"""A small outbox in memory, and random histories that compare a real one to it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice

from hypothesis import strategies as st

from relay.core.leads import OPEN, LeadStatus
from relay.outbox.contract import Claim, Inserted, Outbox, Settlement
from tests.support.outbox_rig import LEASE, NOW, attempt, ids, lead, new_lead

Op = tuple[str, int, int]
"""What is done, and two numbers that say to what and how."""

ENDS = [
    *(LeadStatus.DELIVERED, LeadStatus.REJECTED, LeadStatus.WAITING, LeadStatus.QUEUED),
    *(LeadStatus.PARKED, LeadStatus.UNCONFIRMED),
]

KINDS = ["put", "put", "put", "claim", "claim", "settle", "settle", "tick"]

ops: st.SearchStrategy[list[Op]] = st.lists(
    st.tuples(
        st.sampled_from([*KINDS, "park", "unpark", "record"]),
        st.integers(0, 5),
        st.integers(0, 5),
    ),
    max_size=40,
)


@dataclass
class Known:
    """What the model knows of a lead."""

    lead_id: str
    customer: str
    key: str
    status: LeadStatus = LeadStatus.QUEUED
    due_at: int = NOW
    token: str | None = None
    attempts: int = 0


@dataclass
class Model:
    """Does to a real outbox and to itself the same, and asserts that they agree.

    A worker that dies is one that never settles while time ticks on.
    """

    outbox: Outbox
    now: int = NOW
    leads: list[Known] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)

    async def do(self, op: Op) -> None:
        kind, first, second = op
        await getattr(self, kind)(first, second)

    async def agree(self) -> None:
        """Compare everything that both know."""
        assert await ids(self.outbox) == [one.lead_id for one in self.leads[::-1]]
        counted = Counter(one.status for one in self.leads)
        assert await self.outbox.counts() == counted
        for one in self.leads:
            found = await self.outbox.get(one.lead_id)
            assert found is not None
            assert (found.status, found.attempts) == (one.status, one.attempts)

    async def put(self, customer: int, key: int) -> None:
        made = lead(f"u{customer}", created_at=self.now)
        key_ = f"k{key % 4}"
        same = [
            one
            for one in self.leads
            if (one.customer, one.key) == (f"u{customer}", key_)
            and one.status is not LeadStatus.REJECTED
        ]

        result = await self.outbox.put(new_lead(made, dedupe_key=key_, dedupe_since=0))

        if same:
            assert (result.outcome, result.lead_id) == (
                Inserted.DUPLICATE,
                same[0].lead_id,
            )
            assert result.status is same[0].status
        else:
            assert (result.outcome, result.lead_id) == (Inserted.NEW, made.id)
            self.leads.append(
                Known(made.id, made.customer_external_id, key_, due_at=self.now)
            )

    async def claim(self, limit: int, _: int) -> None:
        ready = {one.lead_id: one for one in self._ready()}

        claims = await self.outbox.claim(limit, self.now, LEASE)

        assert len(claims) == min(limit, len(ready))
        for claim in claims:
            one = ready.pop(claim.entry.lead.id)
            one.status, one.token = LeadStatus.SENDING, claim.token
            one.due_at = self.now + LEASE
        self.claims += claims

    async def settle(self, which: int, how: int) -> None:
        if not self.claims:
            return
        claim = self.claims[which % len(self.claims)]
        one = self._known(claim)
        status = ENDS[how]
        end = Settlement(status, [attempt()], due_at=self.now + how * 1000)

        done = await self.outbox.settle(claim, end, self.now)

        assert done is self._holds(claim)
        if done:
            one.status, one.token, one.attempts = status, None, one.attempts + 1
            one.due_at = self.now + how * 1000

    async def record(self, which: int, _: int) -> None:
        if not self.claims:
            return
        claim = self.claims[which % len(self.claims)]

        done = await self.outbox.begin_recording(claim, [attempt()], self.now, LEASE)

        assert done is self._holds(claim)
        if done:
            self._known(claim).attempts += 1
            self._known(claim).due_at = self.now + LEASE

    async def tick(self, far: int, _: int) -> None:
        self.now += LEASE if far == 0 else far * 500

    async def park(self, _: int, __: int) -> None:
        # Of leads behind others only some are due: the store may have put them
        # off. So all that are first in line must be parked, others may be.
        ready = [one for one in self._ready() if one.status is not LeadStatus.SENDING]

        await self.outbox.park_due(self.now, 99)

        for one in self.leads:
            found = await self.outbox.get(one.lead_id)
            assert found is not None
            if one in ready:
                assert found.status is LeadStatus.PARKED
            if found.status is LeadStatus.PARKED is not one.status:
                assert one.status in {LeadStatus.QUEUED, LeadStatus.WAITING}
                assert one.due_at <= self.now
                one.status = LeadStatus.PARKED

    async def unpark(self, limit: int, _: int) -> None:
        parked = [one for one in self.leads if one.status is LeadStatus.PARKED]

        assert await self.outbox.unpark(self.now, limit) == min(limit, len(parked))

        for one in islice(parked, limit):
            one.status, one.due_at = LeadStatus.QUEUED, self.now

    def _ready(self) -> list[Known]:
        """The first open lead of each customer, where it is due."""
        line: dict[str, Known] = {}
        for one in self.leads:
            if one.status in OPEN:
                line.setdefault(one.customer, one)
        return [
            one
            for one in line.values()
            if one.status is not LeadStatus.PARKED and one.due_at <= self.now
        ]

    def _known(self, claim: Claim) -> Known:
        return next(o for o in self.leads if o.lead_id == claim.entry.lead.id)

    def _holds(self, claim: Claim) -> bool:
        one = self._known(claim)
        return one.status is LeadStatus.SENDING and one.token == claim.token
