"""What attribution adds to a sign-up, and what a failing Dub costs: SDK and relay.

One small site, four ways to sign up on it: alone; with the official SDK called in
the handler, guarded, so that a failing Dub loses the lead and not the sign-up; with
the relay's hook called in the handler; and through the relay as a reverse proxy.

First the p50 of each way at one connection, in turn, minus that of the site alone,
with a stand-in for Dub that answers at once, and one that takes 100 ms. Then Dub
answers 500 for some seconds, while people sign up in each way; when it is well again
and the relay has had time to come to it, the leads that Dub has recorded are counted.

    python bench/peer.py [--requests 150] [--outage 10] [--each-second 20]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
from drain import counts, stand_in
from ingest import LOAD_CORE, SECRET, Server, free_port

SITE_PORT, RELAY_PORT, API_PORT = (free_port() for _ in range(3))
WAYS = ("alone", "sdk", "hook", "proxy")
COOKIE = {"Cookie": "dub_id=hQWlM0a9Zk3xY7bT"}

SITE = """
import json, time, aiohttp, uvloop
from aiohttp import web
from dub import Dub
from relay.core import signing

CLICK = "hQWlM0a9Zk3xY7bT"
keys = signing.parse_webhook_secrets({secret!r})
sdk = Dub(token="dub_bench", server_url={dub!r})

async def alone(request):
    return web.json_response({{"id": (await request.post())["id"]}})

async def with_sdk(request):
    user = (await request.post())["id"]
    try:
        await sdk.track.lead_async(request={{
            "click_id": CLICK, "event_name": "Sign Up", "customer_external_id": user}})
    except Exception:
        pass  # the sign-up must pass
    return web.json_response({{"id": user}})

async def with_hook(request):
    user = (await request.post())["id"]
    body = json.dumps({{"clickId": CLICK, "eventName": "Sign Up",
                        "customerExternalId": user}}).encode()
    headers = signing.sign_webhook(keys, user, int(time.time()), body)
    async with request.app["session"].post(
            {relay!r} + "/_dub/hooks/signup", data=body, headers=headers) as answer:
        assert answer.status == 202
    return web.json_response({{"id": user}})

async def session(app):
    async with aiohttp.ClientSession() as app["session"]:
        yield

app = web.Application()
app.cleanup_ctx.append(session)
app.router.add_get("/", lambda _: web.Response())
app.router.add_post("/alone", alone)
app.router.add_post("/proxy", alone)
app.router.add_post("/sdk", with_sdk)
app.router.add_post("/hook", with_hook)
uvloop.install()
web.run_app(app, host="127.0.0.1", port={port}, access_log=None, print=None)
"""

RULES = """
[[signup]]
path = "/proxy"
customer_external_id = "response.json.id"
"""


def main() -> None:
    options = parse()
    added = {delay: compare(delay, options.requests) for delay in (0, 100)}
    lost = asyncio.run(outage(options))
    print(
        "          p50 added, ms: Dub at once   in 100 ms   leads lost while Dub failed"
    )
    for way in WAYS[1:]:
        count, all_ = lost[way]
        print(
            f"{way:8} {added[0][way]:28.2f} {added[100][way]:11.2f}"
            f" {count:16,} of {all_:,}"
        )
    print(f"(the site alone answers in {added[0]['alone']:.2f} ms)")


def compare(delay_ms: int, requests: int) -> dict[str, float]:
    """Give the p50 of the site alone, and what each way adds to it, in ms."""
    with everything(delay_ms):
        took = asyncio.run(in_turn(requests))
    p50 = {way: statistics.median(times) for way, times in took.items()}
    return {way: p50[way] - (way != "alone") * p50["alone"] for way in WAYS}


async def in_turn(requests: int) -> dict[str, list[float]]:
    took: dict[str, list[float]] = {way: [] for way in WAYS}
    async with aiohttp.ClientSession(headers=COOKIE) as session:
        for number in range(-10, requests):
            for way in WAYS if number % 2 else WAYS[::-1]:
                started = time.perf_counter()
                await sign_up(session, way, f"{way}-{number}")
                if number >= 0:  # those before open connections
                    took[way].append((time.perf_counter() - started) * 1000)
    return took


async def sign_up(session: aiohttp.ClientSession, way: str, user: str) -> None:
    port = RELAY_PORT if way == "proxy" else SITE_PORT
    url = f"http://127.0.0.1:{port}/{way}"
    async with session.post(url, data={"id": user}) as answer:
        await answer.read()
        if answer.status != 200:
            raise SystemExit(f"{way}: the sign-up failed with {answer.status}")


async def outage(options: argparse.Namespace) -> dict[str, tuple[int, int]]:
    """Give the leads lost and the sign-ups made for each way."""
    made = options.outage * options.each_second
    with everything(0) as dub:
        async with aiohttp.ClientSession(headers=COOKIE) as session:
            await session.put(dub.url + "/failing", data="1")
            for number in range(made):
                for way in WAYS[1:]:
                    await sign_up(session, way, f"{way}-{number}")
                await asyncio.sleep(1 / options.each_second)
            await session.put(dub.url + "/failing", data="0")
            deadline = time.monotonic() + options.patience
            while time.monotonic() < deadline:
                found = await asyncio.to_thread(counts, dub)
                if found.get("hook", 0) + found.get("proxy", 0) == 2 * made:
                    break
                await asyncio.sleep(0.5)
    return {way: (made - found.get(way, 0), made) for way in WAYS[1:]}


@contextmanager
def everything(delay_ms: int) -> Iterator[Server]:
    """Run the stand-in for Dub, the relay and the site; give the first."""
    with (
        tempfile.TemporaryDirectory() as folder,
        stand_in(API_PORT, delay_ms) as dub,
        relay(Path(folder), dub) as ours,
        site(dub, ours),
    ):
        yield dub


def relay(folder: Path, dub: Server) -> Server:
    config = folder / "relay.toml"
    config.write_text(RULES)
    env = {
        "DUB_API_KEY": "dub_bench",
        "DUB_API_URL": dub.url,
        "RELAY_SECRET": "bench-secret-bench-secret",
        "RELAY_HOOK_SECRET": SECRET,
        "RELAY_LISTEN": f"127.0.0.1:{RELAY_PORT}",
        "RELAY_UPSTREAM": f"http://127.0.0.1:{SITE_PORT}",
        "RELAY_DATABASE": f"sqlite:///{folder}/relay.db",
        "RELAY_RATE": "1000000",
        "RELAY_RETRY_BASE": "1s",
        "RELAY_DRAIN": "10ms",
    }
    command = [sys.executable, "-m", "relay", "serve", "--config", str(config)]
    return Server(command, env, RELAY_PORT, "/_dub/livez")


def site(dub: Server, ours: Server) -> Server:
    code = SITE.format(secret=SECRET, dub=dub.url, relay=ours.url, port=SITE_PORT)
    return Server([sys.executable, "-c", code], {}, SITE_PORT, "/", core=LOAD_CORE)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=150)
    parser.add_argument("--outage", type=int, default=10, help="seconds")
    parser.add_argument("--each-second", type=int, default=20)
    parser.add_argument("--patience", type=float, default=60)
    return parser.parse_args()


if __name__ == "__main__":
    main()
