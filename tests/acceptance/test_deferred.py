"""Deferred leads: the click now, the lead days later, from another device."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from relay.core.clock import now_ms
from tests.support.harness import RelayProcess, SandboxDub, post_hook

DAY_MS = 86_400_000

RULES = """
[[signup]]
path = "/start"
customer_external_id = "form.email"
customer_name = "form.name"
mode = "deferred"

[[signup]]
path = "/qualify"
event = "Qualified"
customer_external_id = "form.email"
known_customer = true
"""

ADA = "ada@example.com"


def hook(click: str, customer: str = ADA, **more: Any) -> dict[str, Any]:
    fields = {"clickId": click, "eventName": "Sign Up", "customerExternalId": customer}
    return fields | more


@pytest.fixture
async def fronted(
    aiohttp_server: AiohttpServer, dub: SandboxDub, tmp_path: Path
) -> AsyncIterator[RelayProcess]:
    """A relay in front of a site whose first form only defers."""

    async def take(_: web.Request) -> web.StreamResponse:
        return web.Response(status=201)

    app = web.Application()
    app.add_routes([web.post("/start", take), web.post("/qualify", take)])
    server = await aiohttp_server(app, access_log=None, shutdown_timeout=0.2)
    site = f"http://127.0.0.1:{server.port}"
    relay = RelayProcess(
        tmp_path, {"DUB_API_URL": dub.url, "RELAY_UPSTREAM": site}, config=RULES
    )
    await relay.start()
    yield relay
    assert await relay.stop() == 0


async def sign_up(url: str, click: str | None, **form: str) -> int:
    """Send a form from a browser of its own, with a click cookie or with none."""
    async with (
        aiohttp.ClientSession() as device,
        device.post(
            url,
            data=form,
            headers={"Cookie": f"dub_id={click}"} if click else {},
            allow_redirects=False,
        ) as answer,
    ):
        return answer.status


async def test_the_click_now_and_the_lead_ten_days_later_by_the_hook(
    delivering: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    click = await dub.click("grace")
    await post_hook(session, delivering.url, hook(click, mode="deferred"), "first")
    [deferred] = await delivering.settled(1)
    assert (deferred["status"], await dub.state("leads")) == ("delivered", [])
    assert [one["clickId"] for one in await dub.state("customers")] == [click]

    dub.dub.clock = lambda: now_ms() + 10 * DAY_MS
    await post_hook(session, delivering.url, hook(""), "second")
    completing, _ = await delivering.settled(2)

    assert completing["status"] == "delivered"
    [recorded] = await dub.state("leads")
    assert (recorded["clickId"], recorded["linkKey"]) == (click, "grace")


async def test_another_device_completes_through_the_proxy_without_a_cookie(
    fronted: RelayProcess, dub: SandboxDub
) -> None:
    click = await dub.click("grace")
    assert await sign_up(f"{fronted.url}/start", click, name="Ada", email=ADA) == 201
    await fronted.settled(1)
    assert await dub.state("leads") == []

    done = await sign_up(f"{fronted.url}/qualify", None, name="Ada", email=ADA)

    assert done == 201
    completing, deferred = await fronted.settled(2)
    assert (deferred["mode"], completing["mode"]) == ("deferred", "async")
    assert {one["status"] for one in (deferred, completing)} == {"delivered"}
    [recorded] = await dub.state("leads")
    assert (recorded["eventName"], recorded["clickId"]) == ("Qualified", click)


async def test_both_at_once_arrive_in_order_although_dub_is_down_between(
    delivering: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    await dub.fault(status=503, count=3)
    click = await dub.click()
    for n, one in enumerate([hook(click, mode="deferred"), hook("")]):
        assert (await post_hook(session, delivering.url, one, f"m{n}"))[0] == 202

    leads = await delivering.settled(2)

    assert [one["status"] for one in leads] == ["delivered", "delivered"]
    assert len(await dub.state("leads")) == 1


async def test_a_rejected_first_call_does_not_hold_up_the_completing_one(
    delivering: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    click = await dub.click()
    await dub.fault(
        status=404,
        code="not_found",
        message=f"Link not found for clickId: {click}",
        count=1,
    )
    await post_hook(session, delivering.url, hook(click, mode="deferred"), "first")
    await post_hook(session, delivering.url, hook(""), "second")

    completing, deferred = await delivering.settled(2)

    assert (deferred["status"], completing["status"]) == ("rejected", "rejected")
    assert completing["lastError"] == "Dub knows no earlier click of this customer"
    story = (await delivering.run("leads", "show", completing["id"]))[1]
    assert "nobody: Dub is asked for this customer's earlier click" in story


async def test_an_unknown_customer_through_the_proxy_is_told_as_such(
    fronted: RelayProcess, dub: SandboxDub
) -> None:
    url = f"{fronted.url}/qualify"
    assert await sign_up(url, None, name="Bo", email="bo@example.com") == 201

    [lead] = await fronted.settled(1)

    assert lead["status"] == "rejected"
    assert lead["lastError"] == "Dub knows no earlier click of this customer"
    assert await dub.state("leads") == []


async def test_what_was_rejected_too_early_goes_once_the_customer_is_there(
    delivering: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    await post_hook(session, delivering.url, hook(""), "too-early")
    [early] = await delivering.settled(1)
    assert early["status"] == "rejected"
    click = await dub.click()
    await post_hook(session, delivering.url, hook(click, mode="deferred"), "first")
    await delivering.settled(2)

    assert (await delivering.run("leads", "retry", early["id"]))[0] == 0

    deadline = time.monotonic() + 20
    while (await delivering.leads())[1]["status"] != "delivered":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    assert [one["clickId"] for one in await dub.state("leads")] == [click]
