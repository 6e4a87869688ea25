"""From an acknowledged hook to a lead that Dub has recorded, whatever breaks."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from pytest_aiohttp import AiohttpServer

from tests.support.harness import RelayProcess, SandboxDub, post_hook


def body(click: str, customer: str = "u_1", **more: Any) -> dict[str, Any]:
    return {
        "clickId": click,
        "eventName": "Sign Up",
        "customerExternalId": customer,
        "customerName": "Ada",
    } | more


async def until(
    relay: RelayProcess, done: Callable[[list[dict[str, Any]]], bool]
) -> list[dict[str, Any]]:
    """Poll the ledger until it is as wanted; fail after a while."""
    deadline = time.monotonic() + 30
    while not done(leads := await relay.leads()):
        assert time.monotonic() < deadline, leads
        await asyncio.sleep(0.1)
    return leads


async def test_a_lead_is_proved_then_recorded_signed_and_credited_to_its_click(
    delivering: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    click = await dub.click("grace")
    await post_hook(session, delivering.url, body(click, metadata={"plan": "team"}))

    [lead] = await delivering.settled(1)

    assert (lead["status"], lead["attempts"]) == ("delivered", 2)
    assert lead["deliveredAt"] is not None
    [recorded] = await dub.state("leads")
    assert (recorded["clickId"], recorded["linkKey"]) == (click, "grace")
    assert (recorded["customerExternalId"], recorded["signed"]) == ("u_1", "yes")
    assert recorded["metadata"] == {"plan": "team"}
    code, story, _ = await delivering.run("leads", "show", lead["id"])
    assert code == 0
    assert click in story


@pytest.mark.parametrize(("steps", "kept"), [("2", True), ("1", False)])
async def test_an_avatar_that_proving_has_brought_is_not_lost_by_recording(
    dub: SandboxDub,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    steps: str,
    *,
    kept: bool,
) -> None:
    """Dub fetches an avatar at each call, and deletes it where that fails."""
    await dub.fault(avatar_fails=True, step="record")
    relay = RelayProcess(tmp_path, {"DUB_API_URL": dub.url})
    relay.environment["RELAY_DELIVERY_STEPS"] = steps
    await relay.start()

    lead = body(await dub.click(), customerAvatar="https://a.example/ada.png")
    await post_hook(session, relay.url, lead)
    [settled] = await relay.settled(1)

    assert await relay.stop() == 0
    assert settled["status"] == "delivered"
    [customer] = await dub.state("customers")
    assert (customer["avatar"] is not None) is kept


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 502},
        {"html": True},
        {"cut": "before"},
        {"status": 429, "retry_after": "0.2"},
        {"key": "revoked"},
        {"plan": "free"},
    ],
    ids=str,
)
@pytest.mark.parametrize("step", ["deferred", "record"])
async def test_a_fault_that_passes_costs_no_lead_and_doubles_none(
    delivering: RelayProcess,
    dub: SandboxDub,
    session: aiohttp.ClientSession,
    fault: dict[str, Any],
    step: str,
) -> None:
    await dub.fault(**fault, step=step, count=2)
    click = await dub.click()

    await post_hook(session, delivering.url, body(click))
    leads = await until(delivering, lambda found: found[0]["status"] == "delivered")

    assert leads[0]["attempts"] > 2
    assert len(await dub.state("leads")) == 1


@pytest.mark.parametrize("fault", [{"cut": "after"}, {"status": 502, "work": True}])
async def test_an_answer_lost_after_the_work_was_done_is_unconfirmed_not_doubled(
    delivering: RelayProcess,
    dub: SandboxDub,
    session: aiohttp.ClientSession,
    fault: dict[str, Any],
) -> None:
    await dub.fault(**fault, step="record", count=1)

    await post_hook(session, delivering.url, body(await dub.click()))
    [lead] = await delivering.settled(1)

    assert lead["status"] == "unconfirmed"
    assert len(await dub.state("leads")) == 1


async def test_a_click_that_dub_sees_late_is_waited_for_without_poisoning_its_key(
    delivering: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    click = await dub.click()
    await dub.fault(click_delay=1.0)

    await post_hook(session, delivering.url, body(click))
    await until(delivering, lambda found: found[0]["status"] == "delivered")

    [recorded] = await dub.state("leads")
    assert recorded["clickId"] == click


async def test_a_click_lost_between_the_two_calls_waits_for_dubs_key_to_expire(
    delivering: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    click = await dub.click()
    await dub.fault(click_delay=3600, step="record", count=1)

    await post_hook(session, delivering.url, body(click))
    [lead] = await until(delivering, lambda found: bool(found[0]["notes"]))

    assert lead["status"] == "waiting"
    assert "locked for a week" in lead["notes"][0]
    week = 7 * 86_400
    due = time.mktime(time.strptime(lead["nextAttemptAt"][:19], "%Y-%m-%dT%H:%M:%S"))
    assert due - time.mktime(time.gmtime()) > week


async def test_a_revoked_key_parks_every_lead_and_a_new_one_lets_all_go(
    delivering: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    await dub.fault(key="revoked")
    for n in range(5):
        await post_hook(
            session, delivering.url, body(await dub.click(), f"u_{n}"), f"m{n}"
        )
    leads = await until(
        delivering, lambda found: {lead["status"] for lead in found} == {"parked"}
    )
    assert len(leads) == 5
    async with session.get(f"{delivering.url}/_dub/metrics") as metrics:
        assert "dub_relay_delivery_parked 1.0" in await metrics.text()

    await dub.mend()
    await until(
        delivering, lambda found: {lead["status"] for lead in found} == {"delivered"}
    )

    assert len(await dub.state("leads")) == 5


async def test_dub_unreachable_at_start_keeps_leads_and_check_says_so(
    aiohttp_server: AiohttpServer, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    sandbox = await SandboxDub.start(aiohttp_server)
    click, port = await sandbox.click(), int(sandbox.url.rpartition(":")[2])
    clicks = sandbox.dub
    await sandbox.close()
    relay = await RelayProcess(tmp_path, {"DUB_API_URL": sandbox.url}).start()
    try:
        assert (await post_hook(session, relay.url, body(click)))[0] == 202
        await until(relay, lambda found: found[0]["attempts"] > 0)
        code, report, _ = await relay.run("check")
        assert code == 1
        assert "FAIL" in report

        back = await SandboxDub.start(aiohttp_server, port)
        back.dub.clicks.update(clicks.clicks)
        await until(relay, lambda found: found[0]["status"] == "delivered")

        assert [lead["clickId"] for lead in await back.state("leads")] == [click]
        await back.close()
    finally:
        assert await relay.stop() == 0


async def test_what_dub_will_never_take_is_rejected_with_its_reason_and_retried(
    delivering: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    async with session.post(
        f"{dub.url}/sandbox/links", json={"key": "ada", "disabled": True}
    ) as answer:
        assert answer.status == 200
    await post_hook(session, delivering.url, body(await dub.click()))
    [lead] = await delivering.settled(1)
    assert lead["status"] == "rejected"
    assert "disabled" in lead["lastError"]

    async with session.post(
        f"{dub.url}/sandbox/links", json={"key": "ada", "disabled": False}
    ) as answer:
        assert answer.status == 200
    dry = await delivering.run("leads", "retry", "--status", "rejected", "--dry-run")
    assert dry[0] == 0
    assert [x["status"] for x in await delivering.leads()] == ["rejected"]
    assert (await delivering.run("leads", "retry", lead["id"]))[0] == 0
    await until(delivering, lambda found: found[0]["status"] == "delivered")

    code, _, _ = await delivering.run("leads", "retry", lead["id"])
    assert code == 1


async def test_somebody_elses_lead_is_a_duplicate(
    delivering: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    click = await dub.click()
    async with session.post(
        f"{dub.url}/track/lead",
        json=body(click),
        headers={"Authorization": "Bearer dub_test_key"},
    ) as answer:
        assert answer.status == 200

    await post_hook(session, delivering.url, body(click))
    [lead] = await delivering.settled(1)

    assert lead["status"] == "duplicate"
    assert len(await dub.state("leads")) == 1


async def test_one_customers_leads_arrive_in_order_and_others_do_not_wait(
    delivering: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    click = await dub.click()
    await dub.fault(status=500, count=6)
    hooks = [
        body(click, mode="deferred"),
        body("", eventName="Qualified"),
        body("", eventName="Demo"),
    ]
    for n, hook in enumerate(hooks):
        await post_hook(session, delivering.url, hook, f"m{n}")
    await post_hook(session, delivering.url, body(await dub.click(), "u_2"), "other")

    leads = await delivering.settled(4)

    assert {lead["status"] for lead in leads} == {"delivered"}
    recorded = await dub.state("leads")
    events = [x["eventName"] for x in recorded if x["customerExternalId"] == "u_1"]
    assert events == ["Qualified", "Demo"]
    assert {x["clickId"] for x in recorded if x["customerExternalId"] == "u_1"} == {
        click
    }


async def test_an_unknown_customers_completing_lead_is_rejected_in_plain_words(
    delivering: RelayProcess, session: aiohttp.ClientSession
) -> None:
    await post_hook(session, delivering.url, body(""))

    [lead] = await delivering.settled(1)

    assert lead["status"] == "rejected"
    assert "no earlier click of this customer" in lead["lastError"]


@pytest.mark.slow
async def test_a_stop_gives_hanging_calls_back_and_the_next_start_delivers(
    dub: SandboxDub, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    await dub.fault(hang=60, step="deferred", count=1)
    relay = await RelayProcess(tmp_path, {"DUB_API_URL": dub.url}).start()
    await post_hook(session, relay.url, body(await dub.click()))
    await until(relay, lambda found: found[0]["status"] == "sending")

    assert await relay.stop(signal.SIGTERM) == 0

    assert [lead["status"] for lead in await relay.leads()] == ["waiting"]
    await relay.start()
    await until(relay, lambda found: found[0]["status"] == "delivered")
    assert await relay.stop() == 0
    assert len(await dub.state("leads")) == 1


@pytest.mark.slow
async def test_leads_are_taken_ahead_but_no_more_calls_made_than_may_be(
    dub: SandboxDub, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async def made() -> int:
        async with session.get(f"{dub.url}/sandbox/faults") as answer:
            [hanging] = (await answer.json())["faults"]
        return 100 - int(hanging["count"])

    await dub.fault(hang=60, count=100)
    environment = {"DUB_API_URL": dub.url, "RELAY_DELIVERY_IN_FLIGHT": "4"}
    relay = await RelayProcess(tmp_path, environment).start()
    for number in range(8):
        lead = body(await dub.click(), f"u_{number}")
        await post_hook(session, relay.url, lead, f"msg_{number}")

    await until(
        relay, lambda found: [one["status"] for one in found].count("sending") == 6
    )

    deadline = time.monotonic() + 30
    while await made() < 4:
        assert time.monotonic() < deadline

    assert await relay.stop() == 0
    # What was claimed ahead has made no call on its way back either.
    assert await made() == 4
    assert {lead["status"] for lead in await relay.leads()} == {"waiting", "queued"}


@pytest.mark.slow
async def test_killed_in_the_middle_of_a_load_every_acknowledged_lead_arrives_once(
    dub: SandboxDub, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    relay = RelayProcess(tmp_path, {"DUB_API_URL": dub.url, "RELAY_DUB_TIMEOUT": "2"})
    clicks = [await dub.click() for _ in range(50)]
    acknowledged: set[str] = set()
    sent = 0

    async def load(until_: asyncio.Event) -> None:
        nonlocal sent
        while not until_.is_set():
            n = sent = sent + 1
            hook = body(clicks[n % 50], f"u_{n}")
            try:
                status, _ = await post_hook(session, relay.url, hook, f"msg_{n}")
            except (aiohttp.ClientError, OSError):
                continue
            if status == 202:
                acknowledged.add(f"u_{n}")

    for _ in range(3):
        await relay.start()
        before, over = len(acknowledged), asyncio.Event()
        senders = [asyncio.create_task(load(over)) for _ in range(16)]
        while len(acknowledged) < before + 150:  # noqa: ASYNC110 - polls others
            await asyncio.sleep(0.01)
        await relay.stop(signal.SIGKILL)
        over.set()
        await asyncio.gather(*senders)

    # The leases of the dead must end first, so what they held comes last.
    await relay.start()
    leads = await relay.settled(len(acknowledged), within=120)
    assert await relay.stop() == 0

    ledger = {lead["customerExternalId"]: lead["status"] for lead in leads}
    assert acknowledged <= set(ledger)
    # A call that the kill cut off may have counted: then it is told as such.
    assert set(ledger.values()) <= {"delivered", "unconfirmed"}
    recorded = [lead["customerExternalId"] for lead in await dub.state("leads")]
    assert len(recorded) == len(set(recorded))
    assert acknowledged <= set(recorded)
    # The lines of the last moment may have gone with the process; the ledger has all.
    told = [event["lead"] for event in relay.events if event["event"] == "lead.queued"]
    assert len(told) > len(acknowledged) / 2
    assert len(told) == len(set(told))
    assert set(told) <= {lead["id"] for lead in leads}


async def test_a_dead_dub_is_probed_and_a_backlog_waits_in_line(
    delivering: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    await dub.fault(status=503)
    for n in range(40):
        hook = body(await dub.click(), f"u_{n}")
        await post_hook(session, delivering.url, hook, f"m{n}")

    await delivering.logged("delivery.dub_down")
    leads = await delivering.leads()
    assert not [lead for lead in leads if lead["status"] == "parked"]
    [waiting, *_] = [lead for lead in leads if lead["attempts"] == 0]
    _, story, _ = await delivering.run("leads", "show", waiting["id"])
    assert "Dub is down" in story

    await dub.mend()
    leads = await delivering.settled(40)
    assert {lead["status"] for lead in leads} == {"delivered"}
    assert len(await dub.state("leads")) == 40


async def test_429s_lower_the_rate_and_nothing_is_lost(
    delivering: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    # As Dub sends it, in epoch milliseconds, and as everybody else does.
    soon = str(int((time.time() + 2) * 1000))
    for retry_after in (soon, "0.5"):
        await dub.fault(status=429, retry_after=retry_after, count=2)
    for n in range(10):
        hook = body(await dub.click(), f"u_{n}")
        await post_hook(session, delivering.url, hook, f"m{n}")

    leads = await delivering.settled(10)

    assert {lead["status"] for lead in leads} == {"delivered"}
    assert len(await dub.state("leads")) == 10


@pytest.mark.parametrize("step", ["deferred", "record"])
async def test_a_call_that_hangs_is_given_up_and_made_again(
    dub: SandboxDub, tmp_path: Path, session: aiohttp.ClientSession, step: str
) -> None:
    await dub.fault(hang=30, step=step, count=1)
    relay = RelayProcess(tmp_path, {"DUB_API_URL": dub.url, "RELAY_DUB_TIMEOUT": "1"})
    await relay.start()

    await post_hook(session, relay.url, body(await dub.click()))
    [lead] = await relay.settled(1)

    assert lead["status"] == "delivered"
    _, story, _ = await relay.run("leads", "show", lead["id"])
    assert "Dub did not answer in time" in story
    assert len(await dub.state("leads")) == 1
    assert await relay.stop() == 0


async def test_an_answer_cut_in_the_middle_proves_nothing(
    delivering: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    await dub.fault(cut="mid-body", step="record", count=1)

    await post_hook(session, delivering.url, body(await dub.click()))
    [lead] = await delivering.settled(1)

    assert lead["status"] == "unconfirmed"
    assert len(await dub.state("leads")) == 1


async def test_a_slow_dub_slows_nothing_but_its_own_leads(
    delivering: RelayProcess, dub: SandboxDub, session: aiohttp.ClientSession
) -> None:
    await dub.fault(slow=1, count=2)
    for n in range(10):
        hook = body(await dub.click(), f"u_{n}")
        assert (await post_hook(session, delivering.url, hook, f"m{n}"))[0] == 202

    leads = await delivering.settled(10)

    assert {lead["status"] for lead in leads} == {"delivered"}
