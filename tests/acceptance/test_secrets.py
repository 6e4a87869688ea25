"""Secrets at every way in: all of a list count, and a refusal tells none."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.harness import API_KEY, RelayProcess, post_hook

OLD, NEW, OTHER = (f"whsec_{letter * 32}" for letter in "ABC")
TOKENS = ("a-token-of-one-site", "a-token-of-another")

LEAD = {
    "clickId": "hQWlM0a9Zk3xY7bT",
    "eventName": "Sign Up",
    "customerExternalId": "u_1",
}


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[RelayProcess]:
    settings = {
        "RELAY_HOOK_SECRET": f"{NEW},{OLD}",
        "DUB_WEBHOOK_SECRET": f"{NEW},{OLD}",
        "RELAY_API_TOKEN": ",".join(TOKENS),
    }
    process = await RelayProcess(tmp_path, settings, ("--no-delivery",)).start()
    yield process
    assert await process.stop() == 0


async def from_dub(
    session: aiohttp.ClientSession, relay: RelayProcess, secret: str
) -> tuple[int, str]:
    body = json.dumps({"id": "evt_1", "event": "link.created", "data": {}}).encode()
    signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    async with session.post(
        f"{relay.url}/_dub/hooks/dub", data=body, headers={"Dub-Signature": signature}
    ) as answer:
        return answer.status, await answer.text()


async def track(
    session: aiohttp.ClientSession, relay: RelayProcess, key: str
) -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {key}"}
    url = f"{relay.url}/_dub/track/lead"
    async with session.post(url, json=LEAD, headers=headers) as answer:
        return answer.status, await answer.text()


async def test_every_secret_of_a_list_counts_at_every_way_in(
    relay: RelayProcess, session: aiohttp.ClientSession
) -> None:
    signed = [
        await post_hook(session, relay.url, LEAD, f"msg_{place}", secret=secret)
        for place, secret in enumerate((NEW, OLD, OTHER))
    ]
    dubs = [await from_dub(session, relay, secret) for secret in (NEW, OLD, OTHER)]
    keys = (API_KEY, *TOKENS, "dub_other")
    calls = [await track(session, relay, key) for key in keys]

    assert [status for status, _ in signed] == [202, 200, 401]
    assert [status for status, _ in dubs] == [200, 200, 401]
    assert [status for status, _ in calls] == [200, 200, 200, 401]
    assert len(await relay.leads()) == 1


async def test_no_refusal_and_no_log_tells_a_secret_or_what_was_tried(
    relay: RelayProcess, session: aiohttp.ClientSession
) -> None:
    told: list[Any] = [
        await post_hook(session, relay.url, LEAD, secret=OTHER),
        await from_dub(session, relay, OTHER),
        *[await track(session, relay, key) for key in ("dub_guess", "guess", "")],
    ]

    text = json.dumps([told, relay.events])
    for secret in (OLD, NEW, OTHER, *TOKENS, API_KEY, "guess"):
        assert secret not in text
        assert secret.removeprefix("whsec_") not in text


async def test_the_line_that_sign_prints_is_taken_by_a_relay(
    relay: RelayProcess,
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("NO CURL HERE: the line of `sign --curl` was not run")
    url = f"{relay.url}/_dub/hooks/signup"
    body = json.dumps(LEAD | {"customerName": "O'Brien $(id) `id`"}).encode()
    _, line, _ = await relay.run("sign", "--curl", url, stdin=body)

    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", line), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 30)

    assert json.loads(out)["status"] == "queued"
    [lead] = await relay.leads()
    _, story, _ = await relay.run("leads", "show", lead["id"], "--json")
    assert json.loads(story)["customerName"] == "O'Brien $(id) `id`"
