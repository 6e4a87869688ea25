"""Providers' hooks from outside: a real relay, the sandbox Dub, their libraries."""

from __future__ import annotations

import asyncio
import json
import resource
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from relay.core.providers import PROVIDERS
from relay.http.callers import REFUSALS_PER_MINUTE
from tests.support.harness import RelayProcess, SandboxDub, post_hook
from tests.support.provider_rig import BY_NAME, SENDERS, Sender

ENV = {row.name: row.env for row in PROVIDERS}
ORIGIN = {"Sec-Fetch-Site": "same-origin"}

Answer = tuple[int, dict[str, Any]]


def relay_with(
    folder: Path, dub: SandboxDub, environment: dict[str, str]
) -> RelayProcess:
    return RelayProcess(folder, {"DUB_API_URL": dub.url, **environment})


@pytest.fixture
async def relay(dub: SandboxDub, tmp_path: Path) -> AsyncIterator[RelayProcess]:
    """All providers' hooks are on."""
    secrets = {ENV[each.name]: each.secret for each in SENDERS}
    process = await relay_with(tmp_path, dub, secrets).start()
    yield process
    assert await process.stop() == 0


async def post(
    session: aiohttp.ClientSession,
    relay: RelayProcess,
    sender: Sender,
    document: dict[str, Any],
    **how: Any,
) -> Answer:
    headers, body = sender.signed(document, **how)
    return await post_raw(session, relay, sender.name, headers, body)


async def post_raw(
    session: aiohttp.ClientSession,
    relay: RelayProcess,
    name: str,
    headers: dict[str, str],
    body: bytes,
) -> Answer:
    url = f"{relay.url}/_dub/hooks/{name}"
    async with session.post(url, data=body, headers=headers) as answer:
        assert answer.content_type == "application/json"
        return answer.status, await answer.json()


async def ticket_of(
    session: aiohttp.ClientSession, relay: RelayProcess, click: str
) -> str:
    """What a page of the site gets for its visitor."""
    headers = ORIGIN | {"Cookie": f"dub_id={click}"}
    async with session.get(f"{relay.url}/_dub/ticket", headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        return str((await answer.json())["ticket"])


@pytest.mark.parametrize("sender", SENDERS, ids=lambda each: each.name)
async def test_from_the_click_to_dub_and_no_repeat_counts(
    sender: Sender,
    relay: RelayProcess,
    dub: SandboxDub,
    session: aiohttp.ClientSession,
) -> None:
    click = await dub.click()
    ticket = await ticket_of(session, relay, click)
    event = sender.event("u_1", ticket)

    status, first = await post(session, relay, sender, event)
    again = await post(session, relay, sender, event)
    another = await post(session, relay, sender, event, message_id="msg_2")

    assert (status, first["status"]) == (202, "queued")
    for repeat in (again, another):
        assert repeat[0] == 200
        assert (repeat[1]["status"], repeat[1]["id"]) == ("duplicate", first["id"])
    *sales, lead = await relay.settled(2 if sender.name == "stripe" else 1)
    assert [it["status"] for it in (*sales, lead)] == ["delivered"] * (1 + len(sales))
    assert lead["source"] == sender.name
    assert lead["clickId"] == click
    [counted] = await dub.state("leads")
    assert (counted["clickId"], counted["customerExternalId"]) == (click, "u_1")
    [customer] = await dub.state("customers")
    assert customer["name"] == "Ada Lovelace"
    assert customer["email"] == "ada@example.com"
    logged = json.dumps(relay.events)
    assert "lead.queued" in logged
    assert "ovelace" not in logged
    assert "ada@" not in logged
    assert ticket not in logged


async def test_what_is_forged_moved_or_old_is_refused_and_rolled_secrets_are_taken(
    dub: SandboxDub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """All providers in one relay, which is started anew with other secrets."""
    click = await dub.click()
    events = [(each, each.event(f"u_{each.name}", click)) for each in SENDERS]
    relay = relay_with(tmp_path, dub, {ENV[each.name]: each.secret for each in SENDERS})

    await relay.start()
    for sender, event in events:
        headers, body = sender.signed(event)
        forged = sender.signed(event, secret=sender.next_secret)
        stale = sender.signed(event, at=1_700_000_000)
        for sent in (forged, stale, (headers, body[:-1] + b" }"), ({}, body)):
            status, told = await post_raw(session, relay, sender.name, *sent)
            assert (status, told["error"]["code"]) == (401, "unauthorized")
            assert sender.secret not in told["error"]["message"]
    assert await relay.leads() == []
    assert await relay.stop() == 0

    for each in SENDERS:
        relay.environment[ENV[each.name]] = f"{each.next_secret},{each.secret}"
    await relay.start()
    for sender, event in events:
        old = await post(session, relay, sender, event)
        new = await post(session, relay, sender, event, secret=sender.next_secret)
        assert (old[0], new[0]) == (202, 200), sender.name
    assert await relay.stop() == 0

    for each in SENDERS:
        relay.environment[ENV[each.name]] = each.next_secret
    await relay.start()
    for sender, event in events:
        assert (await post(session, relay, sender, event))[0] == 401, sender.name
    assert await relay.stop() == 0


async def test_an_event_of_another_kind_is_ignored_and_no_click_is_told(
    relay: RelayProcess, session: aiohttp.ClientSession
) -> None:
    for sender in SENDERS:
        status, told = await post(session, relay, sender, sender.event("u_1", None))
        if sender.name == "stripe":
            assert (status, told["status"]) == (200, "ignored")
            assert told["sale"]["status"] == "queued"
            continue
        assert status == 202, sender.name
        assert told["status"] == "unattributed"
        assert "no click id" in told["reason"]
    update = {"type": "user.updated", "data": {"id": "u_1"}}
    status, told = await post(session, relay, BY_NAME["clerk"], update)
    assert (status, told["status"]) == (200, "ignored")
    assert [lead["source"] for lead in await relay.leads()] == ["stripe"]


async def test_without_a_secret_a_hook_answers_404_with_what_to_set(
    delivering: RelayProcess, session: aiohttp.ClientSession
) -> None:
    for sender in SENDERS:
        status, told = await post(session, delivering, sender, {})
        assert status == 404
        assert ENV[sender.name] in told["error"]["message"]


async def test_a_genuine_event_that_lacks_what_it_needs_is_refused_unless_it_blocks(
    relay: RelayProcess, session: aiohttp.ClientSession, dub: SandboxDub
) -> None:
    click = await dub.click()
    for name, path in (("clerk", "data"), ("workos", "data"), ("supabase", "user")):
        event = BY_NAME[name].event("x" * 101, click)
        too_long = await post(session, relay, BY_NAME[name], event)
        del event[path]["id"]
        nameless = await post(session, relay, BY_NAME[name], event, message_id="m2")
        if name == "supabase":
            assert [told["status"] for _, told in (too_long, nameless)] == [
                "ignored",
                "ignored",
            ]
            assert (too_long[0], nameless[0]) == (200, 200)
            assert "error" not in nameless[1]
        else:
            assert (too_long[0], nameless[0]) == (422, 422)


async def test_a_plain_click_id_of_the_users_is_not_enough_where_tickets_are_required(
    dub: SandboxDub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    sender = BY_NAME["clerk"]
    wanted = {ENV["clerk"]: sender.secret, "RELAY_HOOKS_REQUIRE_TICKET": "on"}
    relay = await relay_with(tmp_path, dub, wanted).start()
    try:
        click = await dub.click()
        _, plain = await post(session, relay, sender, sender.event("u_1", click))
        ticket = await ticket_of(session, relay, click)
        _, signed = await post(
            session, relay, sender, sender.event("u_1", ticket), message_id="msg_2"
        )
        assert plain["status"] == "unattributed"
        assert "require_ticket" in plain["reason"]
        assert signed["status"] == "queued"
    finally:
        assert await relay.stop() == 0


async def test_on_a_full_disk_supabases_sign_up_passes_and_others_come_again(
    relay: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    events = {
        name: BY_NAME[name].event(f"u_{name}", await dub.click())
        for name in ("clerk", "supabase")
    }
    assert relay.process is not None
    # A page of the database does not fit any more; a line of the spill file does.
    full, free = (4000, resource.RLIM_INFINITY), (resource.RLIM_INFINITY,) * 2
    resource.prlimit(relay.process.pid, resource.RLIMIT_FSIZE, full)
    headers, body = BY_NAME["clerk"].signed(events["clerk"])
    url = f"{relay.url}/_dub/hooks/clerk"
    async with session.post(url, data=body, headers=headers) as answer:
        assert answer.status == 503
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
    told = await post(session, relay, BY_NAME["supabase"], events["supabase"])
    resource.prlimit(relay.process.pid, resource.RLIMIT_FSIZE, free)

    assert (told[0], told[1]["status"]) == (202, "queued")
    [lead] = await relay.settled(1)
    assert lead["id"] == told[1]["id"]
    assert (lead["status"], lead["source"]) == ("delivered", "supabase")
    assert (await post(session, relay, BY_NAME["clerk"], events["clerk"]))[0] == 202
    assert len(await relay.settled(2)) == 2


async def test_a_locked_database_holds_no_supabase_sign_up_up(
    relay: RelayProcess,
    dub: SandboxDub,
    session: aiohttp.ClientSession,
    tmp_path: Path,
) -> None:
    sender = BY_NAME["supabase"]
    event = sender.event("u_1", await dub.click())
    with closing(sqlite3.connect(tmp_path / "relay.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        first = await post(session, relay, sender, event)
        other.execute("ROLLBACK")
    again = await post(session, relay, sender, event)

    assert (first[0], first[1]["status"]) == (202, "queued")
    assert again[1]["status"] in ("queued", "duplicate")
    [lead] = await relay.settled(1)
    assert lead["status"] == "delivered"
    assert len(await dub.state("leads")) == 1


async def test_a_stranger_is_slowed_down_and_a_signed_hook_passes_all_the_same(
    dub: SandboxDub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    sender = BY_NAME["clerk"]
    relay = await relay_with(tmp_path, dub, {ENV["clerk"]: sender.secret}).start()

    async def refused_at(name: str) -> tuple[int, dict[str, Any]]:
        async with session.post(f"{relay.url}/_dub/hooks/{name}") as answer:
            headers = {"Retry-After": answer.headers.get("Retry-After")}
            return answer.status, {**headers, **await answer.json()}

    try:
        first = await asyncio.gather(*map(refused_at, ["clerk"] * REFUSALS_PER_MINUTE))
        assert {status for status, _ in first} == {401}
        # Some more are let through, as many as the time since then allows.
        for name in ("clerk", "signup"):
            more = await asyncio.gather(*map(refused_at, [name] * REFUSALS_PER_MINUTE))
            late = [body for status, body in more if status == 429]
            assert late
            assert {body["Retry-After"] for body in late} == {"1"}
            assert late[0]["error"]["code"] == "rate_limit_exceeded"
        event = sender.event("u_1", await dub.click())
        assert (await post(session, relay, sender, event))[0] == 202
    finally:
        assert await relay.stop() == 0


async def test_hooks_signup_takes_a_ticket_for_a_click_id(
    delivering: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    click = await dub.click()
    ticket = await ticket_of(session, delivering, click)
    body = {"clickId": ticket, "eventName": "Sign Up", "customerExternalId": "u_1"}

    assert (await post_hook(session, delivering.url, body))[0] == 202
    assert await post_hook(
        session, delivering.url, body | {"clickId": f"{ticket}x"}, "msg_2"
    ) == (202, {"id": None, "status": "unattributed"})

    assert [lead["clickId"] for lead in await delivering.leads()] == [click]


async def test_check_says_which_hooks_are_on(relay: RelayProcess) -> None:
    _, out, _ = await relay.run("check")

    [line] = [each for each in out.splitlines() if " hooks " in each]
    for sender in SENDERS:
        assert f"/_dub/hooks/{sender.name}" in line
    assert "off: dub" in line
