"""The sandbox's ``/customers`` and ``/events``: filters, pages, what is left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from pytest_aiohttp import AiohttpClient

from relay.core.clock import iso
from relay.sandbox.app import DUB, make_dub
from relay.sandbox.dub import Dub
from relay.sandbox.sales import track_sale
from tests.support.sandbox_rig import KEY, Client, fault, lead, minted, told

START = 1_700_000_000_000
MINUTE = 60_000


@dataclass
class Town:
    """Three customers of two links, a minute apart, and a sale of the first."""

    http: Client
    dub: Dub
    now: list[int]

    async def shown(self, path: str) -> list[dict[str, Any]]:
        async with self.http.get(path, headers=KEY) as answer:
            assert answer.status == 200, await answer.text()
            found = await answer.json()
        assert isinstance(found, list)
        return found

    async def events(self, query: str = "", kind: str = "leads") -> list[str]:
        shown = await self.shown(f"/events?event={kind}&sortOrder=asc{query}")
        return [each["customer"]["externalId"] for each in shown]

    async def customers(self, query: str) -> list[str]:
        shown = await self.shown(f"/customers?{query}")
        return [each["externalId"] for each in shown]


@pytest.fixture
async def town(aiohttp_client: AiohttpClient) -> Town:
    now = [START]
    clock: Callable[[], int] = lambda: now[0]  # noqa: E731 - one value, moved below
    app = make_dub(clock=clock)
    http = await aiohttp_client(app)
    for name, link, plan in (
        ("u_1", "ada", "pro"),
        ("u_2", "grace", "free"),
        ("u_3", "ada", None),
    ):
        body = lead(
            await minted(http, link),
            customerExternalId=name,
            customerEmail=f"{name}@example.com",
            metadata={"plan": plan} if plan else None,
        )
        await http.post("/track/lead", json=body, headers=KEY)
        now[0] += MINUTE
    track_sale(app[DUB], {"customerExternalId": "u_1", "amount": 5})
    return Town(http, app[DUB], now)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["u_1", "u_2", "u_3"]),
        ("&linkId=link_ada", ["u_1", "u_3"]),
        ("&linkId=link_ada,link_grace", ["u_1", "u_2", "u_3"]),
        ("&linkId=-link_ada", ["u_2"]),
        ("&partnerId=pn_grace", ["u_2"]),
        ("&partnerId=-pn_grace,pn_alan", ["u_1", "u_3"]),
        ("&domain=acme.link&key=ada", ["u_1", "u_3"]),
        ("&domain=other.link", []),
        ("&query=metadata['plan']:pro", ["u_1"]),
        ("&query=metadata['plan']!=pro", ["u_2", "u_3"]),
        (f"&start={iso(START + MINUTE)}", ["u_2", "u_3"]),
        (f"&start={iso(START)}&end={iso(START + MINUTE)}", ["u_1", "u_2"]),
        ("&limit=2", ["u_1", "u_2"]),
        ("&limit=2&page=2", ["u_3"]),
        ("&limit=2&page=3", []),
        ("&customerId=u_1", []),
    ],
)
async def test_events_are_found_by_each_filter(
    town: Town, query: str, found: list[str]
) -> None:
    assert await town.events(query) == found


async def test_events_of_one_customer_go_by_dubs_own_id(town: Town) -> None:
    customer_id = town.dub.customers["u_2"].id
    assert await town.events(f"&customerId={customer_id}") == ["u_2"]


async def test_the_newest_come_first_and_only_a_days_unless_a_start_is_given(
    town: Town,
) -> None:
    newest = await town.shown("/events?event=leads")
    assert [each["customer"]["externalId"] for each in newest] == ["u_3", "u_2", "u_1"]
    town.now[0] = START + 24 * 60 * MINUTE + 1
    assert await town.events() == ["u_2", "u_3"]
    assert await town.events(f"&start={iso(START)}") == ["u_1", "u_2", "u_3"]


async def test_events_lag_as_the_knob_says(town: Town) -> None:
    await fault(town.http, events_lag=150, path="/events")
    assert await town.events() == ["u_1"]


async def test_a_sale_shows_its_worth_and_a_lead_its_metadata(town: Town) -> None:
    [sale] = await town.shown("/events?event=sales")
    assert (sale["event"], sale["eventName"]) == ("sale", "Purchase")
    assert sale["sale"] == {
        "amount": 5,
        "currency": "usd",
        "paymentProcessor": "custom",
        "invoiceId": "",
    }
    first, *_, last = await town.shown("/events?event=leads&sortOrder=asc")
    assert first["metadata"] == {"plan": "pro"}
    assert "metadata" not in last
    assert await town.shown("/events") == []


async def test_a_lead_with_a_quantity_is_so_many_events(town: Town) -> None:
    body = lead(await minted(town.http), customerExternalId="u_4", eventQuantity=3)
    await town.http.post("/track/lead", json=body, headers=KEY)
    found = await town.shown("/events?event=leads&limit=3")
    assert {each["customer"]["externalId"] for each in found} == {"u_4"}
    assert len({each["eventId"] for each in found}) == 3


async def test_a_deleted_customer_stands_there_under_dubs_own_id(town: Town) -> None:
    customer = town.dub.customers.pop("u_2")
    shown = await town.shown(f"/events?event=leads&customerId={customer.id}")
    assert shown[0]["customer"]["externalId"] == customer.id
    assert shown[0]["customer"]["name"] == "Deleted Customer"


async def test_events_of_a_deleted_link_leave_a_page_that_is_not_the_last_short(
    town: Town,
) -> None:
    await town.http.post("/sandbox/links", json={"key": "grace", "gone": True})
    assert await town.events("&limit=2&page=1") == ["u_1"]
    assert await town.events("&limit=2&page=2") == ["u_3"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("event=lead", "invalid_value: event:"),
        ("sortOrder=up", "invalid_value: sortOrder:"),
        ("limit=1001", "too_big: limit: Max page size is 1000."),
        ("page=0", "too_small: page:"),
        ("page=x", "invalid_type: page:"),
        ("start=yesterday", "custom: start:"),
        ("end=tomorrow", "custom: end:"),
    ],
)
async def test_a_query_that_is_none_is_refused(
    town: Town, query: str, message: str
) -> None:
    async with town.http.get(f"/events?{query}", headers=KEY) as answer:
        status, _, said = await told(answer)
    assert (status, said[: len(message)]) == (422, message)


async def test_a_key_without_the_permission_reads_no_events(town: Town) -> None:
    await fault(town.http, analytics=False, path="/events")
    async with town.http.get("/events", headers=KEY) as answer:
        assert (await told(answer))[:2] == (403, "forbidden")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["u_3", "u_2", "u_1"]),
        ("externalId=u_2", ["u_2"]),
        ("externalId=nobody", []),
        ("email=u_3@example.com", ["u_3"]),
        ("email=u_3@example.com&externalId=u_1", ["u_3"]),
        ("search=U_1@", ["u_1"]),
        ("linkId=link_ada", ["u_3", "u_1"]),
        ("pageSize=2", ["u_3", "u_2"]),
        ("pageSize=2&page=2", ["u_1"]),
    ],
)
async def test_customers_are_found_by_each_filter(
    town: Town, query: str, found: list[str]
) -> None:
    assert await town.customers(query) == found


async def test_a_page_of_customers_has_a_hundred_at_most(town: Town) -> None:
    async with town.http.get("/customers?pageSize=101", headers=KEY) as answer:
        assert (await told(answer))[2].startswith("too_big: pageSize")


@pytest.mark.parametrize(
    "path", ["/customers/ext_u_1", "/customers?externalId=u_1", "/customers/{id}"]
)
async def test_a_customer_is_shown_with_its_credit_only_if_asked(
    town: Town, path: str
) -> None:
    path = path.format(id=town.dub.customers["u_1"].id)
    both = []
    for more in ("", "includeExpandedFields=true"):
        separator = "&" if "?" in path else "?"
        async with town.http.get(f"{path}{separator}{more}", headers=KEY) as answer:
            found = await answer.json()
        both.append(found[0] if isinstance(found, list) else found)

    plain, whole = both
    assert (plain["externalId"], plain["sales"]) == ("u_1", 1)
    assert not {"clickId", "link", "partner"} & plain.keys()
    assert (whole["link"]["id"], whole["partner"]["id"]) == ("link_ada", "pn_ada")


async def test_an_unknown_customer_is_a_404(town: Town) -> None:
    async with town.http.get("/customers/ext_nobody", headers=KEY) as answer:
        assert (await told(answer))[2].startswith("Customer not found.")
