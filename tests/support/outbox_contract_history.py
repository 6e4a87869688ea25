"""What every outbox does with leads of the past: imported ones, and those that go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from relay.core.dub.track_sale import sale_key
from relay.core.leads import SETTLED, CreditedLink, LeadStatus, Sale
from relay.outbox.contract import ImportedLead, Inserted, NewLead, Outbox, Query
from tests.support.outbox_contract_keeping import reach
from tests.support.outbox_rig import (
    DAY,
    HOUR,
    LEASE,
    NOW,
    claimed,
    entry,
    ids,
    lead,
    new_lead,
    put_all,
    put_together,
    requeue,
    signup,
)

LINK = CreditedLink("link_1", domain="acme.link", key="ada", partner_id="pn_1")


def imported(
    made: NewLead, status: LeadStatus = LeadStatus.DELIVERED, **more: Any
) -> ImportedLead:
    return ImportedLead(made, status, since=more.pop("since", NOW), **more)


async def removed(outbox: Outbox, before: int, *, for_ever: bool = False) -> int:
    """Remove all that is to go, in steps; how many leads."""
    total, last = 0, 0
    while True:
        step = await outbox.remove_old(last, before, 3, for_ever=for_ever)
        total += step.leads
        if step.last is None:
            return total
        last = step.last


def old(customer: str, at: int = NOW - 90 * DAY, **more: Any) -> NewLead:
    return replace(signup(customer, at, **more), dedupe_since=None)


class HistoryContract:
    """Leads that are imported, and rows that are removed."""

    async def test_what_dub_has_is_kept_as_it_was_and_never_sent(
        self, outbox: Outbox
    ) -> None:
        made = old("u")
        said = {"delivered_at": NOW - 89 * DAY, "link": LINK, "event_id": "ev_1"}
        one = imported(
            made, LeadStatus.CONFIRMED, since=NOW - 90 * DAY, confirmed_by="events"
        )
        result = await outbox.import_lead(replace(one, **said))  # type: ignore[arg-type]

        assert result == (Inserted.NEW, made.lead.id, LeadStatus.CONFIRMED)
        found = await entry(outbox, made.lead.id)
        assert (found.lead, found.status) == (made.lead, LeadStatus.CONFIRMED)
        assert (found.delivered_at, found.due_at) == (NOW - 89 * DAY, None)
        assert (found.link, found.event_id) == (LINK, "ev_1")
        assert found.confirmed_by == "events"
        assert await outbox.counts() == {LeadStatus.CONFIRMED: 1}
        assert await ids(outbox, Query(link="link_1")) == [made.lead.id]
        assert await outbox.claim(9, NOW + DAY, LEASE) == []

    async def test_what_is_to_be_sent_is_due_and_tried_from_now_on(
        self, outbox: Outbox
    ) -> None:
        made = replace(old("u"), dedupe_since=0)
        await outbox.import_lead(imported(made, LeadStatus.QUEUED))

        assert await outbox.oldest_open() == NOW
        [claim] = await outbox.claim(9, NOW, LEASE)
        assert claim.entry.since == NOW
        assert claim.entry.lead.created_at == NOW - 90 * DAY

    async def test_sign_ups_that_wait_go_first(self, outbox: Outbox) -> None:
        fresh = signup("fresh", NOW - 1)
        await outbox.put(fresh)
        late = replace(old("late"), dedupe_since=0)
        await outbox.import_lead(imported(late, LeadStatus.QUEUED))

        assert claimed(await outbox.claim(1, NOW, LEASE)) == [fresh.lead.id]

    @pytest.mark.parametrize("dry", [True, False])
    async def test_the_same_lead_is_imported_once(
        self, outbox: Outbox, dry: bool
    ) -> None:
        made = old("u")
        await outbox.import_lead(imported(made))

        again = await outbox.import_lead(imported(made), dry=dry)

        assert again == (Inserted.DUPLICATE, made.lead.id, LeadStatus.DELIVERED)
        assert await ids(outbox) == [made.lead.id]

    @pytest.mark.parametrize("status", [LeadStatus.DELIVERED, LeadStatus.UNCONFIRMED])
    async def test_what_counts_here_is_not_sent_again(
        self, outbox: Outbox, status: LeadStatus
    ) -> None:
        known = old("u", NOW - 300 * DAY)
        await outbox.import_lead(imported(known, status))

        made = replace(old("u"), dedupe_since=0)
        for dry in (True, False):
            one = imported(made, LeadStatus.QUEUED)
            result = await outbox.import_lead(one, dry=dry)
            assert (result.outcome, result.lead_id) == (
                *(Inserted.DUPLICATE, known.lead.id),
            )
        assert await ids(outbox) == [known.lead.id]

    async def test_a_dry_import_changes_nothing(self, outbox: Outbox) -> None:
        made = old("u")
        result = await outbox.import_lead(imported(made), dry=True)

        assert result == (Inserted.NEW, made.lead.id, LeadStatus.DELIVERED)
        assert await ids(outbox) == []

    async def test_an_imported_lead_makes_a_later_sign_up_a_repeat(
        self, outbox: Outbox
    ) -> None:
        made = old("u", NOW - DAY)
        await outbox.import_lead(imported(made))

        assert (await outbox.put(signup("u"))).outcome is Inserted.DUPLICATE

    async def test_what_may_have_counted_waits_for_a_person(
        self, outbox: Outbox
    ) -> None:
        made = old("u")
        one = imported(made, LeadStatus.UNCONFIRMED, in_doubt=True)
        await outbox.import_lead(one)

        assert (await entry(outbox, made.lead.id)).in_doubt
        assert await outbox.claim(9, NOW, LEASE) == []
        assert (await requeue(outbox, made.lead.id, NOW)).due_at == NOW

    async def test_a_rejected_one_says_why_and_can_be_sent_again(
        self, outbox: Outbox
    ) -> None:
        made = replace(old("u"), reason="Link not found")
        await outbox.import_lead(imported(made, LeadStatus.REJECTED))

        assert (await entry(outbox, made.lead.id)).last_error == "Link not found"
        assert (await outbox.put(signup("u"))).outcome is Inserted.NEW
        again = await requeue(outbox, made.lead.id, NOW + HOUR)
        assert again.due_at == NOW + HOUR

    async def test_leads_are_imported_beside_sign_ups_of_the_same_moment(
        self, outbox: Outbox
    ) -> None:
        await put_all(outbox, [signup("u1"), signup("u2")])
        await outbox.import_lead(imported(old("u3")))

        assert await outbox.counts() == {
            LeadStatus.QUEUED: 2,
            LeadStatus.DELIVERED: 1,
        }

    # --- Old rows go. ---

    @pytest.mark.parametrize("settled", sorted(SETTLED))
    async def test_old_rows_of_what_dub_has_go_with_their_calls(
        self, outbox: Outbox, settled: LeadStatus
    ) -> None:
        lead_id = await reach(outbox, settled, signup("u"))
        kept = await reach(outbox, settled, signup("v", NOW + DAY))

        assert await removed(outbox, NOW) == 0
        assert await removed(outbox, NOW + 1) == 1
        assert await removed(outbox, NOW + 1) == 0

        assert await ids(outbox) == [kept]
        assert await outbox.attempts(lead_id) == []
        assert await outbox.counts() == {settled: 1}

    @pytest.mark.parametrize(
        "other", sorted(set(LeadStatus) - SETTLED - {LeadStatus.HELD})
    )
    async def test_what_dub_has_not_stays_whatever_its_age(
        self, outbox: Outbox, other: LeadStatus
    ) -> None:
        if other is LeadStatus.PARKED:
            await outbox.put(signup("u"))
            await outbox.park_due(NOW, 9)
        else:
            await reach(outbox, other, signup("u"))

        assert await removed(outbox, NOW + 900 * DAY) == 0
        assert await outbox.counts() == {other: 1}

    async def test_what_is_held_goes_too_and_makes_nothing_a_repeat(
        self, outbox: Outbox
    ) -> None:
        await outbox.put(signup("u", status=LeadStatus.HELD))

        assert (await outbox.remove_old(0, NOW + 1, 9, for_ever=True)).leads == 1

        again = await outbox.put(signup("u", NOW + DAY))
        assert again.outcome is Inserted.NEW

    async def test_what_dubs_list_does_not_show_stays_for_a_person(
        self, outbox: Outbox
    ) -> None:
        lead_id = await reach(outbox, LeadStatus.DELIVERED, signup("u"))
        await outbox.miss([lead_id], NOW)

        assert await removed(outbox, NOW + 900 * DAY) == 0

    async def test_a_step_looks_at_so_many_and_says_where_to_go_on(
        self, outbox: Outbox
    ) -> None:
        for number in range(5):
            await reach(outbox, LeadStatus.DELIVERED, signup(f"u{number}"))
        rejected = new_lead(lead("rejected"), status=LeadStatus.REJECTED)
        await outbox.put(rejected)

        steps: list[int] = []
        last: int | None = 0
        while last is not None:
            step = await outbox.remove_old(last, NOW + 1, 2, for_ever=False)
            steps.append(step.leads)
            last = step.last

        assert steps == [2, 2, 1, 0]
        assert await ids(outbox) == [rejected.lead.id]

    async def test_what_came_or_ended_later_stays_though_captured_long_ago(
        self, outbox: Outbox
    ) -> None:
        await outbox.import_lead(imported(old("u"), since=NOW))
        late = old("v", NOW - DAY)
        await outbox.import_lead(imported(late, since=NOW - DAY, delivered_at=NOW))

        assert await removed(outbox, NOW) == 0
        assert await removed(outbox, NOW + 1) == 2

    async def test_rows_go_whose_personal_data_went_before(
        self, outbox: Outbox
    ) -> None:
        await reach(outbox, LeadStatus.DELIVERED, signup("u"))
        assert await outbox.erase_due(NOW + 1, 9, NOW + DAY) == 1

        assert await removed(outbox, NOW + 1) == 1

    @pytest.mark.parametrize("erased", [False, True])
    @pytest.mark.parametrize("for_ever", [False, True])
    async def test_a_repeat_of_what_is_gone_counts_unless_once_is_for_ever(
        self, outbox: Outbox, erased: bool, for_ever: bool
    ) -> None:
        lead_id = await reach(outbox, LeadStatus.DELIVERED, signup("u"))
        if erased:
            await outbox.erase_due(NOW + 1, 9, NOW + DAY)
        assert await removed(outbox, NOW + 1, for_ever=for_ever) == 1

        again = replace(signup("u", NOW + 500 * DAY), dedupe_since=0)
        other = replace(signup("v", NOW + 500 * DAY), dedupe_since=0)
        first, second = await put_together(outbox, [again, other])

        assert second.outcome is Inserted.NEW
        if for_ever:
            assert first == (Inserted.DUPLICATE, lead_id, LeadStatus.DELIVERED)
        else:
            assert first.outcome is Inserted.NEW

    async def test_what_is_gone_counts_in_its_window_alone(
        self, outbox: Outbox
    ) -> None:
        """As when dedupe_days is no longer 0."""
        await reach(outbox, LeadStatus.DELIVERED, signup("u"))
        await removed(outbox, NOW + 1, for_ever=True)

        soon, late = signup("u", NOW + DAY), signup("u", NOW + 8 * DAY)
        assert (await outbox.put(soon)).outcome is Inserted.DUPLICATE
        assert (await outbox.put(late)).outcome is Inserted.NEW

    @pytest.mark.parametrize("erased", [False, True])
    @pytest.mark.parametrize(("invoice", "counts"), [("in_1", True), (None, False)])
    async def test_an_invoice_counts_once_for_ever(
        self, outbox: Outbox, invoice: str | None, counts: bool, erased: bool
    ) -> None:
        def sold(at: int) -> NewLead:
            made = lead("u", created_at=at, sale=Sale(4900, invoice_id=invoice))
            since = 0 if invoice else None
            return NewLead(made, sale_key(Sale(4900, invoice_id=invoice)), since)

        await reach(outbox, LeadStatus.DELIVERED, sold(NOW))
        if erased:
            await outbox.erase_due(NOW + 1, 9, NOW + DAY)
        assert await removed(outbox, NOW + 1) == 1

        again = await outbox.put(sold(NOW + 500 * DAY))
        assert (again.outcome is Inserted.DUPLICATE) == counts

    async def test_the_last_of_several_that_are_gone_is_the_one_that_counts(
        self, outbox: Outbox
    ) -> None:
        """They are removed in whatever order they came."""
        late, early = old("u", NOW + 30 * DAY), old("u", NOW)
        for made in (late, early):
            await outbox.import_lead(imported(made))
        assert await removed(outbox, NOW + 31 * DAY, for_ever=True) == 2

        result = await outbox.put(signup("u", NOW + 31 * DAY))
        assert (result.outcome, result.lead_id) == (Inserted.DUPLICATE, late.lead.id)

    async def test_a_person_does_not_send_again_what_has_counted_and_is_gone(
        self, outbox: Outbox
    ) -> None:
        refused = await reach(outbox, LeadStatus.REJECTED, signup("u", NOW - 1))
        made = replace(signup("u"), dedupe_key=refused)
        counted = await reach(outbox, LeadStatus.DELIVERED, made)
        await removed(outbox, NOW + 1, for_ever=True)

        again = await outbox.requeue(refused, NOW + DAY, window_ms=0, key_ms=DAY)
        assert again == (None, counted)

    async def test_several_relays_remove_each_row_once(
        self, outbox: Outbox, reopen: Callable[[], Awaitable[Outbox]]
    ) -> None:
        for number in range(40):
            await reach(outbox, LeadStatus.DELIVERED, signup(f"u{number}"))
        other = await reopen()

        counted = await asyncio.gather(
            *(removed(each, NOW + 1, for_ever=True) for each in (outbox, other))
        )

        assert sum(counted) == 40
        assert await outbox.counts() == {}
