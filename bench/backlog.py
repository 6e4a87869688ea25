"""What 1,000,000 open leads cost a relay: its start, and its memory while delivering.

From starting the process to readyz answering 200, in turn with a small backlog, and
the highest resident memory (VmHWM) after some seconds of delivering to a stand-in
for Dub, with 256 calls in flight.

    python bench/backlog.py [--small 1000] [--large 1000000] [--rounds 3] [--seconds 15]
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from pathlib import Path

from claim import build, customers
from drain import API_PORT, DELAY_MS, counts, relay, stand_in
from ingest import Server

IN_FLIGHT = 256


def main() -> None:
    options = parse()
    sizes = (options.small, options.large)
    with tempfile.TemporaryDirectory() as folder:
        paths = {size: Path(folder) / f"{size}.db" for size in sizes}
        for size, path in paths.items():
            build(path, customers(size))
        with stand_in(API_PORT, DELAY_MS) as dub:
            print(f"{'open leads':>10} {'readyz after s':>14} {'MiB at start':>13}")
            for size, path in paths.items():
                runs = [start(path, dub) for _ in range(options.rounds)]
                took, memory = (
                    statistics.median(each) for each in zip(*runs, strict=True)
                )
                print(f"{size:10,} {took:14.2f} {memory:13.0f}", flush=True)
            made, most = deliver(paths[options.large], dub, options.seconds)
    print(
        f"{made:,} calls made from {options.large:,} open leads: {most:.0f} MiB at most"
    )


def start(path: Path, dub: Server) -> tuple[float, float]:
    """Seconds until the relay can take leads, and its memory by then in MiB."""
    began = time.monotonic()
    with relay(path, dub, 1, probe="/_dub/readyz") as ours:
        return time.monotonic() - began, memory_mib(ours)


def deliver(path: Path, dub: Server, seconds: float) -> tuple[int, float]:
    """Calls made, and the most memory that the relay ever had, in MiB."""
    before = counts(dub)["calls"]
    with relay(path, dub, IN_FLIGHT) as ours:
        time.sleep(seconds)
        return counts(dub)["calls"] - before, memory_mib(ours)


def memory_mib(server: Server) -> float:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) / 1024


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=1_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15)
    return parser.parse_args()


if __name__ == "__main__":
    main()
