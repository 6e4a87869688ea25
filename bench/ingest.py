"""How many signed hooks a second the relay commits, beside bare aiohttp.

One server process on one core, wrk on the other, 64 connections, loopback, in
turn (bare, hook, bare, hook, ...): read the ratio, not the figures. The
CPU time of the server a request (user and system; PostgreSQL's not counted) scatters
less than the rates. Every answer is checked: the relay's own counters must show one
new lead a request.

    python bench/ingest.py [--rounds 5] [--seconds 5] [--connections 64] [--postgres]
        [--slow]

With --slow the same hooks are also sent to a relay without its fast path. With
--postgres the leads go to a PostgreSQL server that this starts on the load's core,
fsync on: the server's work and the load's share that core.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from relay.core import signing

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLUSw"  # a documentation key
SERVER_CORE, LOAD_CORE = "0", "1"
FAST_RELAY = ("-m", "relay")
SLOW_RELAY = (str(Path(__file__).with_name("_slow_relay.py")),)

BARE = """
import uvloop, asyncio
from aiohttp import web
async def hello(request): return web.Response(text="Hello, world")
app = web.Application(); app.router.add_get("/", hello)
uvloop.install()
web.run_app(app, host="127.0.0.1", port={port}, access_log=None, print=None)
"""

LUA = """
local lines = {{}}
for line in io.lines("{bodies}") do lines[#lines + 1] = line end
local i = 0
function request()
  i = i + 1
  local id, stamp, sig, body = lines[i]:match("^(%S+) (%S+) (%S+) (.*)$")
  return wrk.format("POST", "/_dub/hooks/signup", {{
    ["webhook-id"] = id, ["webhook-timestamp"] = stamp,
    ["webhook-signature"] = sig, ["content-type"] = "application/json"}}, body)
end
"""


class Figures(NamedTuple):
    """Requests a second, p99 in milliseconds, the server's CPU time a request in us."""

    rate: float
    p99: float
    cpu: float


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as folder, databases(options) as database:
        rows = []
        for round_ in range(options.rounds):
            runs: list[Callable[[Path, argparse.Namespace], Figures]] = [bare, hook]
            runs += [slow_hook] if options.slow else []
            order = runs if round_ % 2 == 0 else runs[::-1]
            options.database = database
            got = {each.__name__: each(Path(folder), options) for each in order}
            rows.append(got)
            say(f"round {round_ + 1}", [got])
    say("median", rows)


def say(title: str, rounds: list[dict[str, Figures]]) -> None:
    """Print one line: the figures of a round, or the medians of all."""
    bare_, hook_ = ([each[name] for each in rounds] for name in ("bare", "hook"))
    pairs = list(zip(bare_, hook_, strict=True))
    median = statistics.median
    print(
        f"{title:8} bare {median(b.rate for b in bare_):8,.0f}/s"
        f" {median(b.cpu for b in bare_):5.1f} us,"
        f" hook {median(h.rate for h in hook_):8,.0f}/s"
        f" {median(h.cpu for h in hook_):5.1f} us p99"
        f" {median(h.p99 for h in hook_):5.1f} ms;"
        f" ratio of rates {median(h.rate / b.rate for b, h in pairs):.3f},"
        f" of CPU {median(b.cpu / h.cpu for b, h in pairs):.3f}",
        flush=True,
    )
    if slow := [each["slow_hook"] for each in rounds if "slow_hook" in each]:
        pairs = list(zip(slow, hook_, strict=True))
        print(
            f"{'':8} without the fast path {median(s.rate for s in slow):8,.0f}/s"
            f" {median(s.cpu for s in slow):5.1f} us p99"
            f" {median(s.p99 for s in slow):5.1f} ms; with it"
            f" {median(h.rate / s.rate for s, h in pairs):.3f} of the rate,"
            f" {median(h.cpu / s.cpu for s, h in pairs):.3f} of the CPU",
            flush=True,
        )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--slow", action="store_true")
    return parser.parse_args()


@contextlib.contextmanager
def databases(options: argparse.Namespace) -> Iterator[Callable[[Path], str]]:
    """Give what makes an empty database for a run and names it."""
    if not options.postgres:
        yield lambda folder: f"sqlite:///{folder}/relay.db"
        return
    sys.path.append(str(Path(__file__).parent.parent))
    from tests.support.postgres_server import postgres_server  # noqa: PLC0415 - the tests' own

    everywhere = os.sched_getaffinity(0)
    with contextlib.ExitStack() as stack:
        # The server inherits it.
        os.sched_setaffinity(0, {int(LOAD_CORE)})
        server = stack.enter_context(postgres_server({}))
        os.sched_setaffinity(0, everywhere)
        yield lambda _: server.new_url()


def bare(_folder: Path, options: argparse.Namespace) -> Figures:
    port = free_port()
    with Server([sys.executable, "-c", BARE.format(port=port)], {}, port, "/") as it:
        return wrk(options, it, "/")


def slow_hook(folder: Path, options: argparse.Namespace) -> Figures:
    return hook(folder, options, SLOW_RELAY)


def hook(
    folder: Path, options: argparse.Namespace, relay: Sequence[str] = FAST_RELAY
) -> Figures:
    port = free_port()
    data = folder / uuid.uuid4().hex
    data.mkdir()
    env = {
        "DUB_API_KEY": "dub_bench",
        "DUB_API_URL": "http://127.0.0.1:9",
        "RELAY_SECRET": "bench-secret-bench-secret",
        "RELAY_HOOK_SECRET": SECRET,
        "RELAY_LISTEN": f"127.0.0.1:{port}",
        "RELAY_DATABASE": options.database(data),
    }
    bodies, script = data / "bodies", data / "load.lua"
    write_bodies(bodies, options.seconds * 30_000)
    script.write_text(LUA.format(bodies=bodies))
    command = [sys.executable, *relay, "serve", "--no-delivery"]
    with Server(command, env, port, "/_dub/livez") as server:
        figures = wrk(options, server, "", script)
        server.check_counters()
    shutil.rmtree(data)
    return figures


def write_bodies(path: Path, count: int, first: int = 0) -> None:
    keys = signing.parse_webhook_secrets(SECRET)
    now = int(time.time())
    with path.open("w") as out:
        for n in range(first, first + count):
            body = json.dumps(
                {
                    "clickId": f"click{n:011d}",
                    "eventName": "Sign Up",
                    "customerExternalId": f"user_{n}",
                    "customerName": "Ada Lovelace",
                    "customerEmail": f"ada{n}@example.com",
                    "customerAvatar": "https://example.com/avatars/ada.png",
                    "metadata": {"plan": "team", "source": "bench"},
                }
            ).encode()
            headers = signing.sign_webhook(keys, f"msg_{n}", now, body)
            # wrk splits on blanks: the JSON comes last.
            out.write(
                " ".join(
                    [
                        headers["webhook-id"],
                        headers["webhook-timestamp"],
                        headers["webhook-signature"],
                        body.decode(),
                    ]
                )
                + "\n"
            )


def free_port() -> int:
    """Ask the system for a port that nobody uses."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
        return port


class Server:
    """A server process on its own core, up when it answers, ended by SIGTERM."""

    def __init__(
        self,
        command: list[str],
        env: dict[str, str],
        port: int,
        path: str,
        core: str = SERVER_CORE,
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.probe = self.url + path
        self.command = ["taskset", "-c", core, *command]
        self.env = os.environ | env

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self.command, env=self.env, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        # A server that ended must not be taken for another one at its port.
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(self.probe, timeout=1).read()
            except OSError:
                time.sleep(0.05)
            else:
                return self
        raise SystemExit(f"{self.command} did not start")

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)

    def cpu_us(self) -> float:
        """CPU time, of all threads, user and system, in microseconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2]
        utime, stime = fields.split()[11:13]
        return (int(utime) + int(stime)) / os.sysconf("SC_CLK_TCK") * 1e6

    def check_counters(self, source: str = "hook") -> None:
        """Refuse figures of a run in which a request made no new lead."""
        text = urllib.request.urlopen(self.url + "/_dub/metrics").read().decode()
        counted = dict(
            re.findall(
                r'dub_relay_captured_total\{result="(\w+)",source="'
                rf'{source}"\}} (\S+)',
                text,
            )
        )
        if set(counted) != {"new"}:
            raise SystemExit(f"not every request made a new lead: {counted}")


def wrk(
    options: argparse.Namespace, server: Server, path: str, script: Path | None = None
) -> Figures:
    """Load a server; refuse any non-2xx."""
    command = [
        "taskset",
        "-c",
        LOAD_CORE,
        "wrk",
        "-t1",
        f"-c{options.connections}",
        f"-d{options.seconds}s",
        "--latency",
        server.url + path,
    ]
    if script:
        command += ["-s", str(script)]
    before = server.cpu_us()
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    spent = server.cpu_us() - before
    if "Non-2xx" in out or "Socket errors" in out:
        raise SystemExit(out)
    rate = float(re.search(r"Requests/sec:\s+(\S+)", out)[1])  # type: ignore[index]
    value, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", out).groups()  # type: ignore[union-attr]
    served = int(re.search(r"(\d+) requests in", out)[1])  # type: ignore[index]
    p99 = float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit]
    return Figures(rate, p99, spent / served)


if __name__ == "__main__":
    main()
