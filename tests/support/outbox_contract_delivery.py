"""The part of the contract by which leads leave an outbox."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from relay.core.leads import IllegalMoveError, LeadStatus, Step
from relay.core.pacing import Pace, ready_at
from relay.outbox.contract import Circuit, Outbox, Query, Settlement
from tests.support.outbox_rig import (
    DAY,
    HOUR,
    LEASE,
    NOW,
    attempt,
    claim_one,
    claimed,
    entry,
    ids,
    lead,
    new_lead,
    put_all,
    requeue,
    signup,
    status,
)

DELIVERED = Settlement(LeadStatus.DELIVERED, delivered_at=NOW)


def waiting(due_at: int) -> Settlement:
    return Settlement(LeadStatus.WAITING, due_at=due_at, last_error="Dub was busy")


async def finish(outbox: Outbox, end: Settlement, now: int = NOW) -> str:
    """Claim one lead and settle it; give its id."""
    claim = await claim_one(outbox, now)
    assert await outbox.settle(claim, end, now)
    return claim.entry.lead.id


async def lead_in(outbox: Outbox, wanted: LeadStatus) -> str:
    """Bring a lead into a state by the moves that lead there; give its id."""
    made = new_lead(
        status=LeadStatus.HELD if wanted is LeadStatus.HELD else LeadStatus.QUEUED
    )
    await outbox.put(made)
    if wanted in {LeadStatus.HELD, LeadStatus.QUEUED}:
        return made.lead.id
    claim = await claim_one(outbox)
    if wanted is LeadStatus.CONFIRMED:
        await outbox.settle(claim, DELIVERED, NOW)
        await outbox.confirm([made.lead.id], NOW)
    elif wanted is not LeadStatus.SENDING:
        await outbox.settle(claim, Settlement(wanted, due_at=NOW + DAY), NOW)
    return made.lead.id


class DeliveryContract:
    """Claims, leases, settlements, parking and the circuit."""

    # --- Claims. ---

    async def test_a_claim_leases_what_is_due_oldest_due_first(
        self, outbox: Outbox
    ) -> None:
        new_leads = [new_lead(lead(created_at=NOW + due)) for due in (20, 0, 30, 10)]
        await put_all(outbox, new_leads)
        made = [one.lead.id for one in new_leads]

        first = await outbox.claim(2, NOW + 20, LEASE)
        rest = await outbox.claim(9, NOW + 20, LEASE)

        assert claimed(first) == [made[1], made[3]]
        assert claimed(rest) == [made[0]]
        assert await outbox.claim(9, NOW + 20, LEASE) == []
        assert claimed(await outbox.claim(9, NOW + 30, LEASE)) == [made[2]]

    async def test_a_claim_gives_the_entry_as_it_stands_in_the_store(
        self, outbox: Outbox
    ) -> None:
        await outbox.put(new_lead())

        claim = await claim_one(outbox)

        assert claim.entry.status is LeadStatus.SENDING
        assert claim.entry.due_at == NOW + LEASE
        assert claim.entry == await outbox.get(claim.entry.lead.id)
        assert len(claim.token) >= 16

    async def test_a_lead_is_claimed_by_one_of_many_only(self, outbox: Outbox) -> None:
        await put_all(outbox, [new_lead() for _ in range(40)])

        claims = await asyncio.gather(*(outbox.claim(7, NOW, LEASE) for _ in range(9)))

        taken = [one for some in claims for one in claimed(some)]
        assert len(taken) == len(set(taken)) == 40

    async def test_a_lease_that_ran_out_is_claimed_again_and_lost_to_the_first(
        self, outbox: Outbox
    ) -> None:
        await outbox.put(new_lead())
        lost = await claim_one(outbox)
        assert await outbox.claim(1, NOW + LEASE - 1, LEASE) == []

        claim = await claim_one(outbox, NOW + LEASE)

        assert claim.token != lost.token
        assert not await outbox.settle(lost, DELIVERED, NOW + LEASE)
        assert not await outbox.begin_recording(lost, [attempt()], NOW + LEASE, LEASE)
        assert await outbox.attempts(claim.entry.lead.id) == []
        assert await outbox.get(claim.entry.lead.id) == claim.entry
        assert await outbox.settle(claim, DELIVERED, NOW + LEASE)

    async def test_a_late_worker_may_settle_while_nobody_else_has_claimed(
        self, outbox: Outbox
    ) -> None:
        await outbox.put(new_lead())
        claim = await claim_one(outbox)

        assert await outbox.settle(claim, DELIVERED, NOW + 9 * LEASE)

    async def test_a_lead_is_settled_once(self, outbox: Outbox) -> None:
        await outbox.put(new_lead())
        claim = await claim_one(outbox)
        await outbox.settle(claim, waiting(NOW + HOUR), NOW)

        assert not await outbox.settle(claim, DELIVERED, NOW)
        assert await status(outbox, claim.entry.lead.id) is LeadStatus.WAITING

    # --- One customer's leads are a line. ---

    async def test_one_customers_leads_go_one_after_the_other(
        self, outbox: Outbox
    ) -> None:
        new_leads = [new_lead(lead("u")) for _ in range(3)]
        await put_all(outbox, new_leads)
        made = [one.lead.id for one in new_leads]

        order = []
        while claims := await outbox.claim(9, NOW, LEASE):
            assert len(claims) == 1
            order += claimed(claims)
            await outbox.settle(claims[0], DELIVERED, NOW)

        assert order == made

    async def test_customers_do_not_wait_for_each_other(self, outbox: Outbox) -> None:
        new_leads = [new_lead(lead(customer)) for customer in "uuvvw"]
        await put_all(outbox, new_leads)
        made = [one.lead.id for one in new_leads]

        claims = await outbox.claim(9, NOW, LEASE)

        assert claimed(claims) == [made[0], made[2], made[4]]

    @pytest.mark.parametrize(
        ("end", "goes"),
        [
            (waiting(NOW + HOUR), False),
            (Settlement(LeadStatus.QUEUED, due_at=NOW + HOUR), False),
            (Settlement(LeadStatus.PARKED), False),
            (Settlement(LeadStatus.DELIVERED), True),
            (Settlement(LeadStatus.DUPLICATE), True),
            (Settlement(LeadStatus.UNCONFIRMED), True),
            (Settlement(LeadStatus.REJECTED), True),
        ],
    )
    async def test_the_next_in_line_waits_for_an_end(
        self, outbox: Outbox, end: Settlement, *, goes: bool
    ) -> None:
        new_leads = [new_lead(lead("u")), new_lead(lead("u"))]
        await put_all(outbox, new_leads)

        await finish(outbox, end)

        following = claimed(await outbox.claim(9, NOW, LEASE))
        assert following == ([new_leads[1].lead.id] if goes else [])

    async def test_the_next_in_line_goes_at_once_although_claims_found_it_blocked(
        self, outbox: Outbox
    ) -> None:
        new_leads = [new_lead(lead("u")) for _ in range(3)]
        await put_all(outbox, new_leads)
        first = await claim_one(outbox)
        assert await outbox.claim(9, NOW, LEASE) == []

        await outbox.settle(first, DELIVERED, NOW + 1)

        assert claimed(await outbox.claim(9, NOW + 1, LEASE)) == [new_leads[1].lead.id]

    async def test_the_line_moves_on_when_a_worker_died(self, outbox: Outbox) -> None:
        new_leads = [new_lead(lead("u")), new_lead(lead("u"))]
        await put_all(outbox, new_leads)
        await outbox.claim(9, NOW, LEASE)

        again = await outbox.claim(9, NOW + LEASE, LEASE)

        assert claimed(again) == [new_leads[0].lead.id]

    async def test_a_long_line_hides_nobody_behind_it(self, outbox: Outbox) -> None:
        line = [new_lead(lead("u")) for _ in range(1500)]
        behind = new_lead(lead(created_at=NOW + 1))
        await asyncio.gather(*(outbox.put(one) for one in [*line, behind]))

        found = []
        for _ in range(20):
            found += claimed(await outbox.claim(2, NOW + 1, LEASE))

        assert found == [line[0].lead.id, behind.lead.id]

    async def test_when_nothing_can_be_claimed_nothing_is_called_due(
        self, outbox: Outbox
    ) -> None:
        # A worker that sleeps until next_due would else never sleep.
        await put_all(outbox, [new_lead(lead("u")) for _ in range(3)])
        await finish(outbox, waiting(NOW + HOUR))
        assert await outbox.claim(9, NOW, LEASE) == []

        due = await outbox.next_due()

        assert due is not None
        assert NOW < due <= NOW + HOUR
        assert await outbox.claim(9, NOW + HOUR - 1, LEASE) == []
        assert len(await outbox.claim(9, NOW + HOUR, LEASE)) == 1

    async def test_an_older_lead_that_is_sent_again_goes_first(
        self, outbox: Outbox
    ) -> None:
        older, newer = new_lead(lead("u")), new_lead(lead("u"))
        await outbox.put(older)
        await finish(outbox, Settlement(LeadStatus.REJECTED))
        await outbox.put(newer)
        await requeue(outbox, older.lead.id, NOW)

        assert await finish(outbox, DELIVERED) == older.lead.id
        assert await finish(outbox, DELIVERED) == newer.lead.id

    # --- How a delivery ends. ---

    async def test_a_settlement_is_written_whole(self, outbox: Outbox) -> None:
        await outbox.put(new_lead(lead(notes=("a note",))))
        claim = await claim_one(outbox)
        calls = [
            attempt(NOW + 1, http_status=None, code=None),
            attempt(NOW + 2, step=Step.RECORD, outcome="Dub took the lead"),
        ]

        await outbox.settle(
            claim,
            Settlement(
                LeadStatus.DELIVERED,
                calls,
                last_error="nearly",
                delivered_at=NOW + 3,
                in_doubt=True,
                notes=["another", "\ud83d"],
            ),
            NOW + 3,
        )

        found = await entry(outbox, claim.entry.lead.id)
        assert found.status is LeadStatus.DELIVERED
        assert (found.attempts, found.due_at) == (2, None)
        assert (found.last_error, found.delivered_at) == ("nearly", NOW + 3)
        assert found.in_doubt
        assert found.lead.notes == ("a note", "another", "\ud83d")
        assert await outbox.attempts(found.lead.id) == calls

    async def test_attempts_add_up_over_deliveries(self, outbox: Outbox) -> None:
        await outbox.put(new_lead())
        calls = [attempt(NOW + n) for n in range(5)]

        claim = await claim_one(outbox)
        await outbox.begin_recording(claim, calls[:1], NOW, LEASE)
        end = Settlement(LeadStatus.WAITING, calls[1:3], due_at=NOW + 9)
        await outbox.settle(claim, end, NOW)
        claim = await claim_one(outbox, NOW + 9)
        assert claim.entry.attempts == 3
        await outbox.settle(claim, Settlement(LeadStatus.DELIVERED, calls[3:]), NOW + 9)

        assert await outbox.attempts(claim.entry.lead.id) == calls
        assert (await entry(outbox, claim.entry.lead.id)).attempts == 5

    async def test_a_waiting_lead_is_due_again_at_its_time(
        self, outbox: Outbox
    ) -> None:
        await outbox.put(new_lead())
        await finish(outbox, waiting(NOW + HOUR))

        assert await outbox.next_due() == NOW + HOUR
        assert await outbox.claim(1, NOW + HOUR - 1, LEASE) == []
        claim = await claim_one(outbox, NOW + HOUR)
        assert claim.entry.last_error == "Dub was busy"

    @pytest.mark.parametrize("again", [LeadStatus.QUEUED, LeadStatus.WAITING])
    async def test_a_lead_given_back_without_a_time_is_due_at_once(
        self, outbox: Outbox, again: LeadStatus
    ) -> None:
        await outbox.put(new_lead())
        await finish(outbox, Settlement(again), NOW + 5)

        assert await outbox.next_due() == NOW + 5

    async def test_a_time_is_kept_for_leads_that_can_be_due_only(
        self, outbox: Outbox
    ) -> None:
        await outbox.put(new_lead())
        done = await finish(outbox, Settlement(LeadStatus.REJECTED, due_at=NOW + 1))

        assert (await entry(outbox, done)).due_at is None
        assert await outbox.next_due() is None

    async def test_an_explanation_that_cannot_be_stored_is_made_storable(
        self, outbox: Outbox
    ) -> None:
        await outbox.put(new_lead())
        bad = "Dub said \ud83d\0"
        calls = [attempt(outcome=bad, code=bad)]

        done = await finish(
            outbox, Settlement(LeadStatus.REJECTED, calls, last_error=bad)
        )

        assert (await entry(outbox, done)).last_error == "Dub said ??"
        assert (await outbox.attempts(done))[0].outcome == "Dub said ??"

    @pytest.mark.parametrize(
        "end", [LeadStatus.HELD, LeadStatus.CONFIRMED, LeadStatus.SENDING]
    )
    async def test_a_delivery_cannot_end_where_no_move_leads(
        self, outbox: Outbox, end: LeadStatus
    ) -> None:
        await outbox.put(new_lead())
        claim = await claim_one(outbox)

        with pytest.raises(IllegalMoveError):
            await outbox.settle(claim, Settlement(end, [attempt()]), NOW)

        assert await outbox.get(claim.entry.lead.id) == claim.entry

    async def test_recording_leaves_a_mark_and_renews_the_lease(
        self, outbox: Outbox
    ) -> None:
        await outbox.put(new_lead())
        claim = await claim_one(outbox)
        assert not claim.entry.in_doubt

        assert await outbox.begin_recording(claim, [attempt()], NOW + 9, LEASE)

        found = await entry(outbox, claim.entry.lead.id)
        assert (found.in_doubt, found.attempts) == (True, 1)
        assert found.due_at == NOW + 9 + LEASE
        # The worker dies; whoever comes next knows.
        assert (await claim_one(outbox, NOW + 9 + LEASE)).entry.in_doubt

    @pytest.mark.parametrize(
        ("told", "kept"), [(None, True), (True, True), (False, False)]
    )
    async def test_doubt_stays_unless_a_settlement_says_otherwise(
        self, outbox: Outbox, told: bool | None, *, kept: bool
    ) -> None:
        await outbox.put(new_lead())
        claim = await claim_one(outbox)
        await outbox.begin_recording(claim, [], NOW, LEASE)

        await outbox.settle(
            claim, Settlement(LeadStatus.UNCONFIRMED, in_doubt=told), NOW
        )

        assert (await entry(outbox, claim.entry.lead.id)).in_doubt is kept

    # --- While nothing may be sent. ---

    async def test_parking_takes_what_is_due_and_unparking_gives_it_back(
        self, outbox: Outbox
    ) -> None:
        new_leads = [new_lead(lead(created_at=NOW + n)) for n in range(4)]
        await put_all(outbox, new_leads)
        made = [one.lead.id for one in new_leads]
        await finish(outbox, waiting(NOW + 2))

        assert await outbox.park_due(NOW + 2, 2) == 2
        assert await outbox.park_due(NOW + 2, 2) == 1
        assert await outbox.park_due(NOW + 2, 2) == 0
        assert await outbox.claim(9, NOW + 2, LEASE) == []
        found = await entry(outbox, made[0])
        assert (found.status, found.due_at) == (LeadStatus.PARKED, None)

        assert await outbox.unpark(NOW + HOUR, 2) == 2
        assert sorted(await ids(outbox, Query(LeadStatus.PARKED))) == [made[2]]
        assert await outbox.unpark(NOW + HOUR, 2) == 1
        assert await outbox.unpark(NOW + HOUR, 2) == 0
        found = await entry(outbox, made[0])
        assert (found.status, found.due_at) == (LeadStatus.QUEUED, NOW + HOUR)
        # The time it was parked is no time it was tried in vain.
        assert found.since == NOW + HOUR

    async def test_what_a_clock_that_was_set_back_left_behind_is_made_due(
        self, outbox: Outbox
    ) -> None:
        late = [new_lead(lead(created_at=NOW + HOUR + n)) for n in range(3)]
        await put_all(outbox, [new_lead(), *late])
        # One waits for good reason, one since before the clock was set back.
        await finish(outbox, waiting(NOW + 2 * HOUR))
        waits = (await outbox.list(Query(LeadStatus.WAITING)))[0].lead.id

        assert await outbox.claim(9, NOW + 1, LEASE) == []
        assert await outbox.reschedule(NOW + 1, NOW + 2 * HOUR, NOW + 7 * DAY, 2) == 2
        assert await outbox.reschedule(NOW + 1, NOW + 2 * HOUR, NOW + 7 * DAY, 2) == 1
        assert await outbox.reschedule(NOW + 1, NOW + 2 * HOUR, NOW + 7 * DAY, 2) == 0
        claims = await outbox.claim(9, NOW + 1, LEASE)
        assert {one.entry.lead.id for one in claims} == {it.lead.id for it in late}
        assert {one.entry.since for one in claims} == {NOW + 1}

        assert await outbox.reschedule(NOW + 1, NOW + HOUR, NOW + 7 * DAY, 9) == 1
        [claim] = await outbox.claim(9, NOW + 1, LEASE)
        assert claim.entry.lead.id == waits
        # The leases of those under way are their holders'.
        assert await outbox.reschedule(NOW - DAY, NOW - DAY, NOW + 7 * DAY, 9) == 0

    async def test_leads_under_way_are_not_parked(self, outbox: Outbox) -> None:
        await outbox.put(new_lead())
        claim = await claim_one(outbox)

        assert await outbox.park_due(NOW + DAY, 9) == 0
        assert await outbox.settle(claim, DELIVERED, NOW)

    async def test_the_circuit_is_one_for_all_on_the_database(
        self, outbox: Outbox, reopen: Callable[[], Awaitable[Outbox]]
    ) -> None:
        other = await reopen()
        assert await other.circuit() == Circuit()
        closed = Circuit(open=True, reason="key revoked", probe_at=NOW + 5, failures=3)

        await outbox.set_circuit(closed)

        assert await other.circuit() == closed
        await other.set_circuit(Circuit())
        assert await outbox.circuit() == Circuit()

    # --- Again, and confirmed. ---

    @pytest.mark.parametrize("state", list(LeadStatus))
    async def test_only_what_rests_without_success_is_sent_again(
        self, outbox: Outbox, state: LeadStatus
    ) -> None:
        made = await lead_in(outbox, state)
        rests = {
            LeadStatus.HELD,
            LeadStatus.PARKED,
            LeadStatus.UNCONFIRMED,
            LeadStatus.REJECTED,
        }

        done = await requeue(outbox, made, NOW + HOUR)
        assert (done.due_at is not None) is (state in rests)

        found = await entry(outbox, made)
        if state in rests:
            assert (found.status, found.due_at) == (LeadStatus.QUEUED, NOW + HOUR)
            assert found.since == NOW + HOUR
        else:
            assert (found.status, found.since) == (state, NOW)

    async def test_what_waits_for_dubs_key_is_not_sent_again_before_it_is_free(
        self, outbox: Outbox
    ) -> None:
        await outbox.put(new_lead())
        claim = await claim_one(outbox)
        assert await outbox.begin_recording(claim, [], NOW + 5, LEASE)
        refused = Settlement(LeadStatus.REJECTED, in_doubt=False)
        assert await outbox.settle(claim, refused, NOW + 9)
        lead_id = claim.entry.lead.id

        done = await requeue(outbox, lead_id, NOW + DAY)

        free_at = NOW + 5 + 7 * DAY + HOUR
        assert done.due_at == free_at
        found = await entry(outbox, lead_id)
        assert (found.status, found.due_at) == (LeadStatus.WAITING, free_at)
        assert found.key_claimed_at == NOW + 5
        assert "our own call" in (found.last_error or "")
        assert "our own call" in found.lead.notes[-1]
        assert await outbox.claim(9, free_at - 1, LEASE) == []
        assert claimed(await outbox.claim(9, free_at, LEASE)) == [lead_id]

    async def test_a_refusal_that_claimed_no_key_leaves_the_earlier_one(
        self, outbox: Outbox
    ) -> None:
        await outbox.put(new_lead())
        for earlier in (None, NOW - DAY):
            claim = await claim_one(outbox, NOW + HOUR)
            await outbox.begin_recording(claim, [], NOW + 5, LEASE)
            end = replace(waiting(NOW), in_doubt=False, key_claimed_at=earlier)
            await outbox.settle(claim, end, NOW + 9)

            found = await entry(outbox, claim.entry.lead.id)
            assert found.key_claimed_at == earlier

    async def test_a_clock_set_back_makes_nothing_due_that_waits_for_dubs_key(
        self, outbox: Outbox
    ) -> None:
        free_at = NOW + 7 * DAY + HOUR
        await outbox.put(new_lead())
        claim = await claim_one(outbox)
        await outbox.begin_recording(claim, [], NOW, LEASE)
        poisoned = replace(waiting(free_at), in_doubt=False, since=free_at)
        await outbox.settle(claim, poisoned, NOW)
        lead_id = claim.entry.lead.id

        a_little = NOW - DAY
        assert await outbox.reschedule(a_little, NOW, a_little + 7 * DAY, 9) == 0
        back = NOW - 30 * DAY
        latest = back + 7 * DAY + HOUR
        assert await outbox.reschedule(back, back + HOUR, latest, 9) == 1
        assert (await entry(outbox, lead_id)).due_at == latest
        assert await outbox.reschedule(back, back + HOUR, latest, 9) == 0

        later = NOW + DAY
        assert await outbox.reschedule(later, later + HOUR, later + 8 * DAY, 9) == 0
        assert (await entry(outbox, lead_id)).due_at == latest

    async def test_a_lead_that_was_reported_again_meanwhile_is_not_sent_again(
        self, outbox: Outbox
    ) -> None:
        await outbox.put(signup("u"))
        first = await finish(outbox, Settlement(LeadStatus.REJECTED))
        again = signup("u", NOW + DAY)
        much_later = signup("u", NOW + 9 * DAY)
        await put_all(outbox, [again, much_later])

        assert await requeue(outbox, first, NOW + 10 * DAY) == (None, again.lead.id)
        assert await status(outbox, first) is LeadStatus.REJECTED

    async def test_a_lead_of_another_time_counts_for_itself(
        self, outbox: Outbox
    ) -> None:
        await outbox.put(signup("u"))
        first = await finish(outbox, Settlement(LeadStatus.REJECTED))
        await outbox.put(signup("u", NOW + 9 * DAY))

        assert (await requeue(outbox, first, NOW + 10 * DAY)).due_at is not None

    async def test_leads_that_nothing_came_of_stand_in_nobodys_way(
        self, outbox: Outbox
    ) -> None:
        await outbox.put(signup("u"))
        first = await finish(outbox, Settlement(LeadStatus.REJECTED))
        await outbox.put(signup("u", NOW + 1))
        await finish(outbox, Settlement(LeadStatus.REJECTED), NOW + 1)
        await outbox.put(signup("u", NOW + 2, status=LeadStatus.HELD))

        assert (await requeue(outbox, first, NOW + DAY)).due_at == NOW + DAY

    async def test_a_held_sign_up_that_was_stored_again_is_not_sent_again(
        self, outbox: Outbox
    ) -> None:
        held = signup("u", status=LeadStatus.HELD)
        again = signup("u", NOW + 1)
        await put_all(outbox, [held, again])

        assert (await requeue(outbox, held.lead.id, NOW + DAY)).other == again.lead.id

    async def test_a_person_who_sends_again_once_the_key_has_run_out_ends_the_doubt(
        self, outbox: Outbox
    ) -> None:
        await outbox.put(new_lead())
        claim = await claim_one(outbox)
        await outbox.begin_recording(claim, [], NOW, LEASE)
        unknown = Settlement(LeadStatus.UNCONFIRMED, in_doubt=True)
        await outbox.settle(claim, unknown, NOW)
        lead_id = claim.entry.lead.id

        assert (await requeue(outbox, lead_id, NOW + DAY)).due_at == NOW + DAY
        assert (await entry(outbox, lead_id)).in_doubt

        claim = await claim_one(outbox, NOW + DAY)
        await outbox.settle(claim, unknown, NOW + DAY)
        later = NOW + 8 * DAY
        assert (await requeue(outbox, lead_id, later)).due_at == later
        assert not (await entry(outbox, lead_id)).in_doubt

    async def test_sending_again_keeps_the_doubt_and_the_story(
        self, outbox: Outbox
    ) -> None:
        await outbox.put(new_lead())
        end = Settlement(LeadStatus.UNCONFIRMED, [attempt()], in_doubt=True)
        made = await finish(outbox, end)

        await requeue(outbox, made, NOW + HOUR)

        found = await entry(outbox, made)
        assert (found.in_doubt, found.attempts) == (True, 1)
        assert await outbox.attempts(made) == [attempt()]
        assert (await requeue(outbox, "lead_unknown", NOW)).due_at is None

    @pytest.mark.parametrize("state", list(LeadStatus))
    async def test_only_what_dub_may_have_is_confirmed(
        self, outbox: Outbox, state: LeadStatus
    ) -> None:
        made = await lead_in(outbox, state)
        confirmable = state in {LeadStatus.DELIVERED, LeadStatus.UNCONFIRMED}

        done = await outbox.confirm([made, "lead_unknown"], NOW + HOUR)

        assert done == (1 if confirmable else 0)
        expected = LeadStatus.CONFIRMED if confirmable else state
        assert await status(outbox, made) is expected

    async def test_a_claim_spends_no_more_than_the_shared_budget_has(
        self, outbox: Outbox, reopen: Callable[[], Awaitable[Outbox]]
    ) -> None:
        other = await reopen()
        await put_all(outbox, [new_lead(lead(f"u_{n}")) for n in range(30)])
        pace = Pace(plan=600, calls=2)

        first = await outbox.claim(30, NOW, LEASE, pace)
        none = await other.claim(30, NOW, LEASE, pace)
        ready = ready_at(await other.budget(), pace.plan, NOW, pace.calls)
        more = await other.claim(30, ready, LEASE, pace)

        assert (len(first), len(none), len(more)) == (5, 0, 1)
        assert ready > NOW

    async def test_a_429_pauses_every_relay_and_lowers_their_rate(
        self, outbox: Outbox, reopen: Callable[[], Awaitable[Outbox]]
    ) -> None:
        other = await reopen()
        await put_all(outbox, [new_lead(lead(f"u_{n}")) for n in range(3)])
        pace = Pace(plan=1200, calls=2)

        await outbox.throttled(pace.plan, NOW, NOW + HOUR // 2)

        assert await other.claim(1, NOW + HOUR // 2 - 1, LEASE, pace) == []
        assert len(await other.claim(1, NOW + HOUR // 2, LEASE, pace)) == 1
        assert (await other.budget()).share == 0.5

    async def test_a_fresh_lead_does_not_wait_behind_a_backlog(
        self, outbox: Outbox
    ) -> None:
        await put_all(outbox, [new_lead(lead(f"u_{n}")) for n in range(200)])
        fresh = new_lead(replace(lead("fresh"), created_at=NOW + 9))
        await outbox.put(fresh)

        claims = claimed(await outbox.claim(8, NOW + 9, LEASE))

        assert fresh.lead.id in claims
        assert len(claims) == 8

    @pytest.mark.parametrize("customers", [200, 10])
    async def test_every_fourth_lead_is_a_fresh_one_however_small_the_claims(
        self, outbox: Outbox, customers: int
    ) -> None:
        backlog = [new_lead(lead(f"u_{n % customers}")) for n in range(200)]
        await put_all(outbox, backlog)
        fresh = [new_lead(replace(lead(), created_at=NOW + 9)) for _ in range(2)]
        await put_all(outbox, fresh)

        came = []
        for _ in range(8):
            claim = await claim_one(outbox, NOW + 9)
            came.append(claim.entry.lead.id)
            # The next of this customer's leads becomes due just now.
            await outbox.settle(claim, DELIVERED, NOW + 9)

        assert [made.lead.id for made in fresh] == [came[7], came[3]]

    async def test_what_stands_behind_others_goes_once_nothing_else_is_due(
        self, outbox: Outbox
    ) -> None:
        behind = [new_lead(waits_ms=HOUR // 4 * n) for n in (3, 1, 2)]
        await put_all(outbox, [*behind, *(new_lead() for _ in range(8))])
        others = await outbox.claim(8, NOW, LEASE)
        last = await outbox.claim(2, NOW, LEASE)

        assert not {one.lead.id for one in behind} & set(claimed(others))
        assert claimed(last) == [behind[1].lead.id, behind[2].lead.id]
        await outbox.settle(last[0], waiting(NOW + HOUR), NOW)
        assert claimed(await outbox.claim(2, NOW, LEASE)) == [behind[0].lead.id]
        # What was tried waits for its time.
        assert await outbox.claim(2, NOW, LEASE) == []

    async def test_what_stands_behind_others_is_due_at_its_time(
        self, outbox: Outbox
    ) -> None:
        behind, other = new_lead(waits_ms=9), new_lead(lead(created_at=NOW + 10))
        await put_all(outbox, [other, behind])

        assert (await entry(outbox, behind.lead.id)).since == NOW + 9
        assert claimed([await claim_one(outbox, NOW + 10)]) == [behind.lead.id]

    async def test_of_one_customer_the_first_still_goes_first(
        self, outbox: Outbox
    ) -> None:
        first, second = (new_lead(lead("u"), waits_ms=n) for n in (HOUR, 0))
        await put_all(outbox, [first, second])

        assert claimed(await outbox.claim(9, NOW, LEASE)) == [first.lead.id]

    async def test_leads_that_were_tried_before_are_no_fresh_ones(
        self, outbox: Outbox
    ) -> None:
        await put_all(outbox, [new_lead() for _ in range(9)])
        fresh, tried = new_lead(), new_lead()
        await put_all(outbox, [fresh, tried])
        claims = await outbox.claim(99, NOW, LEASE)
        for claim in claims:
            back = LeadStatus.QUEUED
            if claim.entry.lead.id == tried.lead.id:
                back = LeadStatus.WAITING
            await outbox.settle(claim, Settlement(back, due_at=NOW), NOW)

        came = claimed([await claim_one(outbox) for _ in range(4)])

        assert fresh.lead.id in came
        assert tried.lead.id not in came

    async def test_a_webhook_that_overtakes_the_answer_settles_what_is_in_doubt(
        self, outbox: Outbox
    ) -> None:
        await outbox.put(new_lead())
        claim = await claim_one(outbox, NOW)
        await outbox.begin_recording(claim, [attempt()], NOW, LEASE)

        done = await outbox.confirm([claim.entry.lead.id], NOW + 1)
        kept = await outbox.settle(
            claim, Settlement(LeadStatus.DELIVERED, [attempt()]), NOW + 2
        )

        assert (done, kept) == (1, True)
        found = await entry(outbox, claim.entry.lead.id)
        assert (found.status, found.attempts) == (LeadStatus.CONFIRMED, 2)
        assert len(await outbox.attempts(claim.entry.lead.id)) == 2

    async def test_a_new_round_begins_when_a_settlement_says_so(
        self, outbox: Outbox
    ) -> None:
        await outbox.put(new_lead())
        claim = await claim_one(outbox, NOW)

        await outbox.settle(
            claim,
            Settlement(LeadStatus.WAITING, due_at=NOW + HOUR, since=NOW + HOUR),
            NOW,
        )

        assert (await entry(outbox, claim.entry.lead.id)).since == NOW + HOUR

    async def test_a_confirmed_lead_is_delivered_beyond_doubt(
        self, outbox: Outbox
    ) -> None:
        await outbox.put(new_lead())
        made = await finish(outbox, Settlement(LeadStatus.UNCONFIRMED, in_doubt=True))

        await outbox.confirm([made], NOW + HOUR)

        found = await entry(outbox, made)
        assert (found.in_doubt, found.delivered_at) == (False, NOW + HOUR)

    # --- Waking delivery up. ---

    async def test_delivery_is_woken_when_something_may_be_due(
        self, outbox: Outbox
    ) -> None:
        woken: list[str] = []
        outbox.on_ready(lambda: woken.append("!"))

        async def wakes(work: Awaitable[object]) -> bool:
            woken.clear()
            await work
            return bool(woken)

        held = new_lead(status=LeadStatus.HELD)
        assert await wakes(outbox.put(new_lead()))
        claim = await claim_one(outbox)
        assert await wakes(outbox.settle(claim, Settlement(LeadStatus.PARKED), NOW))
        assert await wakes(outbox.unpark(NOW, 9))
        await outbox.put(held)
        assert await wakes(outbox.release(held.lead.id, new_lead()))
        assert await wakes(
            requeue(outbox, await lead_in(outbox, LeadStatus.REJECTED), NOW)
        )
        assert not await wakes(outbox.claim(9, NOW, LEASE))
        assert not await wakes(outbox.check_writable())
