"""What a hook costs in the relay itself: CPU time, without sockets and without wrk.

Signed hooks go from a connection's protocol to the commit on a real SQLite file, 64 of
them in a turn, as 64 busy callers send them. The CPU time of all threads a hook, the
shortest and the median of many rounds: other programs on the machine disturb it little.

    python bench/stages.py [--rounds 30] [--against OTHER_CHECKOUT] [--profile]

With --against the same is measured in another checkout, a process each, in turn; read
the ratio. With --profile where the loop's thread spends its time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import gc
import io
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import uvloop

from relay.app import Relay
from relay.config.settings import load
from relay.http.fast_path import FAST_PATHS
from relay.http.listener import ListenerRunner
from relay.observability import logging as logs
from relay.server.listeners import listener_limits

sys.path.insert(0, str(Path(__file__).parent))
from ingest import SECRET, write_bodies

CONNECTIONS = 64
TURNS = 25
HEAD = (
    "POST /_dub/hooks/signup HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"
    "webhook-id: {}\r\nwebhook-timestamp: {}\r\nwebhook-signature: {}\r\n"
    "content-type: application/json\r\nContent-Length: {}\r\n\r\n"
)


class Wire(asyncio.Transport):
    def __init__(self, bench: Bench) -> None:
        super().__init__({"peername": ("127.0.0.1", 5)})
        self._bench = bench

    def write(self, data: Any) -> None:
        self._bench.answered(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, *_: Any, **__: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        pass

    abort = close


class Bench:
    def __init__(self) -> None:
        self.missing = 0
        self.done = asyncio.Event()

    def answered(self, data: bytes) -> None:
        if not data.startswith(b"HTTP/1.1 202"):
            raise SystemExit(data[:200].decode())
        self.missing -= 1
        if not self.missing:
            self.done.set()


def hooks(folder: Path, number: int) -> list[bytes]:
    path = folder / "bodies"
    write_bodies(path, number)
    made = []
    for line in path.read_text().splitlines():
        name, stamp, signature, body = line.split(" ", 3)
        head = HEAD.format(name, stamp, signature, len(body))
        made.append((head + body).encode())
    return made


async def measure(options: argparse.Namespace, folder: Path) -> list[float]:
    settings = load(
        None,
        {
            "DUB_API_KEY": "dub_bench",
            "DUB_API_URL": "http://127.0.0.1:9",
            "RELAY_SECRET": "bench-secret-bench-secret",
            "RELAY_HOOK_SECRET": SECRET,
            "RELAY_LISTEN": "127.0.0.1:0",
            "RELAY_DATABASE": f"sqlite:///{folder}/relay.db",
        },
    )
    logs.configure(settings.log_level)
    requests = hooks(folder, options.rounds * TURNS * CONNECTIONS)
    async with AsyncExitStack() as stack:
        if hasattr(log := logs.get_logger(), "gathering"):
            stack.enter_context(log.gathering())
        relay = Relay(settings)
        await relay.start(stack, delivery=False)
        app = relay.application()
        fast_paths = app[FAST_PATHS]
        runner = ListenerRunner(
            app, fast_paths, limits=listener_limits(settings), access_log=None
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        bench = Bench()
        server = runner.server
        assert server is not None
        visitors = [server() for _ in range(CONNECTIONS)]
        for each in visitors:
            each.connection_made(Wire(bench))
        await asyncio.sleep(0)
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        profile = cProfile.Profile() if options.profile else None
        if profile:
            profile.enable()
        figures = []
        loops = time.thread_time()
        began = time.process_time()
        for start in range(0, len(requests), TURNS * CONNECTIONS):
            before = time.process_time()
            for turn in range(start, start + TURNS * CONNECTIONS, CONNECTIONS):
                bench.missing = CONNECTIONS
                bench.done.clear()
                for place, each in enumerate(visitors):
                    each.data_received(requests[turn + place])
                await bench.done.wait()
            spent = time.process_time() - before
            figures.append(spent / (TURNS * CONNECTIONS) * 1e6)
        share = (time.thread_time() - loops) / (time.process_time() - began)
        print(f"loop share {share:.2f}", file=sys.__stderr__)
        if profile:
            profile.disable()
            out = io.StringIO()
            pstats.Stats(profile, stream=out).sort_stats("tottime").print_stats(45)
            print(out.getvalue())
        if runner.fast_requests != len(requests):
            raise SystemExit("not every hook took the fast path")
    return figures


def here(options: argparse.Namespace) -> list[float]:
    sys.setswitchinterval(0.0005)
    with (
        tempfile.TemporaryDirectory() as folder,
        Path("/dev/null").open("w") as sink,
        contextlib.redirect_stderr(sink),
    ):
        return uvloop.run(measure(options, Path(folder)))


def there(checkout: Path, rounds: int) -> list[float]:
    command = [sys.executable, __file__, "--rounds", str(rounds), "--raw"]
    path = {"PYTHONPATH": str(checkout)}
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=path)
    return [float(each) for each in out.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--raw", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.raw:
        print(*here(options))
        return
    if options.against is None:
        say("here", here(options))
        return
    own: list[float] = []
    other: list[float] = []
    for _ in range(5):
        own += there(Path(__file__).parent.parent, options.rounds)
        other += there(options.against, options.rounds)
    say("here", own)
    say("there", other)
    print(
        f"here / there: shortest {min(own) / min(other):.3f},"
        f" medians {statistics.median(own) / statistics.median(other):.3f}"
    )


def say(name: str, figures: list[float]) -> None:
    print(
        f"{name:6} shortest {min(figures):6.1f} us, median"
        f" {statistics.median(figures):6.1f} us a hook"
    )


if __name__ == "__main__":
    main()
