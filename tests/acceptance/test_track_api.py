"""`POST track/lead` and `track/sale` from outside, a sandbox Dub behind the relay."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.harness import API_KEY, RelayProcess, SandboxDub
from tests.support.postgres_server import postgres_server

TOKEN = "a-token-of-the-site"
CLICK = "hQWlM0a9Zk3xY7bT"
LEAD = {"clickId": CLICK, "eventName": "Sign Up", "customerExternalId": "u_1"}
SALE = {"customerExternalId": "u_1", "amount": 4900, "invoiceId": "in_1"}


@dataclass
class Answer:
    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def error(self) -> tuple[int, str, str]:
        detail = self.body["error"]
        return self.status, detail["code"], detail["message"]


async def track(
    relay: RelayProcess,
    body: Any,
    path: str = "lead",
    key: str | None = f"Bearer {API_KEY}",
    **headers: str,
) -> Answer:
    if key is not None:
        headers["Authorization"] = key
    data: Any = {"json": body}
    if isinstance(body, bytes):
        data = {"data": BytesIO(body)}
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{relay.url}/_dub/track/{path}", headers=headers, **data
        ) as answer,
    ):
        return Answer(answer.status, await answer.json(), answer.headers)


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[RelayProcess]:
    settings = {"RELAY_API_TOKEN": f"another, {TOKEN}"}
    process = RelayProcess(tmp_path, settings, ("--no-delivery",))
    await process.start()
    yield process
    assert await process.stop() == 0


async def test_a_lead_is_answered_as_dub_answers_and_kept(relay: RelayProcess) -> None:
    answer = await track(relay, LEAD | {"customerName": "Ada"})

    [lead] = await relay.leads()
    assert answer.status == 200
    assert answer.body == {
        "click": {"id": CLICK},
        "link": None,
        "customer": {"name": "Ada", "email": None, "avatar": None, "externalId": "u_1"},
        "relay": {"id": lead["id"], "status": "queued"},
    }
    assert (lead["source"], lead["kind"], lead["status"]) == ("api", "lead", "queued")


async def test_the_same_customer_and_event_again_is_answered_200(
    relay: RelayProcess,
) -> None:
    first = await track(relay, LEAD)
    again = await track(relay, LEAD | {"eventName": "sign up"})

    assert again.status == 200
    assert again.body["relay"] == {
        "id": first.body["relay"]["id"],
        "status": "duplicate",
    }
    assert len(await relay.leads()) == 1


@pytest.mark.parametrize("name", ["externalId", "customerId"])
async def test_dubs_older_names_of_the_customer_count(
    relay: RelayProcess, name: str
) -> None:
    body = {"clickId": None, "eventName": "Sign Up", name: "u_9"}

    assert (await track(relay, body, key=f"Bearer {TOKEN}")).status == 200
    [lead] = await relay.leads()
    assert (lead["customerExternalId"], lead["clickId"]) == ("u_9", "")


async def test_errors_are_dubs_own_in_dubs_order(
    relay: RelayProcess, session: aiohttp.ClientSession, dub: SandboxDub
) -> None:
    async def of_dub(body: Any, key: str | None, path: str) -> Any:
        headers = {} if key is None else {"Authorization": key}
        data = {"data": body} if isinstance(body, bytes) else {"json": body}
        url = f"{dub.url}/track/{path}"
        async with session.post(url, headers=headers, **data) as answer:
            return answer.status, await answer.json()

    good = f"Bearer {API_KEY}"
    cases: list[tuple[Any, str | None, str]] = [
        *((b"{", key, "lead") for key in (None, "bearer x", "Bearer sk_1")),
        *((b"{", key, "sale") for key in ("Bearer dub_wrong", good)),
        *((body, good, "lead") for body in (b"", b"[]", b"{}")),
        (LEAD | {"eventName": " "}, good, "lead"),
        (LEAD | {"mode": None}, good, "lead"),
        (LEAD | {"customerEmail": "ada@localhost"}, good, "lead"),
        (LEAD | {"eventQuantity": 0}, good, "lead"),
        (LEAD | {"customerExternalId": ""}, good, "lead"),
        (LEAD | {"metadata": []}, good, "lead"),
        (SALE | {"amount": 1.5}, good, "sale"),
        (SALE | {"amount": -1}, good, "sale"),
        (SALE | {"paymentProcessor": "cash"}, good, "sale"),
        ({"amount": 100}, good, "sale"),
    ]
    for case in cases:
        body, key, path = case
        answer = await track(relay, body, path, key)
        assert (answer.status, answer.body) == await of_dub(body, key, path), case
    assert await relay.leads() == []


async def test_what_dub_would_break_on_is_refused(relay: RelayProcess) -> None:
    long = await track(relay, LEAD | {"customerExternalId": "u" * 101})
    nul = await track(relay, LEAD | {"clickId": "a\0b"})

    assert long.error[:2] == nul.error[:2] == (422, "unprocessable_entity")
    assert "customerExternalId" in long.error[2]
    assert (await track(relay, b" " * 1_100_000)).status == 413


async def test_an_idempotency_key_is_honoured(relay: RelayProcess) -> None:
    key = {"Idempotency-Key": "req-1"}
    first = await track(relay, LEAD, **key)
    again = await track(relay, LEAD, **key)
    other = await track(relay, LEAD | {"customerExternalId": "u_2"}, **key)
    sale = await track(relay, SALE, "sale", **key)

    assert again.body["relay"]["id"] == first.body["relay"]["id"]
    assert other.error[:2] == (409, "conflict")
    assert sale.status == 200
    assert (await track(relay, LEAD, **{"Idempotency-Key": "a b"})).status == 400


async def test_callers_are_limited_by_address_and_strangers_apart(
    tmp_path: Path,
) -> None:
    relay = RelayProcess(tmp_path, {"RELAY_API_RATE": "3"}, ("--no-delivery",))
    await relay.start()
    try:
        strangers, strangers_s = await until_limited(relay, key="Bearer dub_x")
        answers, answers_s = await until_limited(relay)
    finally:
        assert await relay.stop() == 0

    assert {it.status for it in strangers[:-1]} == {401}
    assert {it.status for it in answers[:-1]} == {200}
    # A minute's calls at once, and those that became free on a slow machine meanwhile.
    assert 60 <= len(strangers[:-1]) <= 60 + strangers_s
    assert 3 <= len(answers[:-1]) <= 3 + answers_s / 20
    assert answers[-1].error[1:] == ("rate_limit_exceeded", "Too many requests.")
    for limited in (strangers[-1], answers[-1]):
        assert 1 <= int(limited.headers["Retry-After"]) <= 20


async def until_limited(relay: RelayProcess, **how: Any) -> tuple[list[Answer], float]:
    """Call until one call is too many; all answers, and the seconds that it took."""
    began, answers = time.monotonic(), [await track(relay, LEAD, **how)]
    async with asyncio.timeout(120):
        while answers[-1].status != 429:
            answers.append(await track(relay, LEAD, **how))
    return answers, time.monotonic() - began


async def test_waiting_gives_dubs_own_answer(
    delivering: RelayProcess, dub: SandboxDub
) -> None:
    body = LEAD | {"clickId": await dub.click(), "mode": "wait"}
    answer = await track(delivering, body)
    again = await track(delivering, body)

    assert answer.status == 200
    assert answer.body["link"]["key"] == "ada"
    assert answer.body["customer"]["name"]  # Dub has made one up
    assert answer.body["relay"]["status"] == "delivered"
    assert again.body == answer.body
    assert len(await dub.state("leads")) == 1
    [lead] = await delivering.leads()
    link = answer.body["link"]
    assert (lead["linkId"], lead["linkKey"]) == (link["id"], "ada")
    assert lead["partnerId"] == link["partnerId"]


async def test_a_final_error_of_dubs_passes_through(
    delivering: RelayProcess, dub: SandboxDub
) -> None:
    answer = await track(delivering, LEAD | {"clickId": "", "mode": "wait"})

    assert answer.error[:2] == (400, "bad_request")
    assert answer.error[2].startswith("The `clickId` property was not provided")
    [lead] = await delivering.leads()
    assert lead["status"] == "rejected"


async def test_an_unknown_click_is_dubs_404_before_an_sdk_gives_up(
    delivering: RelayProcess, dub: SandboxDub
) -> None:
    await dub.fault(click_delay=3600)
    body = LEAD | {"clickId": await dub.click(), "mode": "wait"}
    async with asyncio.timeout(5):
        answer = await track(delivering, body)
    again = await track(delivering, body)

    assert answer.error[:2] == (404, "not_found")
    assert answer.error[2].startswith("Click event not found")
    [lead] = await delivering.leads()
    assert answer.body["relay"] == {"id": lead["id"], "status": "waiting"}
    assert again.body["relay"] == {"id": lead["id"], "status": "duplicate"}

    await dub.mend()
    [sent] = await delivering.settled(1)
    assert sent["status"] == "delivered"


async def test_waiting_for_a_dub_that_is_down_is_503_and_the_lead_goes_later(
    tmp_path: Path, dub: SandboxDub
) -> None:
    relay = RelayProcess(tmp_path, {"DUB_API_URL": dub.url, "RELAY_RETRY_BASE": "20s"})
    await relay.start()
    await dub.fault(status=503)
    body = LEAD | {"clickId": await dub.click(), "mode": "wait"}
    started = time.monotonic()
    down = await track(relay, body)
    again = await track(relay, body)
    took = time.monotonic() - started
    waiting = await relay.leads()
    assert await relay.stop() == 0

    assert down.error[:2] == (503, "internal_server_error")
    assert took < 9, "it waited although nothing could come in time"
    assert (again.status, again.body["relay"]["status"]) == (200, "duplicate")
    assert [it["status"] for it in waiting] == ["waiting"]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
async def test_the_answer_comes_from_another_process(
    tmp_path: Path, dub: SandboxDub, database: str
) -> None:
    with contextlib.ExitStack() as stack:
        url = f"sqlite:///{tmp_path}/relay.db"
        if database == "postgresql":
            url = stack.enter_context(postgres_server()).new_url()
        settings = {"DUB_API_URL": dub.url, "RELAY_DATABASE": url}
        web = RelayProcess(tmp_path, settings, ("--no-delivery",))
        other = RelayProcess(tmp_path, settings)
        await web.start()
        await other.start()
        click = await dub.click()
        answer = await track(web, LEAD | {"clickId": click, "mode": "wait"})
        codes = [await web.stop(), await other.stop()]

    assert answer.status == 200
    assert answer.body["link"]["key"] == "ada"
    assert codes == [0, 0]


async def test_a_sale_follows_its_lead_and_counts_once(
    delivering: RelayProcess, dub: SandboxDub
) -> None:
    await dub.fault(status=503, count=2)
    await track(delivering, LEAD | {"clickId": await dub.click()})
    sale = SALE | {
        "currency": "EUR",
        "paymentProcessor": "stripe",
        "metadata": {"a": 1},
    }
    first = await track(delivering, sale, "sale")
    again = await track(delivering, sale, "sale")
    await delivering.settled(2)

    assert first.status == 200
    assert first.body["eventName"] == "Purchase"
    assert first.body["sale"] == {
        "amount": 4900,
        "currency": "eur",
        "paymentProcessor": "stripe",
        "invoiceId": "in_1",
        "metadata": {"a": 1},
    }
    assert again.body["relay"]["status"] == "duplicate"
    [counted] = await dub.state("sales")
    # Dub keeps dollars: a euro costs 1.25 of them in the sandbox.
    assert (counted["amount"], counted["invoiceId"]) == (6125, "in_1")
    kinds = [(it["kind"], it["status"]) for it in await delivering.leads()]
    assert kinds == [("sale", "delivered"), ("lead", "delivered")]


async def test_a_direct_sale_needs_no_lead(
    delivering: RelayProcess, dub: SandboxDub
) -> None:
    await track(delivering, SALE | {"clickId": await dub.click()}, "sale")
    [sale] = await delivering.settled(1)

    assert sale["status"] == "delivered"
    assert len(await dub.state("sales")) == 1


async def test_a_sale_whose_answer_was_lost_is_never_counted_twice(
    delivering: RelayProcess, dub: SandboxDub
) -> None:
    await track(delivering, LEAD | {"clickId": await dub.click()})
    await delivering.settled(1)
    for sale in (SALE, SALE | {"invoiceId": None, "amount": 100}):
        await dub.fault(cut="after", count=1)
        await track(delivering, sale, "sale")
        await delivering.settled(2)

    without, with_invoice, _ = await delivering.settled(3)
    assert with_invoice["status"] == "delivered"  # Dub folds repeats of an invoice
    assert without["status"] == "unconfirmed"
    assert "invoiceId" in without["lastError"]
    assert sorted(it["amount"] for it in await dub.state("sales")) == [100, 4900]

    code, _, err = await delivering.run("leads", "retry", without["id"])
    assert code == 0, err
    await delivering.settled(3)
    assert len(await dub.state("sales")) == 3  # a person said so


@pytest.mark.slow
async def test_a_relay_killed_in_a_sale_does_not_repeat_it(
    tmp_path: Path, dub: SandboxDub
) -> None:
    settings = {"DUB_API_URL": dub.url, "RELAY_DUB_TIMEOUT": "500ms"}
    relay = RelayProcess(tmp_path, settings)
    await relay.start()
    await track(relay, LEAD | {"clickId": await dub.click()})
    await relay.settled(1)
    await dub.fault(slow=0.3)
    await track(relay, {"customerExternalId": "u_1", "amount": 100}, "sale")
    async with asyncio.timeout(20):
        while not await dub.state("sales"):  # noqa: ASYNC110 - of another program
            await asyncio.sleep(0.02)
    await relay.stop(by=9)
    await dub.mend()
    await relay.start()
    sale, _ = await relay.settled(2)
    assert await relay.stop() == 0

    assert sale["status"] == "unconfirmed"
    assert len(await dub.state("sales")) == 1


async def test_a_sale_of_nobody_is_rejected_and_one_of_nothing_is_no_fault(
    dub: SandboxDub, tmp_path: Path
) -> None:
    # As long as it waits for the lead, it holds the customer's later sales up.
    settings = {"DUB_API_URL": dub.url, "RELAY_DELIVERY_SALE_WAITS": "200ms"}
    delivering = await RelayProcess(tmp_path, settings).start()
    await track(delivering, SALE, "sale")
    await track(delivering, SALE | {"amount": 0, "invoiceId": "in_2"}, "sale")
    free, paid = await delivering.settled(2)

    assert (paid["status"], free["status"]) == ("rejected", "delivered")
    assert "knows no lead of this customer" in paid["lastError"]
    assert free["notes"] == ["Dub counts no sale of an amount of 0."]
    code, out, _ = await delivering.run("leads", "show", paid["id"])
    assert code == 0
    assert "4900 usd" in out
    assert await delivering.stop() == 0
