"""How many snippets a second the relay serves, beside bare aiohttp.

One server process on one core, wrk on the other, 64 connections, loopback, in
turn (bare, snippet, again, again, snippet, bare, ...): read the ratios, not the
figures. "bare" answers "Hello, world"; "snippet" is ``script.js`` as a browser
asks for it, in brotli; "again" asks for it with its ETag, and gets a 304.
Beside the rates stands the server's own CPU time a request, which a busy
machine changes least.

    python bench/script.py [--rounds 5] [--seconds 5] [--connections 64]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from ingest import BARE, Server, free_port, wrk

ACCEPTED = "gzip, deflate, br, zstd"
BARE_PORT, RELAY_PORT = free_port(), free_port()
SCRIPT = "/_dub/script.js"

LUA = """
wrk.headers["Accept-Encoding"] = "{accepted}"
wrk.headers["If-None-Match"] = '{etag}'
"""


@dataclass(frozen=True)
class Run:
    """What to ask of which server."""

    server: Server
    path: str
    script: Path

    def measure(self, options: argparse.Namespace) -> tuple[float, float]:
        """Requests a second, and microseconds of the server's CPU for each."""
        figures = wrk(options, self.server, self.path, self.script)
        return figures.rate, figures.cpu


def main() -> None:
    options = parse()
    command = [sys.executable, "-c", BARE.format(port=BARE_PORT)]
    with (
        tempfile.TemporaryDirectory() as name,
        Server(command, {}, BARE_PORT, "/") as bare,
        relay(folder := Path(name)) as ours,
    ):
        etag, size = ask(ours.url + SCRIPT)
        print(f"script.js: {size} bytes in brotli")
        runs = {
            "bare": Run(bare, "/", lua(folder, "bare", "")),
            "snippet": Run(ours, SCRIPT, lua(folder, "snippet", "")),
            "again": Run(ours, SCRIPT, lua(folder, "again", etag)),
        }
        compare(options, runs)


def compare(options: argparse.Namespace, runs: dict[str, Run]) -> None:
    rounds = []
    for round_ in range(options.rounds):
        order = list(runs) if round_ % 2 == 0 else list(reversed(runs))
        got = {name: runs[name].measure(options) for name in order}
        rounds.append(got)
        figures = (
            f"{name} {got[name][0]:,.0f}/s {got[name][1]:.1f} us" for name in runs
        )
        print(f"round {round_ + 1}: {', '.join(figures)}", flush=True)
    for name in ("snippet", "again"):
        rates = [got[name][0] / got["bare"][0] for got in rounds]
        times = [got["bare"][1] / got[name][1] for got in rounds]
        print(
            f"{name}: {statistics.median(rates):.2f} of bare aiohttp's rate "
            f"({min(rates):.2f}-{max(rates):.2f}), by CPU time "
            f"{statistics.median(times):.2f} ({min(times):.2f}-{max(times):.2f})"
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64)
    return parser.parse_args()


def relay(folder: Path) -> Server:
    env = {
        "DUB_API_KEY": "dub_bench",
        "DUB_API_URL": "http://127.0.0.1:9",
        "RELAY_SECRET": "bench-secret-bench-secret",
        "RELAY_LISTEN": f"127.0.0.1:{RELAY_PORT}",
        "RELAY_DATABASE": f"sqlite:///{folder}/relay.db",
    }
    command = [sys.executable, "-m", "relay", "serve", "--no-delivery"]
    return Server(command, env, RELAY_PORT, "/_dub/livez")


def ask(url: str) -> tuple[str, int]:
    """The ETag and the size of what a browser gets; refuses anything but brotli."""
    request = urllib.request.Request(url, headers={"Accept-Encoding": ACCEPTED})
    with urllib.request.urlopen(request) as answer:
        if answer.headers["Content-Encoding"] != "br":
            raise SystemExit(f"not in brotli: {answer.headers}")
        return answer.headers["ETag"], len(answer.read())


def lua(folder: Path, name: str, etag: str) -> Path:
    path = folder / f"{name}.lua"
    path.write_text(LUA.format(accepted=ACCEPTED, etag=etag))
    return path


if __name__ == "__main__":
    main()
