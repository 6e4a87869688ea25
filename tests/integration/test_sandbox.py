"""The sandbox over HTTP: errors in Dub's order, faults, webhooks, the page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

import aiohttp
import pytest
from pytest_aiohttp import AiohttpClient

from relay.core.clock import now_ms
from relay.core.signing import sign_call
from relay.sandbox.app import API_KEY, PUBLISHABLE_KEY, make_dub
from tests.support.sandbox_rig import (
    KEY,
    SECRET,
    Client,
    fault,
    lead,
    minted,
    sandbox,
    state,
    told,
)

MINUTE_MS: Final = 60_000


@pytest.fixture
async def dub(aiohttp_client: AiohttpClient) -> Client:
    return await sandbox(aiohttp_client)


async def test_a_lead_is_taken_and_a_success_tells_no_rate(dub: Client) -> None:
    click_id = await minted(dub)

    async with dub.post("/track/lead", json=lead(click_id), headers=KEY) as answer:
        assert answer.status == 200
        body = await answer.json()

    assert body["link"]["key"] == "ada"
    assert not [name for name in answer.headers if name.startswith("X-RateLimit")]
    assert "Retry-After" not in answer.headers
    held = await state(dub)
    assert [it["clickId"] for it in held["leads"]] == [click_id]
    assert [(it["status"], it["step"]) for it in held["calls"]] == [(200, "record")]


@pytest.mark.parametrize(
    ("authorization", "fault_first", "status", "code", "message", "rated"),
    [
        (None, {}, 401, "unauthorized", "Missing Authorization header.", False),
        ("bearer x", {}, 400, "bad_request", "Misconfigured auth", False),
        (f"Basic {API_KEY}", {}, 400, "bad_request", "Misconfigured auth", False),
        ("Bearer abc", {}, 404, "not_found", "Workspace ID not found.", False),
        ("Bearer dub_no", {}, 401, "unauthorized", "Unauthorized: Invalid", False),
        (
            f"Bearer {PUBLISHABLE_KEY}",
            {},
            401,
            "unauthorized",
            "Unauthorized: Invalid API key.",
            False,
        ),
        (None, {"key": "expired"}, 401, "unauthorized", "Missing Auth", False),
        (
            f"Bearer {API_KEY}",
            {"key": "expired"},
            401,
            "unauthorized",
            "Unauthorized: Access token expired.",
            False,
        ),
        (
            f"Bearer {API_KEY}",
            {"rate": 0, "plan": "free"},
            429,
            "rate_limit_exceeded",
            "Too many requests.",
            True,
        ),
        (
            f"Bearer {API_KEY}",
            {"key": "no-membership", "plan": "free"},
            404,
            "not_found",
            "Workspace not found.",
            True,
        ),
        (
            f"Bearer {API_KEY}",
            {"key": "wrong-role", "plan": "free"},
            403,
            "forbidden",
            "You don't have the required role",
            True,
        ),
        (
            f"Bearer {API_KEY}",
            {"plan": "free"},
            403,
            "forbidden",
            "Unauthorized: Need higher plan.",
            True,
        ),
        (f"Bearer {API_KEY}", {}, 400, "bad_request", "Invalid JSON format", True),
    ],
)
async def test_each_refusal_comes_in_dubs_order_and_tells_the_rate_after_its_check(
    dub: Client,
    authorization: str | None,
    fault_first: dict[str, Any],
    status: int,
    code: str,
    message: str,
    *,
    rated: bool,
) -> None:
    """The body is no JSON, which Dub would find last."""
    if fault_first:
        await fault(dub, **fault_first)
    headers = {"Authorization": authorization} if authorization else {}

    async with dub.post("/track/lead", data=b"{", headers=headers) as answer:
        seen = await told(answer)

    assert seen[:2] == (status, code)
    assert seen[2].startswith(message)
    assert ("X-RateLimit-Limit" in answer.headers) is rated
    if rated:
        reset = int(answer.headers["Retry-After"])
        assert 0 <= reset - now_ms() <= MINUTE_MS
        assert answer.headers["X-RateLimit-Reset"] == str(reset)


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        (
            {"eventName": None},
            422,
            "invalid_type: eventName: Invalid input: expected string, received null",
        ),
        ({"customerEmail": "x@localhost"}, 422, "invalid_format: customerEmail:"),
        ({"mode": None}, 422, "invalid_value: mode:"),
        ({"customerExternalId": ""}, 400, "customerExternalId is required"),
        ({"clickId": "unknown"}, 404, "Click event not found for clickId: unknown"),
        ({"clickId": ""}, 400, "The `clickId` property was not provided"),
    ],
)
async def test_a_bad_lead_gets_dubs_own_words(
    dub: Client, changes: dict[str, Any], status: int, message: str
) -> None:
    body = lead(await minted(dub), **changes)

    async with dub.post("/track/lead", json=body, headers=KEY) as answer:
        seen = await told(answer)

    assert seen[0] == status
    assert seen[2].startswith(message)


class TestSignatures:
    @pytest.mark.parametrize("kind", ["yes", "no", "invalid"])
    async def test_each_lead_shows_what_its_signature_is_worth(
        self, dub: Client, kind: str
    ) -> None:
        body = json.dumps(lead(await minted(dub))).encode()
        over = body if kind == "yes" else b"something else"
        value = sign_call((SECRET,), "lead_1", over, now_ms())
        headers = KEY if kind == "no" else {**KEY, "Relay-Signature": value}

        await dub.post("/track/lead", data=body, headers=headers)

        held = await state(dub)
        assert held["leads"][0]["signed"] == kind
        assert held["calls"][0]["leadId"] == ("lead_1" if kind == "yes" else None)

    async def test_an_unsigned_call_is_refused_where_that_is_asked_for(
        self, dub: Client
    ) -> None:
        await dub.post("/sandbox/options", json={"require_signature": True})

        async with dub.post("/track/lead", json=lead("x"), headers=KEY) as answer:
            assert (await told(answer))[:2] == (403, "forbidden")
        assert (await state(dub))["leads"] == []


class TestFaultsOverHttp:
    async def test_a_status_answers_and_nothing_is_done(self, dub: Client) -> None:
        await fault(dub, status=503, count=2)
        body = lead(await minted(dub))

        seen = []
        for _ in range(3):
            async with dub.post("/track/lead", json=body, headers=KEY) as answer:
                seen.append(answer.status)

        assert seen == [503, 503, 200]
        assert len((await state(dub))["leads"]) == 1

    async def test_with_work_the_lead_counts_all_the_same(self, dub: Client) -> None:
        await fault(dub, status=500, work=True, count=1)
        body = lead(await minted(dub))

        async with dub.post("/track/lead", json=body, headers=KEY) as answer:
            assert answer.status == 500
        async with dub.post("/track/lead", json=body, headers=KEY) as answer:
            assert (await answer.json())["link"] is None
        assert len((await state(dub))["leads"]) == 1

    @pytest.mark.parametrize(
        ("value", "seen"),
        [("2", "2"), ("", None), ("Fri, 31 Dec 1999 23:59:59 GMT",) * 2],
    )
    async def test_retry_after_says_what_it_is_told_to(
        self, dub: Client, value: str, seen: str | None
    ) -> None:
        await fault(dub, status=429, retry_after=value, count=1)

        async with dub.post("/track/lead", json={}, headers=KEY) as answer:
            assert answer.status == 429
            assert answer.headers.get("Retry-After") == seen

    async def test_html_is_what_a_server_in_front_would_say(self, dub: Client) -> None:
        await fault(dub, html=True, count=1)

        async with dub.post("/track/lead", json={}, headers=KEY) as answer:
            assert answer.status == 502
            assert answer.content_type == "text/html"

    @pytest.mark.parametrize(
        ("where", "error", "recorded"),
        [
            ("before", aiohttp.ClientError, 0),
            ("after", aiohttp.ClientError, 1),
            ("mid-body", aiohttp.ClientPayloadError, 1),
        ],
    )
    async def test_a_cut_loses_the_call_or_only_its_answer(
        self, dub: Client, where: str, error: type[Exception], recorded: int
    ) -> None:
        await fault(dub, cut=where, count=1)
        body = lead(await minted(dub))

        with pytest.raises((error, OSError)):
            async with dub.post("/track/lead", json=body, headers=KEY) as answer:
                await answer.read()

        held = await state(dub)
        assert len(held["leads"]) == recorded
        assert held["calls"][0]["status"] is None
        assert held["calls"][0]["note"].startswith(f"fault: cut {where}")

    async def test_what_is_slow_has_done_its_work_before_it_answers(
        self, dub: Client
    ) -> None:
        await fault(dub, slow=3600, count=1)
        body = lead(await minted(dub))

        call = asyncio.create_task(dub.post("/track/lead", json=body, headers=KEY))
        async with asyncio.timeout(5):
            while (await state(dub))["leads"] == []:
                assert not call.done()
        call.cancel()

    async def test_a_stop_does_not_wait_for_what_hangs(
        self, aiohttp_client: AiohttpClient
    ) -> None:
        dub = await aiohttp_client(make_dub())
        await fault(dub, hang=3600)
        call = asyncio.create_task(dub.post("/track/lead", json={}, headers=KEY))
        async with asyncio.timeout(5):
            while (await state(dub))["calls"] == []:
                assert not call.done()

        await dub.server.close()

        with pytest.raises((aiohttp.ClientError, OSError)):
            await call

    async def test_a_click_is_late_for_as_many_calls_as_told(self, dub: Client) -> None:
        await fault(dub, click_delay=3600, count=2, step="deferred")
        body = lead(await minted(dub), mode="deferred")

        seen = []
        for _ in range(3):
            async with dub.post("/track/lead", json=body, headers=KEY) as answer:
                seen.append(answer.status)

        assert seen == [404, 404, 200]

    async def test_faults_are_listed_and_cleared(self, dub: Client) -> None:
        await fault(dub, key="revoked")
        async with dub.get("/sandbox/faults") as answer:
            assert await answer.json() == {"faults": [{"id": 1, "key": "revoked"}]}

        await dub.delete("/sandbox/faults")

        async with dub.get("/sandbox/faults") as answer:
            assert await answer.json() == {"faults": []}

    @pytest.mark.parametrize("body", [b"{", b'{"stats": 1}', b"\xff"])
    async def test_a_fault_that_is_none_is_told(self, dub: Client, body: bytes) -> None:
        async with dub.post("/sandbox/faults", data=body) as answer:
            assert (await told(answer))[0] == 422

    async def test_another_sites_page_turns_no_knob(self, dub: Client) -> None:
        headers = {"Origin": "https://elsewhere.example"}

        async with dub.post(
            "/sandbox/faults", json={"status": 503}, headers=headers
        ) as answer:
            assert (await told(answer))[0] == 403
        async with dub.get("/sandbox/faults") as answer:
            assert await answer.json() == {"faults": []}

    async def test_a_reset_forgets_clicks_leads_and_faults(self, dub: Client) -> None:
        await dub.post("/track/lead", json=lead(await minted(dub)), headers=KEY)
        await fault(dub, status=503)

        await dub.post("/sandbox/reset")

        held = await state(dub)
        assert [held[it] for it in ("clicks", "customers", "leads", "calls")] == [
            []
        ] * 4
        async with dub.get("/sandbox/faults") as answer:
            assert await answer.json() == {"faults": []}


async def test_the_clock_can_be_moved_past_the_seven_days(
    aiohttp_client: AiohttpClient,
) -> None:
    now = [1_700_000_000_000]
    clock: Callable[[], int] = lambda: now[0]  # noqa: E731 - one value, moved below
    dub = await aiohttp_client(make_dub(clock=clock))
    body = lead(await minted(dub))
    linked = []
    for _ in range(3):
        async with dub.post("/track/lead", json=body, headers=KEY) as answer:
            linked.append((await answer.json())["link"] is not None)
        now[0] += 4 * 24 * 3600 * 1000

    assert linked == [True, False, True]
