"""The part of the contract about sales: leads of their own kind, in the same line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from relay.core.dub.track_sale import sale_key
from relay.core.leads import LeadStatus, Sale
from relay.outbox.contract import (
    Inserted,
    NewLead,
    Outbox,
    Query,
    Settlement,
    Wanted,
)
from relay.outbox.records import pseudonym
from tests.support.outbox_rig import (
    DAY,
    LEASE,
    NOW,
    attempt,
    claim_one,
    claimed,
    entry,
    lead,
    new_lead,
    put_all,
    put_together,
    requeue,
    signup,
    status,
)

SALE = Sale(4900, "eur", "stripe", "in_1", "Sign Up")

YEARS = 5 * 365 * DAY


def purchase(customer: str, sale: Sale = SALE, at: int = NOW, **more: Any) -> NewLead:
    """A new lead of a sale; those of one invoice count once, for ever."""
    made = lead(customer, event_name="Purchase", created_at=at, sale=sale, **more)
    since = 0 if sale.invoice_id else None
    return new_lead(made, dedupe_key=sale_key(sale), dedupe_since=since)


class SalesContract:
    """What any outbox does with sales."""

    @pytest.mark.parametrize("sale", [SALE, Sale(0), Sale(1, lead_event_name="\ud83d")])
    async def test_a_sale_is_kept_as_it_came(
        self,
        outbox: Outbox,
        reopen: Callable[[], Awaitable[Outbox]],
        sale: Sale,
    ) -> None:
        made = purchase("u", sale, customer_name="Zoë", metadata={"plan": "pro"})
        await outbox.put(made)

        for store in (outbox, await reopen()):
            assert (await entry(store, made.lead.id)).lead == made.lead
            [listed] = await store.list(Query(customer="u"))
            assert listed.lead == made.lead

        assert (await claim_one(outbox)).entry.lead == made.lead

    # --- The order: behind the customer's leads. ---

    @pytest.mark.parametrize("put", [put_all, put_together])
    async def test_a_sale_waits_for_its_customers_leads(
        self, outbox: Outbox, put: Callable[..., Awaitable[Any]]
    ) -> None:
        first, second, sold = signup("u", key="a"), signup("u", key="b"), purchase("u")
        await put(outbox, [first, second, sold, purchase("v")])

        came = []
        for _ in range(3):
            [claim, *others] = await outbox.claim(9, NOW, LEASE)
            came.append(claim.entry.lead.id)
            assert len(others) == (1 if len(came) == 1 else 0)  # v's own, at once
            await outbox.settle(claim, Settlement(LeadStatus.DELIVERED), NOW)

        assert came == [first.lead.id, second.lead.id, sold.lead.id]

    async def test_a_lead_that_is_tried_again_holds_the_sale_up(
        self, outbox: Outbox
    ) -> None:
        await put_all(outbox, [signup("u"), purchase("u")])
        claim = await claim_one(outbox)
        later = Settlement(LeadStatus.WAITING, [attempt()], due_at=NOW + DAY)
        await outbox.settle(claim, later, NOW)

        assert await outbox.claim(9, NOW + 1, LEASE) == []
        assert claimed(await outbox.claim(9, NOW + DAY, LEASE)) == [claim.entry.lead.id]

    async def test_a_sale_that_came_first_waits_for_its_lead_and_holds_it_up_never(
        self, outbox: Outbox
    ) -> None:
        sold, signed_up = purchase("u"), signup("u")
        await outbox.put(sold)
        claim = await claim_one(outbox)
        missing = Settlement(LeadStatus.WAITING, [attempt()], due_at=NOW + 1)
        await outbox.settle(claim, missing, NOW)
        await outbox.put(signed_up)

        [lead_first] = await outbox.claim(9, NOW + 1, LEASE)

        assert lead_first.entry.lead.id == signed_up.lead.id
        await outbox.settle(lead_first, Settlement(LeadStatus.DELIVERED), NOW + 1)
        again = await outbox.claim(9, NOW + 1 + LEASE, LEASE)
        assert claimed(again) == [sold.lead.id]

    async def test_sales_of_one_customer_keep_their_order(self, outbox: Outbox) -> None:
        sales = [purchase("u", Sale(4900, invoice_id=f"in_{n}")) for n in range(3)]
        await put_all(outbox, sales)

        came = []
        for _ in sales:
            [claim] = await outbox.claim(9, NOW, LEASE)
            came.append(claim.entry.lead.id)
            await outbox.settle(claim, Settlement(LeadStatus.DELIVERED), NOW)

        assert came == [one.lead.id for one in sales]

    async def test_a_lead_that_dub_refused_does_not(self, outbox: Outbox) -> None:
        sold = purchase("u")
        await put_all(outbox, [signup("u"), sold])
        refused = Settlement(LeadStatus.REJECTED, [attempt()])
        await outbox.settle(await claim_one(outbox), refused, NOW)

        assert claimed(await outbox.claim(9, NOW, LEASE)) == [sold.lead.id]

    # --- One invoice is one sale. ---

    @pytest.mark.parametrize("put", [put_all, put_together])
    async def test_an_invoice_counts_once_for_ever(
        self, outbox: Outbox, put: Callable[..., Awaitable[Any]]
    ) -> None:
        first = purchase("u")
        other_amount = purchase("u", Sale(1, invoice_id="in_1"), NOW + YEARS)

        first_taken, again = await put(outbox, [first, other_amount])

        assert first_taken.outcome is Inserted.NEW
        assert (again.outcome, again.lead_id) == (Inserted.DUPLICATE, first.lead.id)

    async def test_an_invoice_is_one_of_its_customer(self, outbox: Outbox) -> None:
        new_leads = [
            purchase("u"),
            purchase("v"),
            purchase("u", Sale(1, invoice_id="in_2")),
            signup("u"),
        ]

        assert [it.outcome for it in await put_all(outbox, new_leads)] == [
            Inserted.NEW
        ] * 4

    async def test_without_an_invoice_nothing_is_a_repeat(self, outbox: Outbox) -> None:
        new_leads = [purchase("u", Sale(4900)) for _ in range(2)]

        assert [it.outcome for it in await put_all(outbox, new_leads)] == [
            Inserted.NEW
        ] * 2

    async def test_a_refused_sale_does_not_use_its_invoice_up(
        self, outbox: Outbox
    ) -> None:
        await outbox.put(purchase("u"))
        refused = Settlement(LeadStatus.REJECTED, [attempt()])
        await outbox.settle(await claim_one(outbox), refused, NOW)

        assert (await outbox.put(purchase("u"))).outcome is Inserted.NEW

    async def test_who_sends_a_sale_again_ends_the_doubt(self, outbox: Outbox) -> None:
        """Unlike a lead: Dub cannot tell of it, so a person has looked."""
        sold, made = purchase("u"), signup("v")
        await put_all(outbox, [sold, made])
        for claim in await outbox.claim(9, NOW, LEASE):
            await outbox.begin_recording(claim, [], NOW, LEASE)
            unsure = Settlement(LeadStatus.UNCONFIRMED, [attempt()])
            await outbox.settle(claim, unsure, NOW)

        for one in (sold, made):
            assert (await entry(outbox, one.lead.id)).in_doubt
            assert (await requeue(outbox, one.lead.id, NOW)).due_at is not None

        assert not (await entry(outbox, sold.lead.id)).in_doubt
        assert (await entry(outbox, made.lead.id)).in_doubt

    # --- Personal data. ---

    async def test_who_bought_is_encrypted_and_what_is_not(
        self, outbox: Outbox, sealed: Callable[..., Awaitable[Outbox]]
    ) -> None:
        store = await sealed("first-key-of-them-all")
        made = purchase("u", customer_email="zoe@example.com", metadata={"plan": "pro"})
        await store.put(made)

        assert (await entry(store, made.lead.id)).lead == made.lead
        unread = await entry(outbox, made.lead.id)
        assert (unread.lead.customer_email, unread.lead.metadata) == (None, None)
        assert unread.lead.sale == SALE
        assert unread.sealed is not None
        assert (await outbox.put(purchase("u"))).outcome is Inserted.DUPLICATE

    @pytest.mark.parametrize("how", ["forget", "retention"])
    async def test_an_erased_sale_tells_no_invoice_and_is_still_a_repeat(
        self, outbox: Outbox, how: str
    ) -> None:
        made = purchase("u", customer_name="Zoë", metadata={"plan": "pro"})
        await outbox.put(made)
        await outbox.settle(
            await claim_one(outbox), Settlement(LeadStatus.DELIVERED, [attempt()]), NOW
        )

        if how == "forget":
            await outbox.forget(Wanted(customer="u"), NOW)
        else:
            assert await outbox.erase_due(NOW + 1, 9, NOW) == 1

        found = await entry(outbox, made.lead.id)
        assert found.erased_at == NOW
        assert found.lead.customer_external_id == pseudonym("u")
        assert (found.lead.customer_name, found.lead.metadata) == (None, None)
        assert found.lead.sale == Sale(4900, "eur", "stripe", None, "Sign Up")
        again = await outbox.put(purchase("u", at=NOW + YEARS))
        assert (again.outcome, again.lead_id) == (Inserted.DUPLICATE, made.lead.id)

    async def test_a_forgotten_sale_is_never_sent(self, outbox: Outbox) -> None:
        made = purchase("u")
        await put_all(outbox, [signup("u"), made])

        await outbox.forget(Wanted(customer="u"), NOW)

        assert await outbox.claim(9, NOW + DAY, LEASE) == []
        assert await status(outbox, made.lead.id) is LeadStatus.REJECTED
        assert (await requeue(outbox, made.lead.id, NOW)).due_at is None
