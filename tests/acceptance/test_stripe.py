"""Stripe's hook from outside: a real relay, the sandbox Dub, Stripe's signatures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.harness import API_KEY, RelayProcess, SandboxDub
from tests.support.provider_rig import BY_NAME
from tests.unit.test_stripe import event, invoice, subscription

STRIPE = BY_NAME["stripe"]
Answer = tuple[int, dict[str, Any]]


@asynccontextmanager
async def relay_with(
    folder: Path, dub: SandboxDub, config: str | None = None, **more: str
) -> AsyncIterator[RelayProcess]:
    secret = {"RELAY_HOOKS_STRIPE_SECRET": STRIPE.secret}
    relay = RelayProcess(folder, {"DUB_API_URL": dub.url, **secret, **more})
    relay.config = config
    await relay.start()
    try:
        yield relay
    finally:
        ended = await relay.stop()
    assert ended == 0


async def post(
    session: aiohttp.ClientSession, relay: RelayProcess, document: dict[str, Any]
) -> Answer:
    headers, body = STRIPE.signed(document)
    url = f"{relay.url}/_dub/hooks/stripe"
    async with session.post(url, data=body, headers=headers) as answer:
        return answer.status, await answer.json()


def checkout(click: str, event_id: str = "evt_1", **changes: Any) -> dict[str, Any]:
    """A payment link that Dub's short link led to."""
    document = STRIPE.event("", None)
    document["id"] = event_id
    reference = {"metadata": {}, "client_reference_id": f"dub_id_{click}"}
    document["data"]["object"] |= reference | changes
    return document


def renewal(**changes: Any) -> dict[str, Any]:
    """The invoice of a subscription that names nobody but Stripe's customer."""
    return invoice(
        parent={"subscription_details": {"subscription": "sub_1"}}, **changes
    )


async def test_a_checkout_by_reference_is_a_direct_sale_and_its_renewals_are_sales(
    dub: SandboxDub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    click = await dub.click()
    first = checkout(click, mode="subscription", total_details={"amount_tax": 198})
    # Stripe sends the first invoice before or after its checkout.
    first_invoice = renewal(id="in_1") | {"id": "evt_2"}
    second_invoice = renewal(id="in_2") | {"id": "evt_3"}
    async with relay_with(tmp_path, dub) as relay:
        early = await post(session, relay, first_invoice)
        bought = await post(session, relay, first)
        again = await post(session, relay, first)
        late = await post(session, relay, first_invoice | {"id": "evt_4"})
        renewed = await post(session, relay, second_invoice)
        settled = await relay.settled(2)

        assert (early[0], early[1]["status"]) == (200, "ignored")
        assert "dubCustomerExternalId" in early[1]["reason"]
        assert (bought[0], bought[1]["sale"]["status"]) == (202, "queued")
        for repeat in (again, late):
            assert repeat[1]["sale"] == {
                "id": bought[1]["sale"]["id"],
                "status": "duplicate",
            }
        assert renewed[1]["sale"]["status"] == "queued"
        assert [it["status"] for it in settled] == ["delivered"] * 2
        sales = await dub.state("sales")
        assert [(it["eventName"], it["amount"], it["currency"]) for it in sales] == [
            ("Subscription creation", 2000, "usd"),
            ("Invoice paid", 2500, "usd"),  # 20 euros: Dub keeps dollars
        ]
        # As in Dub's app: the lead behind the sale pays no commission of its own.
        [lead] = await dub.state("leads")
        assert lead["eventName"] == "Direct sale tracking lead event"
        assert lead["clickId"] == click


async def test_a_reference_that_is_no_click_sells_nothing_and_is_counted(
    dub: SandboxDub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with relay_with(tmp_path, dub) as relay:
        status, told = await post(session, relay, checkout("test"))

        assert (status, told["status"], told["id"]) == (202, "unattributed", None)
        assert await relay.leads() == []


async def test_a_trial_counts_its_seats_on_the_click_of_the_sign_up(
    dub: SandboxDub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    both = {"dubCustomerExternalId": "u_1", "dubClickId": await dub.click()}
    customer = {"id": "cus_1", "email": "ada@example.com", "metadata": both}
    signed_up = {
        "id": "evt_1",
        "type": "customer.created",
        "data": {"object": customer},
    }
    trial = subscription() | {"id": "evt_2"}
    paid = invoice() | {"id": "evt_3"}
    settings = {"RELAY_HOOKS_STRIPE_TRIALS": "seats"}
    async with relay_with(tmp_path, dub, **settings) as relay:
        told = [await post(session, relay, it) for it in (signed_up, trial, trial)]
        await post(session, relay, paid)
        settled = await relay.settled(3)

        assert [it["status"] for _, it in told] == ["queued", "queued", "duplicate"]
        assert [it["status"] for it in settled] == ["delivered"] * 3
        leads = await dub.state("leads")
        assert [(it["eventName"], it["quantity"]) for it in leads] == [
            ("Sign Up", 1),
            ("Started Trial", 3),
        ]
        assert {it["clickId"] for it in leads} == {both["dubClickId"]}
        [sale] = await dub.state("sales")
        assert (sale["eventName"], sale["amount"]) == ("Invoice paid", 2500)
        assert sale["metadata"] == {"plan": "pro", "productId": "prod_1"}


async def test_what_the_operator_adds_is_on_the_lead_and_on_its_sale(
    dub: SandboxDub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    document = checkout(await dub.click(), metadata={"plan": "pro"})
    config = """
        [hooks.stripe]
        references = "lead"
        event = "Bought"
        quantity = "json.data.object.amount_total && `2`"
        metadata = { link = "json.data.object.payment_link || 'none'" }
    """
    async with relay_with(tmp_path, dub, config) as relay:
        await post(session, relay, document)
        await relay.settled(2)

        wanted = {"plan": "pro", "link": "none"}
        [lead] = await dub.state("leads")
        assert (lead["eventName"], lead["quantity"]) == ("Bought", 2)
        assert lead["metadata"] == wanted
        [sale] = await dub.state("sales")
        assert (sale["eventName"], sale["metadata"]) == ("Purchase", wanted)


async def test_as_a_lead_and_a_sale_it_is_a_sale_behind_its_lead_and_counts_once(
    dub: SandboxDub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    click = await dub.click()
    await dub.fault(status=503, count=1)
    first = STRIPE.event("u_1", None)
    first["data"]["object"] |= {
        "metadata": {},
        "client_reference_id": f"dub_id_{click}",
    }
    later = STRIPE.event("cus_1", None)
    later["id"], later["data"]["object"]["invoice"] = "evt_2", "in_2"

    async with relay_with(tmp_path, dub, RELAY_HOOKS_STRIPE_REFERENCES="lead") as relay:
        told = [await post(session, relay, it) for it in (first, first, later)]

        assert [status for status, _ in told] == [202, 200, 200]
        assert [it["sale"]["status"] for _, it in told] == [
            "queued",
            "duplicate",
            "queued",
        ]
        assert told[1][1]["sale"]["id"] == told[0][1]["sale"]["id"]
        assert told[2][1]["status"] == "ignored"
        entries = await relay.settled(3)
        assert [it["status"] for it in entries] == ["delivered"] * 3
        sales = await dub.state("sales")
        assert {it["invoiceId"] for it in sales} == {"in_1", "in_2"}
        assert [it["amount"] for it in sales] == [2198, 2198]
        [customer] = await dub.state("customers")
        assert (customer["externalId"], customer["sales"]) == ("cus_1", 2)
        assert len(await dub.state("leads")) == 1


def refund(**changes: Any) -> dict[str, Any]:
    """A charge that was refunded, in the shape from before 2025-03-31."""
    charge = {
        "id": "ch_1",
        "object": "charge",
        "amount": 2198,
        "amount_refunded": 2198,
        "billing_details": {"email": "ada@example.com", "name": "Ada"},
        "currency": "usd",
        "customer": "cus_1",
        "invoice": "in_1",
        "payment_intent": "pi_1",
        "refunded": True,
    }
    return event("charge.refunded", charge | changes) | {"id": "evt_3"}


async def commissions(dub: SandboxDub) -> dict[str, str]:
    key = {"Authorization": f"Bearer {API_KEY}"}
    async with dub.session.get(f"{dub.url}/commissions", headers=key) as answer:
        return {it["invoiceId"]: it["status"] for it in await answer.json()}


async def test_a_refund_takes_the_commission_back_and_counts_no_sale(
    dub: SandboxDub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    click = await dub.click()
    bought = checkout(click)
    once = checkout(click, "evt_2", invoice=None, payment_intent="pi_2")
    # Since 2025-03-31 a charge names no invoice, only its payment.
    unnamed = refund(id="ch_2", payment_intent="pi_2") | {"id": "evt_4"}
    del unnamed["data"]["object"]["invoice"]
    async with relay_with(tmp_path, dub) as relay:
        await post(session, relay, bought)
        await post(session, relay, once)
        await relay.settled(2)
        some = refund(refunded=False, amount_refunded=500) | {"id": "evt_5"}
        part = [await post(session, relay, some) for _ in range(2)]
        before = await commissions(dub)
        await dub.fault(status=503, count=1)
        told = [await post(session, relay, it) for it in (refund(), refund(), unnamed)]
        settled = await relay.settled(5)

        assert [it["sale"]["status"] for _, it in part] == ["queued", "duplicate"]
        [left] = [it for it in settled if it["status"] == "rejected"]
        assert left["lastError"].startswith("A part was refunded")
        _, shown, _ = await relay.run("leads", "show", left["id"])
        assert "a part refunded: 500 usd" in shown
        assert "Dub shows the commission cm_" in shown
        assert before == {"in_1": "pending", "pi_2": "pending"}
        words = ["queued", "duplicate", "queued"]
        assert [it["sale"]["status"] for _, it in told] == words
        assert [it["status"] for it in settled].count("delivered") == 4
        assert [it["kind"] for it in settled].count("refund") == 3
        assert await commissions(dub) == {"in_1": "refunded", "pi_2": "refunded"}
        assert len(await dub.state("sales")) == 2
        _, shown, _ = await relay.run("leads", "show", told[0][1]["sale"]["id"])
        assert "a refund of 2198 usd" in shown
        assert "Dub marked the commission as refunded" in shown
