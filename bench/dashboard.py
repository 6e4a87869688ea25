"""What looking costs: pages at 100 and at 1,000,000 leads, and ingest while many look.

Two relays on one core, one with few and one with many leads, are asked in turn, over
one connection each, signed in: medians, and the ratio of many to few. "Cold" is the
first request to a relay that has just started. Searches and the list's page 1,000 are
compared with the list's first page on the same relay.

Then hooks are sent to the relay with many leads, in turn with no dashboard open and
with 50 of them following live: five hooks a second, and what the server takes of its
core; and as many as 64 connections can, the ratio of the rates and of the CPU time a
hook. The first shows what the live views take, whatever else the machine does.

    python bench/dashboard.py [--small 100] [--large 1000000] [--rounds 60]
        [--starts 5] [--watchers 50] [--seconds 3] [--postgres]

With --postgres both are databases of one PostgreSQL server.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import ingest
from fill import fill
from ingest import SECRET, Server, databases, free_port, write_bodies

PASSWORD = "bench-password"
BOARD = "/_dub/dashboard"
PAGE = 50
DEEP = 1_000
SEGMENTS = 8
BODIES_A_SECOND = 30_000
TRICKLE_S = 8


class Relay(NamedTuple):
    """A relay with its database; ``url`` names that one."""

    name: str
    url: str
    folder: Path
    found: dict[str, str]

    @contextlib.contextmanager
    def running(self) -> Iterator[Server]:
        """Give a relay of its own process on this database, until the end."""
        port = free_port()
        env = {
            "DUB_API_KEY": "dub_bench",
            "DUB_API_URL": "http://127.0.0.1:9",
            "RELAY_SECRET": "bench-secret-bench-secret",
            "RELAY_HOOK_SECRET": SECRET,
            "RELAY_ADMIN_PASSWORD": PASSWORD,
            "RELAY_LISTEN": f"127.0.0.1:{port}",
            "RELAY_DATABASE": self.url,
        }
        command = [sys.executable, "-m", "relay", "serve", "--no-delivery"]
        with Server(command, env, port, "/_dub/livez") as server:
            yield server


class Reader:
    """One signed-in connection to a relay."""

    def __init__(self, server: Server, cookie: str) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
        self.headers = {"Cookie": cookie}

    def took(self, path: str) -> float:
        """Ask for a page; give milliseconds until it was there as a whole."""
        started = time.perf_counter()
        self.connection.request("GET", path, headers=self.headers)
        answer = self.connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {body[:200]!r}")
        return (time.perf_counter() - started) * 1000


def sign_in(server: Server) -> str:
    """Give the cookie of a new session: good until the secret changes."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
    form = urllib.parse.urlencode({"password": PASSWORD})
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", f"{BOARD}/sign-in", form, kind)
    cookie = connection.getresponse().getheader("Set-Cookie")
    if cookie is None:
        raise SystemExit("the dashboard took no password")
    return cookie.partition(";")[0]


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as name, databases(options) as database:
        relays = [
            make(size, Path(name), database) for size in (options.small, options.large)
        ]
        with relays[1].running() as server:
            cookie = sign_in(server)
            # What was filled in past the outbox is counted once, by who looks first.
            first = Reader(server, cookie).took("/_dub/metrics")
            print(f"the first count of all: {first:,.0f} ms")
        cold(relays, cookie, options.starts)
        warm(relays, cookie, options.rounds)
        watched(relays[1], cookie, options)


def make(size: int, folder: Path, database: Callable[[Path], str]) -> Relay:
    place = folder / str(size)
    place.mkdir()
    url = database(place)
    started = time.monotonic()
    found = fill(url, size, min(DEEP, size // PAGE) * PAGE - PAGE)
    print(f"{size:,} leads made in {time.monotonic() - started:.0f} s", flush=True)
    return Relay(f"{size:,}", url, place, found)


def cold(relays: list[Relay], cookie: str, starts: int) -> None:
    """The first overview after a start."""
    took: list[list[float]] = [[], []]
    for _ in range(starts):
        for relay, times in zip(relays, took, strict=True):
            with relay.running() as server:
                times.append(Reader(server, cookie).took(f"{BOARD}/"))
    say("overview, cold", *map(statistics.median, took))


def warm(relays: list[Relay], cookie: str, rounds: int) -> None:
    with relays[0].running() as few, relays[1].running() as many:
        readers = [Reader(few, cookie), Reader(many, cookie)]
        for name, path in (
            ("overview, warm", f"{BOARD}/"),
            ("overview's plots", f"{BOARD}/plots?hours=24"),
            ("list, page 1", f"{BOARD}/leads"),
            ("metrics", "/_dub/metrics"),
        ):
            say(name, *in_turn([(reader, path) for reader in readers], rounds))
        print(f"{'many leads alone':30} {'page 1':>9} {'this':>9}")
        first = f"{BOARD}/leads"
        for name, query in searches(relays[1].found):
            pairs = [(readers[1], first), (readers[1], f"{first}?{query}")]
            say(name, *in_turn(pairs, rounds))


def searches(found: dict[str, str]) -> Iterator[tuple[str, str]]:
    quoted = {name: urllib.parse.quote(value) for name, value in found.items()}
    yield f"page {DEEP:,}", f"before={quoted['deep']}"
    for status in ("delivered", "rejected", "unconfirmed"):
        yield f"state {status}", f"status={status}"
    yield "customer", f"customer={quoted['customer']}"
    yield "click", f"click={quoted['click']}"
    yield "a click of nobody", "click=NobodysClick0001"
    yield "usual event", "event=Sign+Up"
    yield "rare event", "event=Demo"
    yield "an event of nobody", "event=Nothing"
    yield "usual event, rare state", "event=Sign+Up&status=rejected"
    yield "rare event, usual state", "event=Demo&status=delivered"


def in_turn(asked: list[tuple[Reader, str]], rounds: int) -> list[float]:
    """Ask one after the other, over and over; give the medians."""
    took: list[list[float]] = [[] for _ in asked]
    for number in range(rounds + 2):
        for place in range(len(asked))[:: 1 if number % 2 else -1]:
            reader, path = asked[place]
            took[place].append(reader.took(path))
    # The first two of each fill caches.
    return [statistics.median(times[2:]) for times in took]


def watched(relay: Relay, cookie: str, options: argparse.Namespace) -> None:
    """Ingest without and with open dashboards, on the same relay."""
    rates: list[float] = []
    cpu: list[float] = []
    with relay.running() as server:
        trickle(relay, server, cookie, options.watchers)
        for number in range(SEGMENTS):
            got = {}
            for watchers in (0, options.watchers)[:: 1 if number % 2 else -1]:
                part = 2 * number + bool(watchers)
                with watching(server, cookie, watchers) as seen:
                    got[bool(watchers)] = load(relay, server, part, options)
                if watchers and not min(seen):
                    raise SystemExit(f"not every dashboard was kept up to date: {seen}")
            alone, beside = got[False], got[True]
            rates.append(beside.rate / alone.rate)
            cpu.append(beside.cpu / alone.cpu)
            print(
                f"ingest alone {alone.rate:6,.0f}/s {alone.cpu:5.0f} us p99"
                f" {alone.p99:5.1f} ms, beside {options.watchers} live views"
                f" {beside.rate:6,.0f}/s {beside.cpu:5.0f} us p99 {beside.p99:5.1f} ms",
                flush=True,
            )
        server.check_counters()
    print(
        f"median ratio of rates {statistics.median(rates):.3f}"
        f" ({min(rates):.3f}-{max(rates):.3f}), of CPU a hook"
        f" {statistics.median(cpu):.3f} ({min(cpu):.3f}-{max(cpu):.3f})"
    )


def trickle(relay: Relay, server: Server, cookie: str, watchers: int) -> None:
    """Say what share of a core the server takes, without and with live views."""
    bodies = relay.folder / "trickle"
    write_bodies(bodies, 1_000, 10**8)
    lines = iter(bodies.read_text().splitlines())
    for number in (0, watchers, 0, watchers):
        with watching(server, cookie, number):
            time.sleep(1)
            before, started = server.cpu_us(), time.monotonic()
            while time.monotonic() < started + TRICKLE_S:
                post(server, next(lines))
                time.sleep(0.2)
            spent = (server.cpu_us() - before) / 1e6 / (time.monotonic() - started)
            print(f"{number:3} live views, five hooks a second: {spent:.1%} of a core")


def post(server: Server, line: str) -> None:
    sent_id, stamp, signature, body = line.split(" ", 3)
    headers = {
        "webhook-id": sent_id,
        "webhook-timestamp": stamp,
        "webhook-signature": signature,
        "content-type": "application/json",
    }
    url = f"{server.url}/_dub/hooks/signup"
    request = urllib.request.Request(url, body.encode(), headers)
    urllib.request.urlopen(request).close()


def load(
    relay: Relay, server: Server, part: int, options: argparse.Namespace
) -> ingest.Figures:
    bodies, script = relay.folder / "bodies", relay.folder / "load.lua"
    count = options.seconds * BODIES_A_SECOND
    write_bodies(bodies, count, part * count)
    script.write_text(ingest.LUA.format(bodies=bodies))
    return ingest.wrk(options, server, "", script)


@contextlib.contextmanager
def watching(server: Server, cookie: str, watchers: int) -> Iterator[list[int]]:
    """Hold so many live views open; the list shows how many events each had."""
    netloc = urlsplit(server.url)
    sockets, seen = [], [0] * watchers
    ended = threading.Event()
    for _ in range(watchers):
        one = socket.create_connection((netloc.hostname or "", netloc.port or 0))
        one.sendall(
            f"GET {BOARD}/live HTTP/1.1\r\nHost: {netloc.netloc}\r\n"
            f"Cookie: {cookie}\r\n\r\n".encode()
        )
        one.setblocking(False)
        sockets.append(one)

    reader = Reader(server, cookie)

    def read() -> None:
        while not ended.wait(0.6):
            if sockets:
                # As often as so many pages ask for their plots.
                reader.took(f"{BOARD}/plots?hours=6")
            for place, one in enumerate(sockets):
                with contextlib.suppress(BlockingIOError):
                    while some := one.recv(65_536):
                        seen[place] += some.count(b"\n\n")

    reading = threading.Thread(target=read)
    reading.start()
    try:
        yield seen
    finally:
        ended.set()
        reading.join()
        for one in sockets:
            one.close()


def say(name: str, few: float, many: float) -> None:
    print(f"{name:30} {few:9.1f} {many:9.1f} ms  x {many / few:.2f}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=100)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--watchers", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--postgres", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(ingest.LOAD_CORE)})
    main()
