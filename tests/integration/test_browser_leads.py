"""Leads and sales that pages report with a publishable key are stored first."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pytest_aiohttp import AiohttpServer

from relay.app import Relay
from relay.capture.pass_through import CORS
from relay.config.settings import load
from relay.core.leads import LeadRecord, LeadStatus
from relay.outbox.contract import NewLead, OutboxUnavailableError, Query
from relay.sandbox.app import PUBLISHABLE_KEY
from tests.support.harness import API_KEY, RELAY_SECRET, SandboxDub

PAGE = "https://www.shop.test/thanks"
KEY = f"Bearer {PUBLISHABLE_KEY}"
LEAD = "track/lead/client"
SALE = "track/sale/client"


@dataclass
class Answer:
    status: int
    body: Any
    headers: Any


class Shop:
    """A relay in this process, whose pages call it."""

    def __init__(self, relay: Relay, url: str, session: aiohttp.ClientSession) -> None:
        self.relay = relay
        self.url = url
        self._session = session

    async def post(
        self,
        path: str,
        body: Any,
        *,
        key: str | None = KEY,
        page: str | None = PAGE,
        url: str | None = None,
    ) -> Answer:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": key} if key is not None else {}
        headers |= {"Referer": page} if page is not None else {}
        where = f"{url or self.url + '/_dub'}/{path}"
        async with self._session.post(where, data=raw, headers=headers) as answer:
            return Answer(answer.status, await answer.json(), answer.headers)

    async def leads(self) -> list[LeadRecord]:
        return await self.relay.outbox.list(Query())

    async def ended(self, count: int = 1) -> list[LeadRecord]:
        """Wait until so many leads are delivered or refused."""
        ends = (LeadStatus.DELIVERED, LeadStatus.REJECTED, LeadStatus.DUPLICATE)
        async with asyncio.timeout(20):
            while True:
                found = await self.leads()
                if len(found) == count and all(one.status in ends for one in found):
                    return found
                await asyncio.sleep(0.01)


Open = Callable[..., Awaitable[Shop]]


@pytest.fixture
async def shop_with(
    dub: SandboxDub, tmp_path: Path, aiohttp_server: AiohttpServer
) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def opened(*, delivery: bool = False, **more: str) -> Shop:
            environ = {
                "DUB_API_KEY": API_KEY,
                "DUB_API_URL": dub.url,
                "DUB_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
                "RELAY_SECRET": RELAY_SECRET,
                "RELAY_DATABASE": f"sqlite:///{tmp_path}/relay.db",
                "RELAY_RETRY_BASE": "50ms",
            }
            relay = Relay(load(None, environ | more))
            await relay.start(stack, delivery=delivery)
            server = await aiohttp_server(relay.application(), access_log=None)
            session = await stack.enter_async_context(aiohttp.ClientSession())
            return Shop(relay, f"http://127.0.0.1:{server.port}", session)

        yield opened


@pytest.fixture
async def shop(shop_with: Open) -> Shop:
    return await shop_with()


def lead(click: str = "hQWlM0a9Zk3xY7bT", **more: Any) -> dict[str, Any]:
    body = {"clickId": click, "eventName": "Sign Up", "customerExternalId": "u_1"}
    return body | more


def assert_cors(answer: Answer) -> None:
    for name, value in CORS.items():
        assert answer.headers[name] == value


# Stored, then delivered.


async def test_a_lead_is_stored_before_it_is_answered_and_then_delivered(
    dub: SandboxDub, shop_with: Open
) -> None:
    shop = await shop_with(delivery=True)
    click = await dub.click()

    answer = await shop.post(LEAD, lead(click, customerName="Ada"))

    assert answer.status == 200
    assert_cors(answer)
    [stored] = await shop.ended()
    assert answer.body == {
        "click": {"id": click},
        "link": None,
        "customer": {"name": "Ada", "email": None, "avatar": None, "externalId": "u_1"},
        "relay": {"id": stored.lead.id, "status": "queued"},
    }
    assert (stored.status, stored.lead.source) == (LeadStatus.DELIVERED, "browser")
    assert stored.lead.origin == {"click": "clickId", "page": "shop.test"}
    [recorded] = dub.dub.leads
    assert recorded.customer.external_id == "u_1"


async def test_dub_may_be_down_when_the_page_reports(
    dub: SandboxDub, shop_with: Open
) -> None:
    shop = await shop_with(delivery=True)
    click = await dub.click()
    await dub.fault(status=500)

    answer = await shop.post(LEAD, lead(click))
    await dub.mend()

    assert answer.status == 200
    [stored] = await shop.ended()
    assert stored.status is LeadStatus.DELIVERED
    assert len(dub.dub.leads) == 1


async def test_a_repeat_is_answered_alike_and_counts_once(
    dub: SandboxDub, shop: Shop
) -> None:
    first = await shop.post(LEAD, lead())
    again = await shop.post(LEAD, lead())

    assert (first.status, again.status) == (200, 200)
    assert again.body["relay"] == {
        "id": first.body["relay"]["id"],
        "status": "duplicate",
    }
    assert len(await shop.leads()) == 1


async def test_a_sale_waits_behind_its_lead(dub: SandboxDub, shop_with: Open) -> None:
    shop = await shop_with(delivery=True)
    click = await dub.click()

    await shop.post(LEAD, lead(click))
    sale = {"customerExternalId": "u_1", "amount": 4900, "invoiceId": "in_1"}
    answer = await shop.post(SALE, {"clickId": "", **sale})

    assert answer.status == 200
    assert answer.body["sale"]["amount"] == 4900
    await shop.ended(2)
    assert [one.amount for one in dub.dub.sales] == [4900]


async def test_a_page_that_waits_gets_dubs_own_answer(
    dub: SandboxDub, shop_with: Open
) -> None:
    shop = await shop_with(delivery=True)
    click = await dub.click()

    answer = await shop.post(LEAD, lead(click, mode="wait"))

    assert answer.status == 200
    assert_cors(answer)
    assert answer.body["link"]["key"] == "ada"
    assert answer.body["relay"]["status"] == "delivered"


async def test_a_page_that_is_gone_has_reported_all_the_same(shop: Shop) -> None:
    body = json.dumps(lead()).encode()
    host, port = shop.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST /_dub/{LEAD} HTTP/1.1\r\nHost: shop.test\r\nAuthorization: {KEY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    await writer.drain()
    writer.transport.abort()

    async with asyncio.timeout(10):
        while not await shop.leads():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_database_that_fails_does_not_lose_the_lead(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def put(new_lead: NewLead) -> None:
        raise OutboxUnavailableError("the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr(shop.relay.outbox, "put", put)
        answer = await shop.post(LEAD, lead(mode="wait"))
        assert answer.status == 200
        assert answer.body["relay"]["status"] == "queued"
        assert (tmp_path / "relay.db.spill").exists()

    await shop.relay.spill.take_in()
    [stored] = await shop.leads()
    assert stored.lead.id == answer.body["relay"]["id"]


async def test_neither_database_nor_disk_is_a_503_that_a_page_can_read(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def put(new_lead: NewLead) -> None:
        raise OutboxUnavailableError("the disk is gone")

    async def keep(new_lead: NewLead, held: str | None) -> bool:
        return False

    monkeypatch.setattr(shop.relay.outbox, "put", put)
    monkeypatch.setattr(shop.relay.spill, "keep", keep)
    answer = await shop.post(LEAD, lead())

    assert answer.status == 503
    assert_cors(answer)


# What only Dub can judge: leads that no click led to.


async def test_without_a_click_dub_judges_a_customer_that_the_relay_does_not_know(
    dub: SandboxDub, shop: Shop
) -> None:
    answer = await shop.post(LEAD, lead(""))

    assert answer.status == 400
    assert "no existing customer" in answer.body["error"]["message"]
    assert_cors(answer)
    assert await shop.leads() == []


async def test_without_a_click_a_customer_that_the_relay_knows_is_stored(
    dub: SandboxDub, shop_with: Open
) -> None:
    shop = await shop_with(delivery=True)
    click = await dub.click()
    await shop.post(LEAD, lead(click, mode="deferred"))

    answer = await shop.post(LEAD, lead(""))

    assert answer.body["relay"]["status"] == "queued"
    assert len(await shop.ended(2)) == 2
    assert len(dub.dub.leads) == 1


# As Dub answers.

WRONG: dict[str, tuple[Any, dict[str, str | None]]] = {
    "no key": (lead(), {"key": None}),
    "no bearer": (lead(), {"key": PUBLISHABLE_KEY}),
    "a workspace's key": (lead(), {"key": f"Bearer {API_KEY}"}),
    "another key": (lead(), {"key": "Bearer dub_pk_" + "x" * 24}),
    "no JSON": (b"{", {}),
    "no object": ([], {}),
    "no click id": ({"eventName": "Sign Up", "customerExternalId": "u_1"}, {}),
    "a click id of null": (lead() | {"clickId": None}, {}),
    "an older name of the customer": (
        {"clickId": "x", "eventName": "Sign Up", "externalId": "u_1"},
        {},
    ),
    "no customer": (lead(customerExternalId=""), {}),
    "a customer that is too long": (lead(customerExternalId="u" * 101), {}),
    "no event": (lead(eventName=""), {}),
    "a bad address": (lead(customerEmail="nobody"), {}),
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_is_wrong_is_answered_in_dubs_words(
    dub: SandboxDub, shop: Shop, name: str
) -> None:
    body, how = WRONG[name]
    key = how.get("key", KEY)

    ours = await shop.post(LEAD, body, key=key)
    dubs = await shop.post(LEAD, body, key=key, url=dub.url)

    assert (ours.status, ours.body) == (dubs.status, dubs.body)
    assert ours.status >= 400
    assert_cors(ours)
    assert await shop.leads() == []


@pytest.mark.parametrize(
    ("page", "status"),
    [
        ("https://www.shop.test/thanks", 200),
        ("https://pay.shop.test/", 200),
        ("https://shop.test.evil.test/", 403),
        ("https://evilshop.test/", 403),
        ("not an address", 403),
        (None, 403),
    ],
)
async def test_only_pages_of_allowed_hosts_may_report(
    shop_with: Open, page: str | None, status: int
) -> None:
    shop = await shop_with(RELAY_BROWSER_HOSTNAMES="www.shop.test, *.shop.test")

    answer = await shop.post(LEAD, lead(), page=page)

    assert answer.status == status
    assert_cors(answer)
    assert len(await shop.leads()) == (status == 200)


async def test_json_is_parsed_before_the_host_is_looked_at(shop_with: Open) -> None:
    shop = await shop_with(RELAY_BROWSER_HOSTNAMES="shop.test")

    assert (await shop.post(LEAD, b"{", page="https://evil.test/")).status == 400


async def test_one_address_reports_so_many_a_minute(shop_with: Open) -> None:
    shop = await shop_with(RELAY_BROWSER_LEAD_RATE="2")
    for number in range(2):
        answer = await shop.post(LEAD, lead(customerExternalId=f"u_{number}"))
        assert answer.status == 200

    answer = await shop.post(LEAD, lead(customerExternalId="u_3"))

    assert answer.status == 429
    assert int(answer.headers["Retry-After"]) > 0
    assert_cors(answer)


async def test_a_wrong_key_takes_nothing_of_the_right_ones_rate(
    shop_with: Open,
) -> None:
    shop = await shop_with(RELAY_BROWSER_LEAD_RATE="1")
    for _ in range(3):
        wrong = await shop.post(LEAD, lead(), key="Bearer dub_pk_" + "x" * 24)
        assert wrong.status == 401

    assert (await shop.post(LEAD, lead())).status == 200


async def test_a_preflight_is_answered_as_dubs(dub: SandboxDub, shop: Shop) -> None:
    async with aiohttp.ClientSession() as session:
        for url in (f"{shop.url}/_dub", dub.url):
            async with session.options(f"{url}/{LEAD}") as answer:
                assert answer.status == 204
                for name, value in CORS.items():
                    assert answer.headers[name] == value


# When it is off, Dub gets the call as it is.


@pytest.mark.parametrize(
    "more", [{"DUB_PUBLISHABLE_KEY": ""}, {"RELAY_BROWSER_DURABLE": "off"}]
)
async def test_off_or_without_a_key_the_call_is_passed_on(
    dub: SandboxDub, shop_with: Open, more: dict[str, str]
) -> None:
    shop = await shop_with(**more)
    click = await dub.click()

    answer = await shop.post(LEAD, lead(click))

    assert (answer.status, answer.body["link"]["key"]) == (200, "ada")
    assert await shop.leads() == []


async def test_several_keys_are_right_while_one_is_changed(shop_with: Open) -> None:
    old = "dub_pk_" + "o" * 24
    shop = await shop_with(DUB_PUBLISHABLE_KEY=f"{PUBLISHABLE_KEY}, {old}")

    assert (await shop.post(LEAD, lead(), key=f"Bearer {old}")).status == 200
