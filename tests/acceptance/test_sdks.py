"""The official SDKs, with nothing changed but their server URL.

Those that run here; the others are in test_sdks_recorded.py.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from dub import Dub
from dub.models import errors
from dub.utils import BackoffStrategy, RetryConfig

from tests.support.harness import API_KEY, RelayProcess, SandboxDub
from tests.support.servers import FETCHED

SCRIPTS = Path(__file__).parents[1] / "sdks"
PACKAGES = FETCHED / "sdks"

RETRIES = RetryConfig("backoff", BackoffStrategy(100, 1000, 1.5, 10_000), True)


def sdk(relay: RelayProcess, **options: Any) -> Dub:
    return Dub(token=API_KEY, server_url=f"{relay.url}/_dub", **options)


def lead(click: str, **more: Any) -> dict[str, Any]:
    return {
        "click_id": click,
        "event_name": "Sign Up",
        "customer_external_id": "u_1",
    } | more


async def node(script: str, *arguments: str) -> Any:
    """Run a script of tests/sdks with the packages beside; the JSON it prints."""
    if not (PACKAGES / "node_modules" / "@dub" / "better-auth").exists():
        pytest.skip("NO NODE.JS SDKS HERE: they were not tested with the relay")
    # From stdin: Node.js looks for packages from the working directory then.
    process = await asyncio.create_subprocess_exec(
        *("node", "--input-type=module", "-", *arguments),
        cwd=PACKAGES,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    source = (SCRIPTS / script).read_bytes()
    out, err = await asyncio.wait_for(process.communicate(source), 60)
    assert process.returncode == 0, err.decode()
    return json.loads(out.splitlines()[-1])


async def test_python_tracks_leads_and_sales(
    delivering: RelayProcess, dub: SandboxDub
) -> None:
    click = await dub.click()

    def calls() -> tuple[Any, Any, Any]:
        with sdk(delivering) as client:
            return (
                client.track.lead(request=lead(click, customer_name="Ada")),
                client.track.lead(request=lead(click, event_name="T", mode="wait")),
                client.track.sale(
                    request={"customer_external_id": "u_1", "amount": 4900}
                ),
            )

    first, waited, sale = await asyncio.to_thread(calls)
    await delivering.settled(3)

    assert (first.click.id, first.link, first.customer.name) == (click, None, "Ada")
    assert waited.link.key == "ada"
    assert (sale.event_name, sale.sale.amount) == ("Purchase", 4900)
    assert len(await dub.state("leads")) == 2
    assert len(await dub.state("sales")) == 1


async def test_python_tracks_asynchronously_and_reads_the_errors(
    delivering: RelayProcess, dub: SandboxDub
) -> None:
    async with sdk(delivering) as client:
        answer = await client.track.lead_async(request=lead(await dub.click()))
        nobody = lead("", mode="wait", customer_external_id="u_2")
        with pytest.raises(errors.BadRequest):
            await client.track.lead_async(request=nobody)
        with pytest.raises(errors.UnprocessableEntity, match="eventName is required"):
            await client.track.lead_async(request=lead("c" * 16, event_name=" "))
    async with Dub(token="dub_x", server_url=f"{delivering.url}/_dub") as stranger:
        with pytest.raises(errors.Unauthorized):
            await stranger.track.lead_async(request=lead("c" * 16))

    assert answer.customer.external_id == "u_1"


async def test_pythons_retries_understand_the_relay(
    tmp_path: Path, dub: SandboxDub
) -> None:
    settings = {
        "DUB_API_URL": dub.url,
        "RELAY_RETRY_BASE": "60s",
        "RELAY_API_RATE": "60",
    }
    relay = await RelayProcess(tmp_path, settings).start()
    click = await dub.click()
    try:
        async with sdk(relay, retry_config=RETRIES) as client:
            await dub.fault(status=500)
            # 503 at first; the repeat finds the lead kept.
            kept = await client.track.lead_async(request=lead(click, mode="wait"))
            # One more than the rate: told to wait in seconds, and waits so long.
            for n in range(60):
                some = lead(click, customer_external_id=f"u_{n}")
                await client.track.lead_async(request=some)
        leads = await relay.leads()
    finally:
        assert await relay.stop() == 0

    assert kept.link is None
    assert len(leads) == 60  # u_1 came twice


async def test_node_tracks_leads_and_sales(
    delivering: RelayProcess, dub: SandboxDub
) -> None:
    click = await dub.click()
    told = await node("dub.mjs", f"{delivering.url}/_dub", API_KEY, click)
    await delivering.settled(3)

    assert told["lead"]["click"] == {"id": click}
    assert told["wait"]["link"]["key"] == "ada"
    assert told["sale"]["sale"]["invoiceId"] == "in_node"
    assert told["error"] == ["Unauthorized", 401, "unauthorized"]
    assert len(await dub.state("leads")) == 2
    assert len(await dub.state("sales")) == 1


@pytest.mark.slow
async def test_a_better_auth_sign_up_becomes_a_lead_also_while_dub_hangs(
    delivering: RelayProcess, dub: SandboxDub
) -> None:
    url = f"{delivering.url}/_dub"
    first = await node("better-auth.mjs", url, API_KEY, await dub.click(), "a@x.com")
    [lead] = await delivering.settled(1)
    assert first["status"] == 200
    assert (lead["status"], lead["customerExternalId"]) == ("delivered", first["user"])

    await dub.fault(hang=3600)
    # It ends although Dub would let it wait for an hour.
    second = await node("better-auth.mjs", url, API_KEY, await dub.click(), "b@x.com")
    newest = (await delivering.leads())[0]
    assert second["status"] == 200
    assert newest["deliveredAt"] is None
    assert newest["customerExternalId"] == second["user"]
    await dub.mend()
    newest, _ = await delivering.settled(2, within=60)
    assert newest["status"] == "delivered"
