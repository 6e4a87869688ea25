"""``dub-relay demo``: the whole way in each of the three ways, by itself."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Final

import aiohttp
import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from relay.core.dub.track_lead import LeadFields
from relay.sandbox.app import DUB, make_dub, make_site
from relay.sandbox.demo import PORTS
from relay.sandbox.dub import Dub
from relay.sandbox.model import Link
from relay.sandbox.site import Hook
from relay.sandbox.walk import Town, walk

LIMIT_S: Final = 60.0
"""For the whole of a demo, on a machine that does other things as well."""

STEPS: Final = ["click", "cookie", "sign-up", "lead"]
WAYS: Final = ["script", "proxy", "hook"]


@asynccontextmanager
async def demo(
    *arguments: str, **environment: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the command; whatever happens, nothing of it stays."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relay", "demo", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | environment,
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def once(**environment: str) -> tuple[int, str, str]:
    async with demo("--once", **environment) as process:
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


def steps(output: str) -> dict[str, list[str]]:
    found = re.findall(r"^(script|proxy|hook) +(\S+)  +\S", output, re.MULTILINE)
    return {way: [step for its, step in found if its == way] for way in WAYS}


async def test_once_walks_all_three_ways_and_every_lead_arrives() -> None:
    code, out, err = await once()

    assert (code, err) == (0, ""), out + err
    assert steps(out) == dict.fromkeys(WAYS, STEPS)
    leads = re.findall(r"click (\w{16}), partner (\w+), signed: (\w+)", out)
    assert [(partner, signed) for _, partner, signed in leads] == [
        ("Ada", "yes"),
        ("Grace", "yes"),
        ("Alan", "yes"),
    ]
    assert re.findall(r"dub_id=(\w{16})", out) == [click for click, _, _ in leads]
    assert "3 of 3 leads arrived" in out


async def test_taken_ports_and_a_real_relays_settings_do_not_disturb_it() -> None:
    with ExitStack() as stack:
        for port in PORTS.values():
            held = stack.enter_context(socket.socket())
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                held.bind(("127.0.0.1", port))
                held.listen()
            except OSError:
                # Taken by something else: just what this test wants.
                continue
        code, out, err = await once(
            RELAY_LISTEN="nonsense", DUB_API_KEY="dub_real", RELAY_UPSTREAM="nonsense"
        )

    assert code == 0, out + err
    assert not [port for port in PORTS.values() if f"localhost:{port}" in out]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_runs_until_it_is_told_to_stop_and_leaves_nothing(
    number: signal.Signals,
) -> None:
    async with demo() as process:
        assert process.stdout is not None
        text = ""
        while "Ctrl-C" not in text:
            line = (await process.stdout.readline()).decode()
            assert line, "it ended by itself"
            text += line
        addresses = re.findall(r"^(?:Sandbox|Relay|Acme) +(\S+)", text, re.MULTILINE)
        assert len(addresses) == 3
        async with aiohttp.ClientSession() as session:
            for address in addresses:
                async with session.get(address) as answer:
                    assert answer.status == 200

        process.send_signal(number)
        await process.wait()

        assert process.returncode == 0
        async with aiohttp.ClientSession() as session:
            for address in addresses:
                with pytest.raises(aiohttp.ClientError):
                    await session.get(address)


async def walked(
    aiohttp_server: AiohttpServer, hook: web.Application, dub: web.Application
) -> tuple[bool, str]:
    """Walk a town in which something else takes the relay's place."""
    lines: list[str] = []
    relay, sandbox = await aiohttp_server(hook), await aiohttp_server(dub)
    address = str(relay.make_url("/")).replace("127.0.0.1", "localhost")
    site = make_site(
        hook=Hook(f"{address}hook", (b"k" * 32,)),
        script_src=f"{address}script.js",
    )
    server = await aiohttp_server(site)
    at = str(server.make_url("/")).replace("127.0.0.1", "localhost")
    dub[DUB].links["ada"] = Link("link_ada", "ada", "partner-ada", at, "Ada")
    town = Town(str(sandbox.make_url("/")), address, at, lambda _: "u", patience=0.5)
    good = await walk(town, lines.append)
    return good, "\n".join(lines)


def relay_that(take: Callable[[str], None]) -> web.Application:
    """Stand in for a relay whose hook does only this with a customer."""

    async def script(_: web.Request) -> web.StreamResponse:
        return web.Response(text="/* dub_id */", content_type="text/javascript")

    async def hook(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        take(body["customerExternalId"])
        return web.json_response({}, status=202)

    app = web.Application()
    app.router.add_get("/script.js", script)
    app.router.add_post("/hook", hook)
    return app


def recorder(dub: Dub) -> Callable[[str], None]:
    """Record every lead under a click that is not its visitor's."""

    def take(customer: str) -> None:
        other = dub.click(dub.links["grace"]).id
        dub.track_lead(LeadFields(other, "Sign Up", customer))

    return take


async def test_a_lead_that_does_not_arrive_fails_the_walk(
    aiohttp_server: AiohttpServer,
) -> None:
    good, lines = await walked(aiohttp_server, relay_that(lambda _: None), make_dub())

    assert not good
    assert re.search(r"script +FAILED +no lead within 0.5 s", lines)
    assert "0 of 3 leads arrived" in lines


async def test_a_lead_with_another_click_fails_the_walk(
    aiohttp_server: AiohttpServer,
) -> None:
    app = make_dub()

    good, lines = await walked(aiohttp_server, relay_that(recorder(app[DUB])), app)

    assert not good
    assert re.search(r"script +FAILED +the lead should have click \w{16}; has", lines)
