"""How fast a backlog drains into a Dub that answers each call in 100 ms.

With N calls in flight no more than N / 0.1 s can be made: the bench gives the share
of that limit which the relay reaches, two calls a lead, each settled and committed,
and the CPU time a call. The relay has one core, the stand-in for Dub the other.

    python bench/drain.py [--in-flight 64 256] [--seconds 6] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from claim import build, customers
from ingest import LOAD_CORE, Server, free_port

DELAY_MS = 100
API_PORT, RELAY_PORT = free_port(), free_port()
WARM_UP_S = 3
"""Connections are opened, the collector has settled."""


def main() -> None:
    options = parse()
    print("in flight  limit/s  calls/s  share  us CPU/call")
    for in_flight in options.in_flight:
        rounds = [measure(in_flight, options.seconds) for _ in range(options.rounds)]
        limit = in_flight * 1000 / DELAY_MS
        rate = statistics.median(rate for rate, _ in rounds)
        cpu = statistics.median(cpu for _, cpu in rounds)
        print(
            f"{in_flight:9} {limit:8,.0f} {rate:8,.0f} {rate / limit:6.3f} {cpu:12.0f}"
        )


def measure(in_flight: int, seconds: float) -> tuple[float, float]:
    """Calls a second while a backlog drains, and CPU of the relay for each, in us."""
    calls = in_flight * 1000 / DELAY_MS * (seconds + WARM_UP_S)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "relay.db"
        # More than can be sent in that time, at two calls a lead.
        build(path, customers(int(calls)))
        with stand_in(API_PORT, DELAY_MS) as dub, relay(path, dub, in_flight) as ours:
            time.sleep(WARM_UP_S)
            before, spent, started = counts(dub), ours.cpu_us(), time.monotonic()
            time.sleep(seconds)
            made = counts(dub)["calls"] - before["calls"]
            took = time.monotonic() - started
            return made / took, (ours.cpu_us() - spent) / max(made, 1)


def stand_in(port: int, delay_ms: float) -> Server:
    script = Path(__file__).with_name("_dub_api.py")
    command = [sys.executable, str(script), str(port), str(delay_ms)]
    return Server(command, {}, port, "/counts", core=LOAD_CORE)


def relay(
    path: Path, dub: Server, in_flight: int, probe: str = "/_dub/livez"
) -> Server:
    env = {
        "DUB_API_KEY": "dub_bench",
        "DUB_API_URL": dub.url,
        "RELAY_SECRET": "bench-secret-bench-secret",
        "RELAY_LISTEN": f"127.0.0.1:{RELAY_PORT}",
        "RELAY_DATABASE": f"sqlite:///{path}",
        "RELAY_DELIVERY_IN_FLIGHT": str(in_flight),
        "RELAY_RATE": "1000000",
        "RELAY_DRAIN": "10ms",
    }
    command = [sys.executable, "-m", "relay", "serve"]
    return Server(command, env, RELAY_PORT, probe)


def counts(dub: Server) -> dict[str, int]:
    with urllib.request.urlopen(dub.url + "/counts", timeout=5) as answer:
        found: dict[str, int] = json.load(answer)
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--in-flight", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
