"""What the reverse proxy costs, beside other proxies in front of the same site.

nginx is the site and answers every request with 1 KB. All proxies run on one
core and one of them is asked at a time; the site and wrk are on the other. In
interleaved rounds whose order is reversed every other time: read the ratios, not
the figures. Beside the rates stands the proxy's own CPU time a request, which a
busy machine changes least. Rows that need a program that is not installed say so.
"ours" is asked for pages, "posts" and "signups" are the relay with a rule and the
same form, which makes a lead at the rule's path only. With --slow each of the three
stands beside the same without the fast path. Takes about two minutes, three with it.

    python bench/proxy.py [--rounds 5] [--seconds 2] [--connections 64]
        [--only ours,plain] [--slow]
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
OURS = {"ours": None, "posts": "/login", "signups": "/signup"}
"""The relay's rows, and the path that a form goes to; None: a page is asked for."""
SLOW = " slow"
FAST_RELAY = ["-m", "relay"]
SLOW_RELAY = [str(Path(__file__).with_name("_slow_relay.py"))]

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
when = "response.status == `200`"  # the site answers all with one page
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

FORMS = """
local n, stamp = 0, tostring({}):sub(8)
function request()
  n = n + 1
  return wrk.format("POST", "/PATH", {
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
    signs_up: bool = False
    asked: int = 0


def main() -> None:
    options = parse()
    os.environ["PATH"] += f":{FETCHED}/sbin:{FETCHED}/bin"
    # Short, since a unix socket or a pid file may stand in it.
    with tempfile.TemporaryDirectory() as name, site(Path(name)):
        wanted = options.only.split(",") if options.only else None
        every = every_row(Path(name), slow=options.slow)
        rows = [r for r in every if not wanted or r.name in wanted]
        loaded = Loads({row.name: [] for row in rows}, {row.name: [] for row in rows})
        straight = []
        with contextlib.ExitStack() as stack:
            ran = {row.name: stack.enter_context(started(row)) for row in rows}
            for row in rows:
                wrk(row.port, row.script, 1, options.connections)  # warm
            for turn in range(options.rounds):
                straight.append(wrk(SITE_PORT, None, 1, 1)[1])
                for row in rows if turn % 2 == 0 else reversed(rows):
                    process = ran[row.name]
                    many = measure(row, process, options.seconds, options.connections)
                    loaded.many[row.name].append(many)
                    loaded.one[row.name].append(measure(row, process, 1, 1))
                print(f"round {turn + 1} of {options.rounds}", flush=True)
            for row in rows:
                if row.signs_up:
                    check_counters(row)
        idle = {row.name: idle_memory(row) for row in rows if row.script is None}
        report(loaded, statistics.median(straight), idle)


@dataclass
class Loads:
    """Figures of each row and round: with many connections, and with one."""

    many: dict[str, list[Figures]]
    one: dict[str, list[Figures]]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--only", default="", help="rows, separated by commas")
    parser.add_argument(
        "--slow", action="store_true", help="the relay also without its fast path"
    )
    return parser.parse_args()


def report(loads: Loads, straight: float, idle: dict[str, tuple[float, float]]) -> None:
    print(f"straight to the site, one connection: p50 {straight:.3f} ms")
    print(
        f"{'':12} {'requests/s':>10} {'x plain':>18} {'CPU us':>7}"
        f" {'p50 added, ms':>14} {'MiB, 1,000 idle':>16} {'of it for them':>15}"
    )
    for name, seen in loads.many.items():
        cpu = statistics.median(f.cpu for f in seen)
        rate = statistics.median(f.rate for f in seen)
        added = statistics.median(f.p50 for f in loads.one[name]) - straight
        whole, more = idle.get(name, (0.0, 0.0))
        memory = f"{whole:16.1f} {more:15.1f}" if whole else ""
        shown = ratio(loads, name, "plain") if "plain" in loads.many else ""
        print(f"{name:12} {rate:10,.0f} {shown:>18} {cpu:7.0f} {added:14.3f} {memory}")
    beside = [("ours", "caddy"), ("signups", "ours"), ("signups", "posts")]
    for name, other in (*beside, *((name, name + SLOW) for name in OURS)):
        if name in loads.many and other in loads.many:
            print(
                f"{name} / {other}: {ratio(loads, name, other)} of the requests/s,"
                f" {ratio(loads, name, other, cpu=True)} of the CPU a request"
            )


def ratio(loads: Loads, name: str, other: str, *, cpu: bool = False) -> str:
    """Give the median of a ratio within each round, and its range."""
    pairs = zip(loads.many[name], loads.many[other], strict=True)
    each = [a.cpu / b.cpu if cpu else a.rate / b.rate for a, b in pairs]
    return f"{statistics.median(each):.2f} ({min(each):.2f}-{max(each):.2f})"


def every_row(folder: Path, *, slow: bool) -> Iterator[Row]:
    ports = iter(range(SITE_PORT + 1, SITE_PORT + 10))
    plain, caddy, nginx = (next(ports) for _ in range(3))
    yield Row("plain", [sys.executable, "-c", PLAIN % (SITE_PORT, plain)], plain, {})
    (folder / "relay.toml").write_text(RULES)
    for name in OURS:
        yield relay_row(folder, name, next(ports), FAST_RELAY)
        if slow:
            yield relay_row(folder, name + SLOW, next(ports), SLOW_RELAY)
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


def relay_row(folder: Path, name: str, port: int, relay: list[str]) -> Row:
    """The relay, asked for a page or sent the form that one of the paths gets."""
    command = [sys.executable, *relay, "serve", "--no-delivery"]
    env = relay_env(folder, port)
    kind = name.removesuffix(SLOW)
    if (target := OURS[kind]) is None:
        return Row(name, command, port, env)
    script = folder / f"{name}.lua"
    script.write_text(FORMS.replace("/PATH", target))
    command += ["--config", str(folder / "relay.toml")]
    return Row(name, command, port, env, script, signs_up=kind == "signups")


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
        "RELAY_LIMITS_CONNECTIONS": "0",
        "RELAY_LIMITS_SIGNUP_RATE": "0",
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


def started(row: Row) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    return running(row.command, row.port, row.env, PROXY_CORE)


def measure(
    row: Row, process: subprocess.Popen[bytes], seconds: int, connections: int
) -> Figures:
    before = cpu_seconds(process.pid)
    rate, p50, count = wrk(row.port, row.script, seconds, connections)
    if not count:
        raise SystemExit(f"{row.name} answered nothing: the machine is too busy")
    row.asked += count
    return Figures(rate, p50, (cpu_seconds(process.pid) - before) / count * 1e6)


def check_counters(row: Row) -> None:
    """Refuse figures of a run in which sign-ups made no leads."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{row.port}/_dub/metrics").read()
    counted = re.findall(
        r'dub_relay_captured_total\{result="(\w+)",source="proxy"\} (\S+)',
        text.decode(),
    )
    new = sum(float(value) for result, value in counted if result == "new")
    if new < row.asked:
        raise SystemExit(f"{row.asked} sign-ups made {new:.0f} leads: {counted}")


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


def idle_memory(row: Row) -> tuple[float, float]:
    """Give what is resident with idle connections that have each asked once.

    In MiB, and what of it they have added.
    """
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
    return after, after - before


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
