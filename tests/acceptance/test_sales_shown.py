"""A sale as people see it: the list, its story, an export, the dashboard."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.harness import API_KEY, RelayProcess, SandboxDub

PASSWORD = "correct horse"

LEAD = {"eventName": "Sign Up", "customerExternalId": "u_1"}
SALE = {
    "customerExternalId": "u_1",
    "amount": 4900,
    "currency": "EUR",
    "paymentProcessor": "stripe",
    "invoiceId": "=in_1",
    "leadEventName": "Sign Up",
    "metadata": {"plan": "pro"},
}


@pytest.fixture
async def sold(tmp_path: Path, dub: SandboxDub) -> AsyncIterator[RelayProcess]:
    """A relay that has delivered a lead and a sale."""
    settings = {"DUB_API_URL": dub.url, "RELAY_ADMIN_PASSWORD": PASSWORD}
    relay = await RelayProcess(tmp_path, settings).start()
    click = await dub.click()
    headers = {"Authorization": f"Bearer {API_KEY}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for path, body in (("lead", LEAD | {"clickId": click}), ("sale", SALE)):
            url = f"{relay.url}/_dub/track/{path}"
            async with session.post(url, json=body) as answer:
                assert answer.status == 200
    await relay.settled(2)
    yield relay
    assert await relay.stop() == 0


async def test_an_export_tells_leads_and_sales_apart(sold: RelayProcess) -> None:
    _, table, _ = await sold.run("leads", "export", "--format", "csv")
    _, lines, _ = await sold.run("leads", "export", "--format", "jsonl")

    sale, lead = list(csv.DictReader(io.StringIO(table)))
    names = ("kind", "amount", "currency", "paymentProcessor", "invoiceId")
    assert [sale[name] for name in names] == ["sale", "4900", "eur", "stripe", "'=in_1"]
    assert sale["leadEventName"] == "Sign Up"
    assert json.loads(sale["metadata"]) == {"plan": "pro"}
    assert [lead[name] for name in names] == ["lead", "", "", "", ""]
    told = [json.loads(line) for line in lines.splitlines()]
    assert [(it["kind"], it["status"]) for it in told] == [
        *(("sale", "delivered"), ("lead", "delivered"))
    ]
    assert told[0]["sale"] == {
        "amount": 4900,
        "currency": "eur",
        "paymentProcessor": "stripe",
        "invoiceId": "=in_1",
        "leadEventName": "Sign Up",
    }
    assert told[1]["sale"] is None


async def test_its_story_tells_it_plainly(sold: RelayProcess) -> None:
    sale, _ = await sold.leads()

    _, story, _ = await sold.run("leads", "show", sale["id"])
    _, document, _ = await sold.run("leads", "show", sale["id"], "--json")

    assert "4900 eur (in its smallest unit), invoice =in_1, paid by stripe" in story
    assert "a sale goes to the click of its customer's lead" in story
    assert "record the sale" in story
    assert "Next: Nothing more: Dub has taken it. " in story
    assert "mode" not in story
    assert json.loads(document)["sale"]["amount"] == 4900


async def test_the_dashboard_tells_it_plainly(sold: RelayProcess) -> None:
    sale, _ = await sold.leads()
    base = f"{sold.url}/_dub/dashboard"
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.CookieJar(unsafe=True)
    ) as person:
        await person.post(f"{base}/sign-in", data={"password": PASSWORD})
        async with person.get(f"{base}/leads/{sale['id']}") as answer:
            story = await answer.text()
        async with person.get(f"{base}/leads") as answer:
            listed = await answer.text()

    assert "<h3>Sale" in story
    assert "“Purchase” of u_1 for 4900 eur" in story
    assert "<dt>Invoice</dt><dd>=in_1</dd>" in story
    assert "Sign-up" not in story.partition("What happened")[2]
    assert listed.count("(sale)") == 1


async def test_a_forgotten_customers_invoice_is_forgotten(sold: RelayProcess) -> None:
    sale, _ = await sold.leads()

    code, _, err = await sold.run("leads", "forget", "u_1")

    assert (code, err) == (0, "")
    _, story, _ = await sold.run("leads", "show", sale["id"], "--json")
    assert json.loads(story)["sale"]["invoiceId"] is None
    assert b"in_1" not in (sold.folder / "relay.db").read_bytes()
