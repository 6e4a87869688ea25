"""What Dub's own API costs through the relay, beside the hook and beside Dub.

    python bench/api.py [--rounds 5] [--seconds 5] [--connections 64] [--signups 20]

First: `track/lead` a second, beside the signed hook, in interleaved rounds as in
bench/ingest.py. Then: what the Python SDK's call adds to a sign-up, through a relay
on loopback and straight to a Dub that answers in 100 ms, one after the other.
Read ratios.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path

import ingest
from dub import Dub

KEY = "dub_bench"

LUA = """
local i = 0
local headers = {{["authorization"] = "Bearer {key}",
  ["content-type"] = "application/json"}}
function request()
  i = i + 1
  return wrk.format("POST", "/_dub/track/lead", headers, string.format(
    '{{"clickId":"click%011d","eventName":"Sign Up","customerExternalId":"user_%d",'
    .. '"customerName":"Ada Lovelace","customerEmail":"ada%d@example.com",'
    .. '"customerAvatar":"https://example.com/avatars/ada.png",'
    .. '"metadata":{{"plan":"team","source":"bench"}}}}', i, i, i))
end
"""

SLOW_DUB = """
import asyncio, uvloop
from aiohttp import web
async def lead(request):
    await request.read()
    await asyncio.sleep(0.1)
    return web.json_response({{"click": {{"id": "x"}}, "link": None, "customer": {{
        "name": None, "email": None, "avatar": None, "externalId": "u"}}}})
async def at_once(request):
    await request.read()
    return web.json_response({{"click": {{"id": "x"}}, "link": None, "customer": {{
        "name": None, "email": None, "avatar": None, "externalId": "u"}}}})
async def alive(request): return web.Response(text="here")
app = web.Application()
app.router.add_post("/track/lead", lead)
app.router.add_post("/fast/track/lead", at_once)
app.router.add_get("/", alive)
uvloop.install()
web.run_app(app, host="127.0.0.1", port={port}, access_log=None, print=None)
"""


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


RELAY_PORT, DUB_PORT = free_port(), free_port()


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        rates(Path(folder), options)
        delays(Path(folder), options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--signups", type=int, default=20)
    options = parser.parse_args()
    options.database = lambda folder: f"sqlite:///{folder}/relay.db"
    return options


def rates(folder: Path, options: argparse.Namespace) -> None:
    rows = []
    for round_ in range(options.rounds):
        order = [ingest.hook, api] if round_ % 2 == 0 else [api, ingest.hook]
        got = {run: run(folder, options) for run in order}
        rows.append((got[ingest.hook], got[api]))
        say(f"round {round_ + 1}", rows[-1:])
    say("median", rows)


def say(title: str, rows: list[tuple[ingest.Figures, ingest.Figures]]) -> None:
    """Print one line: the figures of a round, or the medians of all."""
    median = statistics.median
    hook, lead = zip(*rows, strict=True)
    print(
        f"{title:8} hook {median(h.rate for h in hook):8,.0f}/s"
        f" {median(h.cpu for h in hook):5.1f} us,"
        f" track/lead {median(n.rate for n in lead):8,.0f}/s"
        f" {median(n.cpu for n in lead):5.1f} us;"
        f" ratio of rates {median(n.rate / h.rate for h, n in rows):.2f},"
        f" of CPU {median(h.cpu / n.cpu for h, n in rows):.2f}",
        flush=True,
    )


def api(folder: Path, options: argparse.Namespace) -> ingest.Figures:
    script = folder / "api.lua"
    script.write_text(LUA.format(key=KEY))
    with relay(folder, "--no-delivery") as server:
        figures = ingest.wrk(options, server, "", script)
        server.check_counters("api")
    return figures


def delays(folder: Path, options: argparse.Namespace) -> None:
    """Time the SDK's calls; the relay delivers to the slow Dub all the while."""
    dub = ingest.Server(
        [sys.executable, "-c", SLOW_DUB.format(port=DUB_PORT)], {}, DUB_PORT, "/"
    )
    with dub, relay(folder) as server:
        relayed = Dub(token=KEY, server_url=f"{server.url}/_dub")
        direct = Dub(token=KEY, server_url=dub.url)
        at_once = Dub(token=KEY, server_url=f"{dub.url}/fast")
        through, straight, least = [], [], []
        for n in range(options.rounds * options.signups):
            through.append(call(relayed, n))
            straight.append(call(direct, n))
            least.append(call(at_once, n))
    print(
        f"SDK call, median of {len(through)}: through the relay "
        f"{statistics.median(through):.2f} ms, straight to Dub "
        f"{statistics.median(straight):.2f} ms, to a bare server that answers at "
        f"once {statistics.median(least):.2f} ms"
    )


def call(client: Dub, n: int) -> float:
    started = time.perf_counter()
    client.track.lead(
        request={
            "click_id": "click00000000001",
            "event_name": "Sign Up",
            "customer_external_id": f"user_{n}",
        }
    )
    return (time.perf_counter() - started) * 1000


def relay(folder: Path, *arguments: str) -> ingest.Server:
    data = folder / uuid.uuid4().hex
    data.mkdir()
    env = {
        "DUB_API_KEY": KEY,
        "DUB_API_URL": f"http://127.0.0.1:{DUB_PORT}",
        "RELAY_SECRET": "bench-secret-bench-secret",
        "RELAY_LISTEN": f"127.0.0.1:{RELAY_PORT}",
        "RELAY_DATABASE": f"sqlite:///{data}/relay.db",
        "RELAY_API_RATE": "10000000",
    }
    command = [sys.executable, "-m", "relay", "serve", *arguments]
    return ingest.Server(command, env, RELAY_PORT, "/_dub/livez")


if __name__ == "__main__":
    main()
