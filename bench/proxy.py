"""What the reverse proxy costs, beside other proxies in front of the same site.

nginx is the site and answers every request with 1 KB. One proxy process at a
time on one core, the site and wrk on the other, in interleaved rounds whose
order is reversed every other time: read the ratios, not the figures. Beside
the rates stands the proxy's own CPU time a request, which a busy machine
changes least. Rows that need a program that is not installed say so.

    python bench/proxy.py [--rounds 5] [--seconds 4] [--connections 64] [--only ours]
"""

from __future__ import annotations

import argparse
import contextlib
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
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROXY_CORE, LOAD_CORE = "0", "1"
SITE_PORT = 18320
FETCHED = Path(__file__).parents[1] / ".venv" / "servers" / "usr"
"""Where .ci/servers puts what the system does not have."""
TICKS = os.sysconf("SC_CLK_TCK")
IDLE = 1000

SITE = """
worker_processes 1; daemon off; pid {folder}/site.pid; error_log /dev/null;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000; client_body_temp_path {folder}/b;
  proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port} backlog=4096;
    location / {{ default_type text/html; return 200 "{page}"; }} }}
}}
"""

NGINX = """
worker_processes 1; daemon off; pid {folder}/proxy.pid; error_log /dev/null;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 100000000; client_body_temp_path {folder}/pb;
  proxy_temp_path {folder}/pp; fastcgi_temp_path {folder}/pf;
  uwsgi_temp_path {folder}/pu; scgi_temp_path {folder}/ps;
  upstream site {{ server 127.0.0.1:{site}; keepalive 256; }}
  server {{ listen 127.0.0.1:{port};
    location / {{ proxy_pass http://site; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_set_header Host $host; }} }}
}}
"""

CADDY = """
{{
  admin off
  auto_https off
}}
http://:{port} {{
  reverse_proxy 127.0.0.1:{site}
}}
"""

PLAIN = """
import aiohttp, uvloop
from aiohttp import web
from yarl import URL
HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "upgrade"}
async def session(app):
    connector = aiohttp.TCPConnector(limit=0)
    app["site"] = aiohttp.ClientSession(connector=connector, auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar())
    yield
    await app["site"].close()
async def proxy(request):
    headers = request.headers.copy()
    for name in HOP: headers.popall(name, None)
    headers["X-Forwarded-For"] = request.remote
    async with request.app["site"].request(request.method,
            URL("http://127.0.0.1:%s" + request.raw_path, encoded=True),
            headers=headers, allow_redirects=False,
            data=request.content if request.body_exists else None) as answer:
        reply = web.StreamResponse(status=answer.status, reason=answer.reason)
        for name, value in answer.headers.items():
            if name.lower() not in HOP: reply.headers.add(name, value)
        reply.content_length = answer.content_length
        await reply.prepare(request)
        async for data in answer.content.iter_any(): await reply.write(data)
        await reply.write_eof()
        return reply
app = web.Application()
app.cleanup_ctx.append(session)
app.router.add_route("*", "/{path:.*}", proxy)
uvloop.install()
web.run_app(app, host="127.0.0.1", port=%s, access_log=None, print=None)
"""

RULES = """
[[signup]]
path = "/signup"
customer_external_id = "form.email"
customer_email = "form.email"
customer_name = "form.name"
"""

# What a browser sends; a bare request would flatter every proxy alike.
BROWSER = {
    "Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8",
    "Accept-Encoding": "gzip, deflate, br",
    "Accept-Language": "en-GB,en;q=0.9",
    "Cookie": "session=4f1c9e2a7b; theme=dark",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/126",
}

SIGNUPS = """
local n, stamp = 0, os.time()
function request()
  n = n + 1
  return wrk.format("POST", "/signup", {
    ["Content-Type"] = "application/x-www-form-urlencoded",
    ["Cookie"] = "session=4f1c9e2a7b; dub_id=hQWlMnb8pKc2Zt5R"},
    "name=Ada+Lovelace&email=ada" .. stamp .. "x" .. n .. "%40example.com")
end
"""


@dataclass
class Figures:
    """What one run of one row gave."""

    rate: float
    p50: float
    cpu: float
    """Microseconds of the proxy's CPU time a request."""


@dataclass
class Row:
    """A proxy to measure, and the load that it gets."""

    name: str
    command: list[str]
    port: int
    env: dict[str, str]
    script: Path | None = None


def main() -> None:
    options = parse()
    os.environ["PATH"] += f":{FETCHED}/sbin:{FETCHED}/bin"
    # Short, since a unix socket or a pid file may stand in it.
    with tempfile.TemporaryDirectory() as name, site(Path(name)):
        rows = [row for row in every_row(Path(name)) if options.only in ("", row.name)]
        got: dict[str, list[Figures]] = {row.name: [] for row in rows}
        for turn in range(options.rounds):
            for row in rows if turn % 2 == 0 else reversed(rows):
                got[row.name].append(measure(row, options, options.connections))
            told = ", ".join(
                f"{name} {seen[-1].rate:,.0f}" for name, seen in got.items()
            )
            print(f"round {turn + 1}: {told}", flush=True)
        report(got)
        latencies(rows, options)
        for row in rows:
            if row.script is None:
                print(f"{IDLE} idle connections: {row.name} {idle_memory(row)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--only", default="")
    return parser.parse_args()


def report(got: dict[str, list[Figures]]) -> None:
    base = got.get("plain")
    for name, seen in got.items():
        line = (
            f"{name:8} {statistics.median(f.rate for f in seen):>9,.0f}/s"
            f"  {statistics.median(f.cpu for f in seen):6.1f} us of CPU a request"
        )
        if base:
            ratios = [f.rate / b.rate for f, b in zip(seen, base, strict=True)]
            line += (
                f"  {statistics.median(ratios):5.2f} x plain"
                f" ({min(ratios):.2f}-{max(ratios):.2f})"
            )
        print(line)
    for name, other in (("ours", "caddy"), ("signups", "ours")):
        if name in got and other in got:
            ratios = [
                f.rate / b.rate for f, b in zip(got[name], got[other], strict=True)
            ]
            print(
                f"{name} / {other}: {statistics.median(ratios):.2f}"
                f" ({min(ratios):.2f}-{max(ratios):.2f})"
            )


def latencies(rows: list[Row], options: argparse.Namespace) -> None:
    """Print the median at one connection, the straight way beside each proxy."""
    straight = []
    got: dict[str, list[float]] = {row.name: [] for row in rows}
    for _ in range(options.rounds):
        straight.append(wrk(SITE_PORT, None, options.seconds, 1)[1])
        for row in rows:
            got[row.name].append(measure(row, options, 1).p50)
    base = statistics.median(straight)
    print(f"p50 at one connection: straight {base:.3f} ms")
    for name, seen in got.items():
        p50 = statistics.median(seen)
        print(f"p50 at one connection: {name} {p50:.3f} ms, added {p50 - base:.3f} ms")


def every_row(folder: Path) -> Iterator[Row]:
    ports = iter(range(SITE_PORT + 1, SITE_PORT + 10))
    plain, ours, signups, caddy, nginx = (next(ports) for _ in range(5))
    yield Row("plain", [sys.executable, "-c", PLAIN % (SITE_PORT, plain)], plain, {})
    relay = [sys.executable, "-m", "relay", "serve", "--no-delivery"]
    yield Row("ours", relay, ours, relay_env(folder, ours))
    config, script = folder / "relay.toml", folder / "signups.lua"
    config.write_text(RULES)
    script.write_text(SIGNUPS)
    yield Row(
        "signups",
        [*relay, "--config", str(config)],
        signups,
        relay_env(folder, signups),
        script,
    )
    if path := shutil.which("caddy"):
        conf = folder / "Caddyfile"
        conf.write_text(CADDY.format(port=caddy, site=SITE_PORT))
        command = [path, "run", "--config", str(conf), "--adapter", "caddyfile"]
        # One process on one core, as the others.
        yield Row("caddy", command, caddy, {"GOMAXPROCS": "1", "HOME": str(folder)})
    else:
        print("caddy is not installed: no row for it")
    conf = folder / "nginx-proxy.conf"
    conf.write_text(NGINX.format(folder=folder, port=nginx, site=SITE_PORT))
    yield Row("nginx", [shutil.which("nginx") or "nginx", "-c", str(conf)], nginx, {})


def relay_env(folder: Path, port: int) -> dict[str, str]:
    return {
        "DUB_API_KEY": "dub_bench",
        "DUB_API_URL": "http://127.0.0.1:9",
        "RELAY_SECRET": "bench-secret-bench-secret",
        "RELAY_LISTEN": f"127.0.0.1:{port}",
        "RELAY_UPSTREAM": f"http://127.0.0.1:{SITE_PORT}",
        "RELAY_DATABASE": f"sqlite:///{folder}/{port}.db",
        "RELAY_DRAIN": "10ms",
        # All the load comes from one address.
        "RELAY_MAX_CONNECTIONS": "0",
    }


@contextlib.contextmanager
def site(folder: Path) -> Iterator[None]:
    if not shutil.which("nginx") or not shutil.which("wrk"):
        raise SystemExit("bench/proxy.py needs nginx and wrk")
    conf = folder / "site.conf"
    page = "x" * 1024
    conf.write_text(SITE.format(folder=folder, port=SITE_PORT, page=page))
    with running(["nginx", "-c", str(conf)], SITE_PORT, {}, LOAD_CORE):
        yield


@contextlib.contextmanager
def running(
    command: list[str], port: int, env: dict[str, str], core: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server on a core of its own, up when it answers."""
    process = subprocess.Popen(
        ["taskset", "-c", core, *command],
        env=os.environ | env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(port, process)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1).read()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"{process.args!r} did not start")


def measure(row: Row, options: argparse.Namespace, connections: int) -> Figures:
    with running(row.command, row.port, row.env, PROXY_CORE) as process:
        wrk(row.port, row.script, 1, connections)  # warm
        before = cpu_seconds(process.pid)
        rate, p50, count = wrk(row.port, row.script, options.seconds, connections)
        cpu = cpu_seconds(process.pid) - before
        if row.script is not None:
            check_counters(row.port, count)
    return Figures(rate, p50, cpu / count * 1e6)


def check_counters(port: int, count: int) -> None:
    """Refuse figures of a run in which sign-ups made no leads."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/_dub/metrics").read()
    counted = re.findall(
        r'dub_relay_captured_total\{result="(\w+)",source="proxy"\} (\S+)',
        text.decode(),
    )
    new = sum(float(value) for result, value in counted if result == "new")
    if new < count:
        raise SystemExit(f"{count} sign-ups made {new:.0f} leads: {counted}")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its children."""
    total = 0
    for each in [pid, *children(pid)]:
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def idle_memory(row: Row) -> str:
    """Resident memory with idle connections that have each asked once."""
    ask = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with running(row.command, row.port, row.env, PROXY_CORE) as process:
        before = resident(process.pid)
        peers = []
        for _ in range(IDLE):
            peer = socket.create_connection(("127.0.0.1", row.port))
            peer.sendall(ask)
            read = b""
            while not read.endswith(b"x" * 100):
                read += peer.recv(4096)
            peers.append(peer)
        after = resident(process.pid)
        for peer in peers:
            peer.close()
    return f"{after:.1f} MiB, {after - before:.1f} more than without them"


def resident(pid: int) -> float:
    pages = sum(
        int(Path(f"/proc/{each}/statm").read_text().split()[1])
        for each in [pid, *children(pid)]
    )
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def wrk(
    port: int, script: Path | None, seconds: int, connections: int
) -> tuple[float, float, int]:
    """Requests a second, the median in ms and their number; refuses any non-2xx."""
    command = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}"]
    command += [f"-d{seconds}s", "--latency", f"http://127.0.0.1:{port}/"]
    if script:
        command += ["-s", str(script)]
    else:
        for name, value in BROWSER.items():
            command += ["-H", f"{name}: {value}"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        raise SystemExit(out)
    rate = float(re.search(r"Requests/sec:\s+(\S+)", out)[1])  # type: ignore[index]
    count = int(re.search(r"(\d+) requests in", out)[1])  # type: ignore[index]
    value, unit = re.search(r"50%\s+([\d.]+)(us|ms|s)", out).groups()  # type: ignore[union-attr]
    return rate, float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit], count


if __name__ == "__main__":
    main()
