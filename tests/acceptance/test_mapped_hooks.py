"""The recipes of docs/mapped-hooks.md, sent as each service sends and signs."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from tests.support.harness import RelayProcess, SandboxDub
from tests.support.provider_rig import WHSEC
from tests.support.samples import TOP, blocks

PAGE: Final = "docs/mapped-hooks.md"
FILES: Final = {
    each.file: each.text
    for each in blocks((TOP / PAGE).read_text("utf-8"), PAGE)
    if each.file is not None
}
SECRETS: Final = {
    "HUBSPOT_KEY": "hubspot-key-0123456789",
    "SEGMENT_SECRET": "segment-secret-0123456789",
    "TYPEFORM_SECRET": "typeform-secret-0123456789",
    "CAL_SECRET": "cal-secret-0123456789",
    "ZAPIER_USER_AND_PASSWORD": "zapier:a-password",
}

BASIC: Final = f"Basic {base64.b64encode(b'zapier:a-password').decode()}"


@asynccontextmanager
async def relay_with(
    folder: Path, dub: SandboxDub, *files: str
) -> AsyncIterator[RelayProcess]:
    relay = RelayProcess(folder, {"DUB_API_URL": dub.url, **SECRETS})
    relay.config = "\n".join(FILES[name] for name in files)
    await relay.start()
    try:
        yield relay
    finally:
        ended = await relay.stop()
    assert ended == 0


async def post(
    session: aiohttp.ClientSession,
    relay: RelayProcess,
    path: str,
    body: bytes,
    headers: dict[str, str],
) -> tuple[int, dict[str, Any]]:
    kind = {"Content-Type": "application/json"} | headers
    url = f"{relay.url}/_dub/hooks/{path}"
    async with session.post(url, data=body, headers=kind) as answer:
        return answer.status, await answer.json()


def digest(secret: str, body: bytes, algorithm: str = "sha256") -> bytes:
    return hmac.digest(SECRETS[secret].encode(), body, algorithm)


async def test_hubspot_a_contact_is_deferred_and_its_deals_stage_is_the_lead(
    dub: SandboxDub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    click = await dub.click()
    contact = {"email": "Ada@example.com", "firstname": "Ada", "dub_id": click}
    whole = {"vid": 1, "properties": {"email": {"value": "bob@example.com"}}}
    key = {"X-Relay-Key": SECRETS["HUBSPOT_KEY"]}
    async with relay_with(tmp_path, dub, "hubspot.toml") as relay:

        async def send(step: str, body: object, **headers: str) -> tuple[int, Any]:
            path = f"hubspot?step={step}"
            sent = json.dumps(body).encode()
            return await post(session, relay, path, sent, headers or key)

        created = await send("contact", contact)
        without = await send("contact", whole)
        await relay.settled(1)
        before = await dub.state("leads")
        staged = await send("deal", contact | {"dealstage": "qualifiedtobuy"})
        again = await send("deal", contact | {"dealstage": "qualifiedtobuy"})
        other = await send("ticket", contact)
        nobody = await send("deal", {"vid": 2})
        forged = await send("deal", contact, **{"X-Relay-Key": "another-key"})
        settled = await relay.settled(2)

        assert (created[0], created[1]["status"]) == (202, "queued")
        assert (without[0], without[1]["status"]) == (202, "unattributed")
        assert before == []
        assert (staged[0], staged[1]["status"]) == (202, "queued")
        assert (again[0], again[1]["status"]) == (200, "duplicate")
        assert (other[0], other[1]["status"]) == (200, "ignored")
        assert nobody[0] == 422
        assert "customer_external_id" in nobody[1]["error"]["message"]
        assert forged[0] == 401
        assert SECRETS["HUBSPOT_KEY"] not in json.dumps(forged)
        assert [it["status"] for it in settled] == ["delivered"] * 2
        assert {it["source"] for it in settled} == {"hubspot"}
        [lead] = await dub.state("leads")
        assert lead["eventName"] == "Qualified Lead"
        assert lead["clickId"] == click
        assert lead["metadata"] == {"stage": "qualifiedtobuy"}
        [customer] = await dub.state("customers")
        assert (customer["externalId"], customer["name"]) == ("ada@example.com", "Ada")
        assert "ada@" not in json.dumps(relay.events).lower()


def track(click: str, message: str = "ajs-1") -> dict[str, Any]:
    """A track call, as Segment forwards it."""
    return {
        "anonymousId": "23adfd82",
        "context": {
            "library": {"name": "analytics-node", "version": "2.1.0"},
            "traits": {"clickId": click, "email": "ada@example.com", "name": "Ada"},
        },
        "event": "Sign Up",
        "messageId": message,
        "properties": {"plan": "pro"},
        "timestamp": "2026-11-26T10:00:00.000Z",
        "type": "track",
        "userId": "u_1",
    }


async def test_segments_destination_signs_with_sha_1(
    dub: SandboxDub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    click = await dub.click()
    async with relay_with(tmp_path, dub, "segment.toml") as relay:

        async def send(event: dict[str, Any]) -> tuple[int, Any]:
            body = json.dumps(event).encode()
            signature = digest("SEGMENT_SECRET", body, "sha1").hex()
            signed = {"X-Signature": signature}
            return await post(session, relay, "segment", body, signed)

        told = [await send(track(click)), await send(track(click))]
        other = await send(track(click) | {"event": "Page Viewed"})
        unsigned = await post(session, relay, "segment", b"{}", {})
        [lead] = await relay.settled(1)

        assert [status for status, _ in told] == [202, 200]
        assert other[1]["status"] == "ignored"
        assert unsigned[0] == 401
        assert lead["status"] == "delivered"
        [counted] = await dub.state("leads")
        assert counted["customerExternalId"] == "u_1"
        assert counted["metadata"] == {"plan": "pro"}


SHELL = """
class RetryError extends Error {}
(async () => {
  const [url, secret, event] = process.argv.slice(2);
  const settings = { relayUrl: url, relaySecret: secret };
  await onTrack(JSON.parse(event), settings);
})();
"""
"""What Segment's runtime has around a function."""


async def test_segments_function_signs_as_standard_webhooks(
    dub: SandboxDub, tmp_path: Path
) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("NO NODE HERE: Segment's function was not run")
    script = tmp_path / "function.js"
    script.write_text(FILES["segment-function.js"] + SHELL)
    relay = RelayProcess(tmp_path, {"DUB_API_URL": dub.url, "SEGMENT_SECRET": WHSEC})
    config = FILES["segment.toml"]
    signed = 'scheme = "hmac"\nheader = "X-Signature"\nalgorithm = "sha1"\n'
    assert signed in config
    relay.config = config.replace(signed, 'scheme = "standard-webhooks"\n')
    await relay.start()

    try:
        for event in (track(await dub.click()), {"event": "Page Viewed"}):
            process = await asyncio.create_subprocess_exec(
                *(node, str(script), f"{relay.url}/_dub/hooks/segment", WHSEC),
                json.dumps(event),
            )
            assert await asyncio.wait_for(process.wait(), 60) == 0
        [lead] = await relay.settled(1)
    finally:
        assert await relay.stop() == 0

    assert lead["status"] == "delivered"
    assert lead["customerExternalId"] == "u_1"


async def test_typeform_cal_and_zapier_as_each_sends_and_signs(
    dub: SandboxDub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    click = await dub.click()
    form = {
        "event_id": "01H",
        "event_type": "form_response",
        "form_response": {
            "form_id": "f1",
            "token": "t1",
            "hidden": {"dub_id": click},
            "answers": [
                {"type": "text", "text": "Ada", "field": {"id": "a"}},
                {"type": "email", "email": "Ada@example.com", "field": {"id": "b"}},
            ],
        },
    }
    booking = {
        "triggerEvent": "BOOKING_CREATED",
        "createdAt": "2026-11-26T10:00:00.000Z",
        "payload": {
            "uid": "bFJeNb2uX8ANpT3JL5EfXw",
            "attendees": [{"email": "Bob@example.com", "name": "Bob"}],
            "responses": {
                "name": {"label": "your_name", "value": "Bob", "isHidden": False},
                "dub_id": {"label": "dub_id", "value": click, "isHidden": True},
            },
            "metadata": {"videoCallUrl": "https://app.cal.com/video/1"},
        },
    }
    linked = json.loads(json.dumps(booking)) | {"createdAt": "2026-11-26T11:00:00.000Z"}
    linked["payload"] |= {
        "uid": "another",
        "attendees": [{"email": "cy@example.com", "name": "Cy"}],
        # Where a booking had to be confirmed, older versions send no responses.
        "responses": None,
        "metadata": {"dub_id": click},
    }
    nobody = json.loads(json.dumps(form))
    nobody["form_response"]["answers"].pop()
    typed, booked = json.dumps(form).encode(), json.dumps(booking).encode()
    confirmed, unnamed = json.dumps(linked).encode(), json.dumps(nobody).encode()
    zapped = f"email=Eve%40example.com&dub_id={click}".encode()
    signature = base64.b64encode(digest("TYPEFORM_SECRET", typed)).decode()
    urlencoded = {"Content-Type": "application/x-www-form-urlencoded"}
    sent = [
        ("typeform", typed, {"Typeform-Signature": f"sha256={signature}"}),
        (
            "cal",
            booked,
            {"X-Cal-Signature-256": digest("CAL_SECRET", booked).hex()},
        ),
        ("zapier", zapped, urlencoded | {"Authorization": BASIC}),
    ]
    names = ("relay.toml", "cal.toml", "zapier.toml")
    async with relay_with(tmp_path, dub, *names) as relay:
        for path, body, headers in sent:
            status, told = await post(session, relay, path, body, headers)
            assert (status, told["status"]) == (202, "queued"), path
            unsigned = dict.fromkeys(headers, "sha256=00") | urlencoded
            assert (await post(session, relay, path, body, unsigned))[0] == 401, path
        by_link = {"X-Cal-Signature-256": digest("CAL_SECRET", confirmed).hex()}
        assert (await post(session, relay, "cal", confirmed, by_link))[0] == 202
        signature = base64.b64encode(digest("TYPEFORM_SECRET", unnamed)).decode()
        unsure = {"Typeform-Signature": f"sha256={signature}"}
        status, told = await post(session, relay, "typeform", unnamed, unsure)
        assert (status, told["status"]) == (200, "ignored")
        settled = await relay.settled(4)

        assert [it["status"] for it in settled] == ["delivered"] * 4
        leads = await dub.state("leads")
        assert {(it["customerExternalId"], it["eventName"]) for it in leads} == {
            ("ada@example.com", "Sign Up"),
            ("bob@example.com", "Booked a demo"),
            ("cy@example.com", "Booked a demo"),
            ("eve@example.com", "Sign Up"),
        }


LIST: Final = """
[[hook]]
path = "batch"
scheme = "bearer"
header = "X-Key"
secret = "batch-key-0123456789"
each = "json"
when = "json.event == 'Sign Up'"
customer_external_id = "json.userId"
click = "json.context.traits.clickId"
id = "json.messageId"
"""


async def test_a_list_of_events_makes_a_lead_of_each_and_comes_again_harmlessly(
    dub: SandboxDub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """As Segment's destination sends them with a batch size."""
    click = await dub.click()
    events: list[object] = [
        track(click, f"ajs-{number}") | {"userId": f"u_{number}"}
        for number in range(120)
    ]
    events[3:3] = [track(click) | {"event": "Page Viewed"}, {"event": "Sign Up"}, 7]
    relay = RelayProcess(tmp_path, {"DUB_API_URL": dub.url})
    relay.config = LIST
    await relay.start()

    try:
        key = {"X-Key": "batch-key-0123456789"}
        body = json.dumps(events).encode()
        first, again = [
            await post(session, relay, "batch", body, key) for _ in range(2)
        ]
        single = await post(
            session, relay, "batch", json.dumps(events[0]).encode(), key
        )
        none = await post(session, relay, "batch", b"[]", key)
        settled = await relay.settled(120, within=60)
    finally:
        assert await relay.stop() == 0

    assert (first[0], first[1]["status"]) == (202, "queued")
    assert (again[0], again[1]["status"]) == (200, "done")
    assert (none[0], none[1]) == (200, {"status": "done", "results": []})
    assert single[0] == 422
    words = [it["status"] for it in first[1]["results"]]
    assert words == ["queued"] * 3 + ["ignored"] * 3 + ["queued"] * 117
    assert "customer_external_id" in first[1]["results"][4]["reason"]
    assert [it["status"] for it in again[1]["results"]].count("duplicate") == 120
    ids = [it["id"] for it in first[1]["results"] if it["status"] == "queued"]
    assert sorted(it["id"] for it in settled) == sorted(ids)
    assert {it["status"] for it in settled} == {"delivered"}


async def test_where_tickets_are_wanted_a_mapped_hook_takes_no_plain_click(
    dub: SandboxDub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    click = await dub.click()
    relay = RelayProcess(
        tmp_path,
        {"DUB_API_URL": dub.url, "RELAY_HOOKS_REQUIRE_TICKET": "on", **SECRETS},
    )
    relay.config = FILES["zapier.toml"]
    await relay.start()

    try:
        headers = {"Sec-Fetch-Site": "same-origin", "Cookie": f"dub_id={click}"}
        async with session.get(f"{relay.url}/_dub/ticket", headers=headers) as answer:
            ticket = (await answer.json())["ticket"]
        told = []
        for value in (click, ticket):
            body = json.dumps({"email": "a@example.com", "dub_id": value}).encode()
            signed = {"Authorization": BASIC}
            told.append(await post(session, relay, "zapier", body, signed))
        await relay.settled(1)
    finally:
        assert await relay.stop() == 0

    assert told[0][1]["status"] == "unattributed"
    assert "require_ticket" in told[0][1]["reason"]
    assert told[1][0] == 202
