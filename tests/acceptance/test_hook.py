"""`POST hooks/signup` from outside: every row of its table, on a real process.

Dub is unreachable throughout: the relay starts and takes leads all the same.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.harness import RelayProcess, post_hook, signed

CLICK = "hQWlM0a9Zk3xY7bT"
GOOD = {"clickId": CLICK, "eventName": "Sign Up", "customerExternalId": "u_1"}


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[RelayProcess]:
    process = await RelayProcess(tmp_path, arguments=("--no-delivery",)).start()
    yield process
    assert await process.stop() == 0


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_a_signed_hook_is_queued_and_listed(
    relay: RelayProcess, session: aiohttp.ClientSession
) -> None:
    status, answer = await post_hook(session, relay.url, GOOD)

    assert status == 202
    assert answer["status"] == "queued"
    [lead] = await relay.leads()
    assert lead["id"] == answer["id"]
    assert lead["id"].startswith("lead_")
    assert {
        "source": "hook",
        "status": "queued",
        "clickId": CLICK,
        "eventName": "Sign Up",
        "customerExternalId": "u_1",
        "mode": "async",
        "attempts": 0,
        "lastError": None,
        "deliveredAt": None,
        "notes": [],
    }.items() <= lead.items()


async def test_a_hook_may_be_signed_under_svixs_names(
    relay: RelayProcess, session: aiohttp.ClientSession
) -> None:
    headers, raw = signed(GOOD, "msg_svix")
    named = {
        name.replace("webhook-", "svix-"): value for name, value in headers.items()
    }
    forged = named | {"svix-signature": "v1,bm8="}
    url = f"{relay.url}/_dub/hooks/signup"

    async with session.post(url, data=raw, headers=forged) as answer:
        assert answer.status == 401
    async with session.post(url, data=raw, headers=named) as answer:
        assert answer.status == 202
    assert len(await relay.leads()) == 1


async def test_the_click_id_is_read_from_a_raw_cookie_header(
    relay: RelayProcess, session: aiohttp.ClientSession
) -> None:
    partner = '{"clickId":"x","partner":{"name":"A, B","id":"p"}}'
    cookie = f"sid=1; dub_partner_data={partner}; dub_id={CLICK}; z=2"
    body = {"cookie": cookie, "eventName": "Sign Up", "customerExternalId": "u_1"}

    assert (await post_hook(session, relay.url, body))[0] == 202

    assert [lead["clickId"] for lead in await relay.leads()] == [CLICK]


@pytest.mark.parametrize(
    "click",
    [{}, {"clickId": None}, {"clickId": "test"}, {"cookie": "dub_id=test"}],
    ids=str,
)
async def test_without_a_usable_click_nothing_is_stored(
    relay: RelayProcess, session: aiohttp.ClientSession, click: dict[str, object]
) -> None:
    body = {"eventName": "Sign Up", "customerExternalId": "u_1"} | click

    answer = await post_hook(session, relay.url, body)

    assert answer == (202, {"id": None, "status": "unattributed"})
    assert await relay.leads() == []
    async with session.get(f"{relay.url}/_dub/metrics") as metrics:
        text = await metrics.text()
    assert 'captured_total{result="unattributed",source="hook"} 1.0' in text


async def test_a_placeholder_is_refused_with_what_to_do(
    relay: RelayProcess, session: aiohttp.ClientSession
) -> None:
    status, answer = await post_hook(
        session, relay.url, GOOD | {"customerExternalId": "undefined"}
    )

    assert status == 422
    assert "Send the id that your database gave" in answer["error"]["message"]
    assert await relay.leads() == []


async def test_an_empty_click_id_means_the_customers_earlier_click(
    relay: RelayProcess, session: aiohttp.ClientSession
) -> None:
    assert (await post_hook(session, relay.url, GOOD | {"clickId": ""}))[0] == 202
    assert [lead["clickId"] for lead in await relay.leads()] == [""]


async def test_repeats_are_told_as_duplicates_with_the_first_leads_id(
    relay: RelayProcess, session: aiohttp.ClientSession
) -> None:
    _, first = await post_hook(session, relay.url, GOOD, "msg_1")
    same_id = await post_hook(session, relay.url, GOOD, "msg_1")
    same_customer_and_event = await post_hook(
        session, relay.url, GOOD | {"eventName": "sign-up", "customerName": "A"}, "m2"
    )

    duplicate = (200, {"id": first["id"], "status": "duplicate"})
    assert same_id == duplicate
    assert same_customer_and_event == duplicate
    assert len(await relay.leads()) == 1


async def test_a_deferred_lead_and_its_completion_are_two(
    relay: RelayProcess, session: aiohttp.ClientSession
) -> None:
    deferred = await post_hook(session, relay.url, GOOD | {"mode": "deferred"}, "m1")
    complete = await post_hook(session, relay.url, GOOD | {"clickId": ""}, "m2")

    assert (deferred[0], complete[0]) == (202, 202)
    assert len(await relay.leads()) == 2


async def test_one_webhook_id_with_two_bodies_is_a_conflict(
    relay: RelayProcess, session: aiohttp.ClientSession
) -> None:
    await post_hook(session, relay.url, GOOD, "msg_1")
    other = GOOD | {"customerExternalId": "u_2"}

    status, answer = await post_hook(session, relay.url, other, "msg_1")

    assert (status, answer["error"]["code"]) == (409, "conflict")
    assert len(await relay.leads()) == 1


PERSON = {
    "customerName": "\N{GRINNING FACE}" * 51,
    "customerEmail": "user@localhost",
    "customerAvatar": 7,
    "metadata": {"a": "x" * 10_000},
}


async def test_a_bad_field_of_the_persons_is_left_out_and_noted(
    relay: RelayProcess, session: aiohttp.ClientSession
) -> None:
    assert (await post_hook(session, relay.url, GOOD | PERSON))[0] == 202

    [lead] = await relay.leads()
    for name in PERSON:
        assert any(name in note for note in lead["notes"]), name
    assert "user@localhost" not in json.dumps(lead["notes"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"eventName": None}, "eventName"),
        ({"eventName": "  "}, "eventName"),
        ({"eventName": "x" * 256}, "eventName"),
        ({"customerExternalId": ""}, "customerExternalId"),
        ({"customerExternalId": 7}, "customerExternalId"),
        ({"customerExternalId": "x" * 101}, "customerExternalId"),
        ({"mode": "later"}, "mode"),
        ({"eventQuantity": 0}, "eventQuantity"),
        ({"eventQuantity": 101}, "eventQuantity"),
        ({"eventQuantity": 1.5}, "eventQuantity"),
        ({"eventQuantity": True}, "eventQuantity"),
        ({"clickId": 7}, "clickId"),
        ({"cookie": ["a"]}, "cookie"),
    ],
    ids=str,
)
async def test_a_wrong_field_of_the_integrators_is_refused_by_name(
    relay: RelayProcess,
    session: aiohttp.ClientSession,
    change: dict[str, object],
    named: str,
) -> None:
    status, answer = await post_hook(session, relay.url, GOOD | change)

    assert (status, answer["error"]["code"]) == (422, "unprocessable_entity")
    assert named in answer["error"]["message"]
    assert await relay.leads() == []


@pytest.mark.parametrize("missing", ["eventName", "customerExternalId"])
async def test_a_missing_field_is_refused_by_name(
    relay: RelayProcess, session: aiohttp.ClientSession, missing: str
) -> None:
    body = {name: value for name, value in GOOD.items() if name != missing}

    status, answer = await post_hook(session, relay.url, body)

    assert status == 422
    assert missing in answer["error"]["message"]


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"a": NaN}', 400),
        (b'{"a": "\xff"}', 400),
        (b"[" * 100_000, 400),
        ("{}".encode("utf-16"), 400),
        (b"[]", 422),
        (b'"text"', 422),
        (b"null", 422),
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_what_is_no_json_object_is_refused(
    relay: RelayProcess, session: aiohttp.ClientSession, raw: bytes, status: int
) -> None:
    got, answer = await post_hook(session, relay.url, raw)

    assert got == status
    assert answer["error"]["doc_url"].startswith("https://dub.co/docs/")
    assert await relay.leads() == []


async def test_a_body_over_one_mebibyte_is_refused(
    relay: RelayProcess, session: aiohttp.ClientSession
) -> None:
    body = GOOD | {"metadata": {"a": "x" * (1 << 20)}}

    assert (await post_hook(session, relay.url, body))[0] == 413


async def test_unsigned_forged_stale_and_future_hooks_are_refused(
    relay: RelayProcess, session: aiohttp.ClientSession
) -> None:
    headers, raw = signed(GOOD)
    stale, _ = signed(GOOD, at=time.time() - 400)
    future, _ = signed(GOOD, at=time.time() + 400)
    forged, _ = signed(GOOD, secret="whsec_" + "A" * 32)
    tampered = raw.replace(b"u_1", b"u_2")
    moved = headers | {"webhook-id": "msg_other"}
    attempts: list[tuple[dict[str, str], bytes]] = [
        ({}, raw),
        ({k: v for k, v in headers.items() if k != "webhook-signature"}, raw),
        (headers | {"webhook-signature": "v1,!!!"}, raw),
        (headers | {"webhook-timestamp": "soon"}, raw),
        (stale, raw),
        (future, raw),
        (forged, raw),
        (headers, tampered),
        (moved, raw),
    ]
    for sent, body in attempts:
        async with session.post(
            f"{relay.url}/_dub/hooks/signup", data=body, headers=sent
        ) as answer:
            assert answer.status == 401, sent
            assert (await answer.json())["error"]["code"] == "unauthorized"
    assert await relay.leads() == []


async def test_health_says_alive_and_ready(
    relay: RelayProcess, session: aiohttp.ClientSession
) -> None:
    for path in ("livez", "readyz"):
        async with session.get(f"{relay.url}/_dub/{path}") as answer:
            assert answer.status == 200, path


async def test_unknown_paths_and_methods_under_the_prefix_answer_in_dubs_shape(
    relay: RelayProcess, session: aiohttp.ClientSession
) -> None:
    async with session.get(f"{relay.url}/_dub/nothing") as answer:
        assert answer.status == 404
        assert (await answer.json())["error"]["code"] == "not_found"
    async with session.get(f"{relay.url}/_dub/hooks/signup") as answer:
        assert answer.status == 405
        assert answer.headers["Allow"] == "POST"
    async with session.get(f"{relay.url}/") as answer:
        assert answer.status == 404


async def test_logs_have_one_line_an_event_and_nothing_of_the_persons(
    relay: RelayProcess, session: aiohttp.ClientSession
) -> None:
    person = {
        "customerName": "Ada Canary",
        "customerEmail": "canary@example.com",
        "customerExternalId": "canary-id",
        "cookie": "session=canary-cookie",
    }
    _, answer = await post_hook(session, relay.url, GOOD | person)

    await relay.stop()

    [queued] = [e for e in relay.events if e["event"] == "lead.queued"]
    assert queued["lead"] == answer["id"]
    assert "anary" not in json.dumps(relay.events)
    assert not [e for e in relay.events if e["event"] == "text"]


async def test_without_a_hook_secret_the_hook_answers_404(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    relay = await RelayProcess(tmp_path, {"RELAY_HOOK_SECRET": ""}).start()
    try:
        assert (await post_hook(session, relay.url, GOOD))[0] == 404
    finally:
        await relay.stop()


@pytest.mark.slow
async def test_a_stopping_relay_says_so_before_it_stops_listening(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    relay = await RelayProcess(tmp_path, {"RELAY_DRAIN": "5s"}).start()
    assert relay.process is not None
    relay.process.terminate()

    async with asyncio.timeout(5):
        while True:
            async with session.get(f"{relay.url}/_dub/readyz") as answer:
                if answer.status == 503:
                    break
    taken = await post_hook(session, relay.url, GOOD)

    assert taken[0] == 202
    assert await relay.stop() == 0
    assert [lead["id"] for lead in await relay.leads()] == [taken[1]["id"]]


async def test_head_is_answered_where_get_is(
    relay: RelayProcess, session: aiohttp.ClientSession
) -> None:
    for path in ("script.js", "script.site-visit.js", "livez", "readyz", "metrics"):
        async with session.head(f"{relay.url}/_dub/{path}") as answer:
            assert answer.status == 200, path
            assert await answer.read() == b""
