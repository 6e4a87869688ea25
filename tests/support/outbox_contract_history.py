"""What every outbox does with leads of the past: those of another ledger."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from relay.core.leads import CreditedLink, LeadStatus
from relay.outbox.contract import ImportedLead, Inserted, NewLead, Outbox, Query
from tests.support.outbox_rig import (
    DAY,
    HOUR,
    LEASE,
    NOW,
    claimed,
    entry,
    ids,
    put_all,
    requeue,
    signup,
)

LINK = CreditedLink("link_1", domain="acme.link", key="ada", partner_id="pn_1")


def imported(
    made: NewLead, status: LeadStatus = LeadStatus.DELIVERED, **more: Any
) -> ImportedLead:
    return ImportedLead(made, status, since=more.pop("since", NOW), **more)


def old(customer: str, at: int = NOW - 90 * DAY, **more: Any) -> NewLead:
    return replace(signup(customer, at, **more), dedupe_since=None)


class HistoryContract:
    """Leads that are imported."""

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
