"""`POST hooks/dub`: Dub's own webhooks turn delivered leads into confirmed ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from relay.sandbox.state import sign
from tests.support.harness import API_KEY, RelayProcess, SandboxDub, post_hook

SECRET = "whsec_0123456789abcdef0123456789abcdef"


@pytest.fixture
async def confirmed_relay(
    dub: SandboxDub, session: aiohttp.ClientSession, tmp_path: Path
) -> AsyncIterator[RelayProcess]:
    relay = RelayProcess(
        tmp_path, {"DUB_API_URL": dub.url, "DUB_WEBHOOK_SECRET": SECRET}
    )
    await relay.start()
    yield relay
    assert await relay.stop() == 0


async def webhooks_on(
    dub: SandboxDub, session: aiohttp.ClientSession, relay: RelayProcess
) -> None:
    options = {"webhook_url": f"{relay.url}/_dub/hooks/dub", "webhook_secret": SECRET}
    async with session.post(f"{dub.url}/sandbox/options", json=options) as answer:
        assert answer.status == 200


async def becomes(relay: RelayProcess, status: str, leads: int = 1) -> None:
    """Wait until all of so many leads have a status."""
    async with asyncio.timeout(30):
        while True:
            if [it["status"] for it in await relay.leads()] == [status] * leads:
                return
            await asyncio.sleep(0.05)


async def hook(session: aiohttp.ClientSession, relay: RelayProcess, click: str) -> None:
    body = {"clickId": click, "eventName": "Sign Up", "customerExternalId": "u_1"}
    assert (await post_hook(session, relay.url, body))[0] == 202


async def test_a_delivered_lead_is_confirmed(
    dub: SandboxDub, session: aiohttp.ClientSession, confirmed_relay: RelayProcess
) -> None:
    await webhooks_on(dub, session, confirmed_relay)
    await hook(session, confirmed_relay, await dub.click())

    await becomes(confirmed_relay, "confirmed")


async def test_a_lead_whose_answer_was_lost_is_confirmed_and_not_sent_again(
    dub: SandboxDub, session: aiohttp.ClientSession, confirmed_relay: RelayProcess
) -> None:
    await dub.fault(cut="after", step="record", count=1)
    await webhooks_on(dub, session, confirmed_relay)
    await hook(session, confirmed_relay, await dub.click())

    await becomes(confirmed_relay, "confirmed")

    assert len(await dub.state("leads")) == 1


async def test_forged_webhooks_and_other_events_change_nothing(
    dub: SandboxDub, session: aiohttp.ClientSession, confirmed_relay: RelayProcess
) -> None:
    click = await dub.click()
    await hook(session, confirmed_relay, click)
    await becomes(confirmed_relay, "delivered")
    url = f"{confirmed_relay.url}/_dub/hooks/dub"
    envelope: dict[str, Any] = {
        "id": "evt_1",
        "event": "lead.created",
        "data": {
            "eventName": "sign-up",
            "customer": {"externalId": "u_1"},
            "click": {"id": click},
        },
    }

    async def post(document: object, secret: str = SECRET) -> tuple[int, Any]:
        body = json.dumps(document).encode()
        headers = {"Dub-Signature": sign(secret, body)}
        async with session.post(url, data=body, headers=headers) as answer:
            return answer.status, (await answer.json()).get("status")

    data = envelope["data"]
    assert (await post(envelope, "whsec_other"))[0] == 401
    assert await post(envelope | {"event": "link.clicked"}) == (200, "ignored")
    assert (await post(envelope | {"data": {}}))[0] == 422
    assert (await post([]))[0] == 422
    for other in (
        data | {"customer": {"externalId": "u_2"}},
        data | {"eventName": "Qualified"},
        data | {"click": {"id": "anotherClick1234"}},
    ):
        assert await post(envelope | {"data": other}) == (200, "unknown")
    # Dub's webhooks can be sent again: of this customer and event, but years ago.
    replayed = envelope | {"createdAt": "2024-11-26T10:00:00.000Z"}
    assert await post(replayed) == (200, "unknown")
    assert [lead["status"] for lead in await confirmed_relay.leads()] == ["delivered"]

    assert await post(envelope) == (200, "confirmed")
    assert await post(envelope) == (200, "unknown")
    assert [lead["status"] for lead in await confirmed_relay.leads()] == ["confirmed"]


async def test_without_a_secret_it_answers_404(
    delivering: RelayProcess, session: aiohttp.ClientSession
) -> None:
    async with session.post(f"{delivering.url}/_dub/hooks/dub", json={}) as answer:
        assert answer.status == 404


def sold(invoice: str | None, **changes: Any) -> dict[str, Any]:
    """Dub's ``sale.created`` of ``track_sale``'s sale, as its webhooks show it."""
    sale = {
        "amount": 4900,
        "currency": "usd",
        "paymentProcessor": "custom",
        "invoiceId": invoice,
    }
    data = {
        "eventName": "Purchase",
        "customer": {"externalId": "u_1"},
        "click": {"id": "hQWlM2kPzX9aBcDe"},
        "sale": sale | changes,
    }
    return {"id": "evt_1", "event": "sale.created", "data": data}


async def test_a_sale_is_confirmed_by_its_invoice_or_one_by_name_and_amount(
    dub: SandboxDub, session: aiohttp.ClientSession, confirmed_relay: RelayProcess
) -> None:
    relay = confirmed_relay
    await hook(session, relay, await dub.click())
    key = {"Authorization": f"Bearer {API_KEY}"}
    sale = {"customerExternalId": "u_1", "amount": 4900}
    ids = []
    for more in ({}, {}, {"invoiceId": "in_1"}, {"invoiceId": "in_2"}):
        url = f"{relay.url}/_dub/track/sale"
        async with session.post(url, json=sale | more, headers=key) as answer:
            ids.append((await answer.json())["relay"]["id"])
    first, second, in_1, _ = ids
    await relay.settled(5)

    async def post(document: object) -> tuple[int, Any]:
        body = json.dumps(document).encode()
        headers = {"Dub-Signature": sign(SECRET, body)}
        url = f"{relay.url}/_dub/hooks/dub"
        async with session.post(url, data=body, headers=headers) as answer:
            return answer.status, (await answer.json()).get("status")

    async def confirmed() -> set[str]:
        leads = await relay.leads()
        return {it["id"] for it in leads if it["status"] == "confirmed"}

    without_sale = sold(None)["data"] | {"sale": 1}
    assert await post(sold("in_3")) == (200, "unknown")
    assert await post(sold(None, amount=1)) == (200, "unknown")
    assert (await post(sold("in_1") | {"data": without_sale}))[0] == 422
    assert await confirmed() == set()
    # Dub shows amounts in its own currency: the invoice is enough.
    assert await post(sold("in_1", amount=5300, currency="eur")) == (200, "confirmed")
    assert await post(sold("in_1")) == (200, "unknown")
    assert await confirmed() == {in_1}
    assert await post(sold(None)) == (200, "confirmed")
    assert await confirmed() == {in_1, first}
    assert await post(sold(None)) == (200, "confirmed")
    assert await post(sold(None)) == (200, "unknown")
    assert await confirmed() == {in_1, first, second}


async def test_a_sale_that_dub_converted_is_confirmed_by_dubs_own_webhook(
    dub: SandboxDub, session: aiohttp.ClientSession, confirmed_relay: RelayProcess
) -> None:
    """Without an invoice: what it cost in dollars is Dub's to say."""
    relay = confirmed_relay
    await webhooks_on(dub, session, relay)
    await hook(session, relay, await dub.click())
    sale = {"customerExternalId": "u_1", "amount": 4900, "currency": "eur"}
    key = {"Authorization": f"Bearer {API_KEY}"}
    await session.post(f"{relay.url}/_dub/track/sale", json=sale, headers=key)

    await becomes(relay, "confirmed", leads=2)

    [counted] = await dub.state("sales")
    assert (counted["amount"], counted["currency"]) == (6125, "usd")
