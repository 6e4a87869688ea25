"""The part of the contract that is there for people: looking, pausing, writing down."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from relay.core.leads import LeadStatus
from relay.outbox.contract import (
    AuditEntry,
    Circuit,
    Outbox,
    Query,
    Sample,
    Sighting,
)
from tests.support.outbox_rig import NOW, ids, lead, new_lead, put_all, put_together

MINUTE = 60_000


class OperatingContract:
    """What the dashboard needs of any outbox."""

    async def test_a_listing_goes_on_before_a_lead(self, outbox: Outbox) -> None:
        new_leads = [new_lead(lead(f"u_{n}")) for n in range(5)]
        await put_all(outbox, new_leads)
        newest_first = [made.lead.id for made in reversed(new_leads)]

        first = await ids(outbox, Query(limit=2))
        second = await ids(outbox, Query(limit=2, before=first[-1]))
        third = await ids(outbox, Query(limit=2, before=second[-1]))

        assert first + second + third == newest_first

    async def test_a_listing_finds_a_click_and_an_event(self, outbox: Outbox) -> None:
        wanted = new_lead(lead("a", click_id="WantedClick00001"))
        other = new_lead(lead("b", event_name="Demo"))
        await put_all(outbox, [wanted, other])

        assert await ids(outbox, Query(click="WantedClick00001")) == [wanted.lead.id]
        assert await ids(outbox, Query(event="Demo")) == [other.lead.id]
        assert await ids(outbox, Query(event="Demo", click="WantedClick00001")) == []

    async def test_a_listing_finds_by_all_that_is_given_together(
        self, outbox: Outbox
    ) -> None:
        made = [
            new_lead(lead("a", event_name="Demo", click_id="WantedClick00001")),
            new_lead(lead("b", event_name="Demo"), status=LeadStatus.REJECTED),
            new_lead(lead("a"), status=LeadStatus.REJECTED),
        ]
        await put_all(outbox, made)
        first, second, third = (one.lead.id for one in made)

        async def found(**wanted: Any) -> list[str]:
            return await ids(outbox, Query(**wanted))

        assert await found(event="Demo", status=LeadStatus.REJECTED) == [second]
        assert await found(event="Demo", status=LeadStatus.DELIVERED) == []
        assert await found(event="Demo", customer="a") == [first]
        assert await found(status=LeadStatus.REJECTED, customer="a") == [third]
        assert await found(click="WantedClick00001", customer="a") == [first]
        assert await found(click="WantedClick00001", customer="b") == []
        assert await found(click="WantedClick00001", before=second) == [first]
        assert await found(click="WantedClick00001", status=LeadStatus.REJECTED) == []

    async def test_many_leads_are_counted_and_found_as_they_move(
        self, outbox: Outbox
    ) -> None:
        held = lead("held", click_id="BeforeItsEnd0001")
        await outbox.put(new_lead(held, status=LeadStatus.HELD))
        gone = lead("gone", click_id="GoneWithItsLead1")
        new_leads = [new_lead() for _ in range(1_200)]
        await put_together(outbox, new_leads)
        await outbox.put(new_lead(gone, status=LeadStatus.HELD))
        assert await outbox.counts() == {LeadStatus.HELD: 2, LeadStatus.QUEUED: 1_200}
        assert await ids(outbox, Query(click="GoneWithItsLead1")) == [gone.id]

        await outbox.release(gone.id, None)
        final = replace(held, click_id="AfterItsEnd00001")
        await outbox.release(held.id, new_lead(final))
        late = new_lead(lead(click_id="TakesTheLastSeq1"))
        await outbox.put(late)
        await outbox.park_due(NOW, 200)

        counted = {LeadStatus.QUEUED: 1_002, LeadStatus.PARKED: 200}
        assert await outbox.counts() == counted
        for click, there in {
            "BeforeItsEnd0001": [],
            "AfterItsEnd00001": [held.id],
            "GoneWithItsLead1": [],
            "TakesTheLastSeq1": [late.lead.id],
            new_leads[700].lead.click_id: [new_leads[700].lead.id],
        }.items():
            assert await ids(outbox, Query(click=click)) == there

    async def test_a_pause_is_everybodys_and_outlives_the_circuit(
        self, outbox: Outbox, reopen: Callable[[], Awaitable[Outbox]]
    ) -> None:
        await outbox.pause(paused=True)
        other = await reopen()
        assert (await other.circuit()).paused

        await other.set_circuit(Circuit(open=True, reason="401"))
        await other.set_circuit(Circuit())
        assert (await outbox.circuit()).paused

        await other.pause(paused=False)
        assert await outbox.circuit() == Circuit()

    async def test_the_end_of_a_pause_wakes_delivery(self, outbox: Outbox) -> None:
        woken: list[bool] = []
        await outbox.pause(paused=True)
        outbox.on_ready(lambda: woken.append(True))

        await outbox.pause(paused=False)

        assert woken

    async def test_acts_are_kept_newest_first(self, outbox: Outbox) -> None:
        acts = [
            AuditEntry(NOW + n, "admin", "retry", f"lead_{n}", "sent") for n in range(3)
        ]
        for act in acts:
            await outbox.record(act)

        assert await outbox.audit_log(2) == [acts[2], acts[1]]

    async def test_a_minute_is_sampled_once_by_each_relay(self, outbox: Outbox) -> None:
        early = Sample(NOW, "a", {"landings": 1.0})
        later = Sample(NOW, "a", {"landings": 3.0})
        other = Sample(NOW, "b", {"landings": 5.0})
        for sample in (early, other, later):
            await outbox.sample(sample, 0)

        assert await outbox.samples(0) == [later, other]

    async def test_old_samples_are_dropped(self, outbox: Outbox) -> None:
        old = Sample(NOW, "a", {})
        new = Sample(NOW + MINUTE, "a", {})
        await outbox.sample(old, 0)
        await outbox.sample(new, NOW + 1)

        assert await outbox.samples(0) == [new]
        assert await outbox.samples(NOW + MINUTE + 1) == []

    async def test_sightings_add_up_and_the_last_of_a_kind_are_kept(
        self, outbox: Outbox
    ) -> None:
        first = Sighting("candidate", "POST /join", {"form": ["a"]}, 2, NOW, NOW)
        again = Sighting(
            "candidate", "POST /join", {"form": ["b"]}, 3, NOW + 9, NOW + 9
        )
        other = Sighting("candidate", "POST /x", {}, 1, NOW + 1, NOW + 1)
        apart = Sighting("undecided", "POST /join", {}, 1, NOW, NOW)
        await outbox.add_sightings([first, other, apart], 2)
        await outbox.add_sightings([again], 2)

        total = Sighting("candidate", "POST /join", {"form": ["b"]}, 5, NOW, NOW + 9)
        assert await outbox.sightings("candidate") == [total, other]
        assert await outbox.sightings("undecided") == [apart]

        late = Sighting("candidate", "POST /y", {}, 1, NOW + 20, NOW + 20)
        await outbox.add_sightings([late], 2)
        assert await outbox.sightings("candidate") == [late, total]

    async def test_what_is_seen_does_not_change_what_is_due(
        self, outbox: Outbox
    ) -> None:
        await put_all(outbox, [new_lead()])
        await outbox.pause(paused=True)

        assert await outbox.counts() == {LeadStatus.QUEUED: 1}
        assert await outbox.next_due() == NOW
