"""What Dub's list of customers tells of a lead whose recording got no answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.core.clock import now_ms
from relay.core.dub.retry import Policy
from relay.core.leads import LeadRecord, LeadStatus, Step
from relay.delivery.deliver import (
    Delivery,
    DeliveryTerms,
)
from relay.delivery.dub_client import DubClient
from relay.observability.metrics import Metrics
from relay.outbox.backends import open_outbox
from relay.outbox.contract import Outbox
from tests.support.harness import API_KEY, RELAY_SECRET, SandboxDub
from tests.support.outbox_rig import DAY, HOUR, LEASE, entry, lead, new_lead


class Rig:
    """A delivery of one step in front of a sandbox, with a clock to set."""

    def __init__(self, outbox: Outbox, client: DubClient, *, two_step: bool) -> None:
        self.outbox = outbox
        self.ahead = 0
        terms = DeliveryTerms(Policy(base_ms=1), 4, LEASE, 6000, two_step=two_step)
        self._delivery = Delivery(
            outbox,
            client,
            secrets=(RELAY_SECRET,),
            terms=terms,
            clock=self.now,
            roll=lambda: 0.0,
            metrics=Metrics(),
        )

    def now(self) -> int:
        return now_ms() + self.ahead

    async def put(self, click: str, customer: str = "u_1") -> str:
        made = lead(customer, click_id=click, created_at=self.now())
        await self.outbox.put(new_lead(made))
        return made.id

    async def deliver(self, after_ms: int = HOUR) -> LeadRecord:
        """Let some time go by, deliver what is due then; how it stands."""
        self.ahead += after_ms
        [claim] = await self.outbox.claim(1, self.now(), LEASE)
        await self._delivery.deliver(claim)
        return await entry(self.outbox, claim.entry.lead.id)

    async def steps(self, lead_id: str) -> list[Step]:
        return [one.step for one in await self.outbox.attempts(lead_id)]


@pytest.fixture
async def outbox(tmp_path: Path) -> AsyncIterator[Outbox]:
    outbox = open_outbox(f"sqlite:///{tmp_path}/relay.db")
    await outbox.open()
    yield outbox
    await outbox.close()


@pytest.fixture
async def client(dub: SandboxDub) -> AsyncIterator[DubClient]:
    async with DubClient(dub.url, API_KEY, timeout=5) as client:
        yield client


@pytest.fixture
def rig(outbox: Outbox, client: DubClient) -> Rig:
    return Rig(outbox, client, two_step=False)


async def lookups(dub: SandboxDub) -> int:
    return sum(call["path"] == "/customers" for call in await dub.state("calls"))


async def test_a_customer_who_is_there_proves_nothing_whatever_the_clocks_say(
    rig: Rig, dub: SandboxDub
) -> None:
    await dub.fault(cut="after", count=1)
    lead_id = await rig.put(await dub.click())
    assert (await rig.deliver(0)).status is LeadStatus.WAITING

    found = await rig.deliver(1000)

    assert (found.status, found.in_doubt) == (LeadStatus.UNCONFIRMED, True)
    assert await rig.steps(lead_id) == [Step.RECORD, Step.RECORD, Step.LOOK_UP]
    assert len(await dub.state("leads")) == 1


async def test_without_a_customer_nothing_was_recorded_and_it_goes_once_dub_unlocks(
    rig: Rig, dub: SandboxDub
) -> None:
    await dub.fault(crash=True, count=1)
    await rig.put(await dub.click())
    assert (await rig.deliver(0)).status is LeadStatus.WAITING

    early = await rig.deliver(1000)
    sure = await rig.deliver(HOUR)

    # Dub may still have been at work on the first call.
    assert (early.status, early.in_doubt) == (LeadStatus.WAITING, True)
    assert (sure.status, sure.in_doubt) == (LeadStatus.WAITING, False)
    assert sure.due_at is not None
    assert 7 * DAY < sure.due_at - now_ms() < 7 * DAY + 3 * HOUR
    assert "recorded nothing" in sure.lead.notes[-1]
    assert await dub.state("leads") == []
    assert await lookups(dub) == 2

    dub.dub.clock = rig.now
    done = await rig.deliver(8 * DAY)
    assert done.status is LeadStatus.DELIVERED
    assert len(await dub.state("leads")) == 1


async def test_a_customer_from_another_call_tells_nothing(
    rig: Rig, dub: SandboxDub
) -> None:
    click = await dub.click()
    headers = {"Authorization": f"Bearer {API_KEY}"}
    other = {"clickId": click, "eventName": "Other", "customerExternalId": "u_1"}
    async with dub.session.post(
        f"{dub.url}/track/lead", json=other, headers=headers
    ) as answer:
        assert answer.status == 200
    await dub.fault(cut="after", count=1)
    lead_id = await rig.put(click)
    await rig.deliver(0)

    found = await rig.deliver(1000)

    assert (found.status, found.in_doubt) == (LeadStatus.UNCONFIRMED, True)
    story = await rig.outbox.attempts(lead_id)
    assert "shows nothing" in story[-1].outcome
    assert await lookups(dub) == 1


async def test_a_look_up_that_fails_settles_nothing(rig: Rig, dub: SandboxDub) -> None:
    await dub.fault(cut="after", count=1)
    await dub.fault(status=500, path="/customers")
    await rig.put(await dub.click())
    await rig.deliver(0)

    assert (await rig.deliver(1000)).status is LeadStatus.UNCONFIRMED


async def test_after_two_steps_it_is_not_asked(
    outbox: Outbox, client: DubClient, dub: SandboxDub
) -> None:
    rig = Rig(outbox, client, two_step=True)
    await dub.fault(cut="after", count=1, step="record")
    await rig.put(await dub.click())
    await rig.deliver(0)

    assert (await rig.deliver(1000)).status is LeadStatus.UNCONFIRMED
    assert await lookups(dub) == 0


async def test_the_look_up_is_paid_from_the_shared_budget(
    rig: Rig, dub: SandboxDub
) -> None:
    await dub.fault(cut="after", count=1)
    await rig.put(await dub.click())
    await rig.deliver(0)
    before = (await rig.outbox.budget()).spent_until
    await rig.deliver(1000)

    assert (await rig.outbox.budget()).spent_until > before
