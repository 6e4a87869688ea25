"""What removing the rows of old leads leaves of ingest.

A database with many finished leads of two years ago, each with its two calls; callers
store new leads in it, in turn with and without the removal job beside them (without,
with, with, without, ...): read the ratios; the CPU time a lead (PostgreSQL's not
counted) scatters less than the rate. How many rows went meanwhile shows that the job
was at work.

    TMPDIR=build python bench/removal.py [--rows 1000000] [--rounds 6] [--seconds 10]
        [--callers 64] [--postgres]

The database is made in TMPDIR, with --postgres by a server of its own: 10,000,000 rows
are some 8 GB.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fill import fill

from relay.core.clock import new_lead_id, now_ms
from relay.core.leads import Lead
from relay.operations.retention import DAY_MS, RowRemovalJob
from relay.outbox.backends import open_outbox
from relay.outbox.contract import NewLead, Outbox

OLD_MS = 730 * DAY_MS


class Round(NamedTuple):
    """Leads stored a second, CPU a lead in us, p99 of a store in ms, rows removed."""

    rate: float
    cpu: float
    p99: float
    removed: int


def main() -> None:
    options = parse()
    with database(options) as url:
        began = time.monotonic()
        fill(url, options.rows, 1, now_ms() - OLD_MS, calls=True)
        print(f"{options.rows:,} rows in {time.monotonic() - began:.0f} s", flush=True)
        asyncio.run(measured(url, options))


@contextlib.contextmanager
def database(options: argparse.Namespace) -> Iterator[str]:
    """Give the address of an empty database."""
    if not options.postgres:
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/relay.db"
        return
    sys.path.append(str(Path(__file__).parent.parent))
    from tests.support.postgres_server import postgres_server  # noqa: PLC0415 - the tests' own

    with postgres_server({"max_wal_size": "8GB"}) as server:
        yield server.new_url()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--postgres", action="store_true")
    return parser.parse_args()


async def measured(url: str, options: argparse.Namespace) -> None:
    outbox = open_outbox(url)
    await outbox.open()
    rounds: dict[bool, list[Round]] = {False: [], True: []}
    # The first seconds are slower: nothing is in memory yet.
    await one(outbox, options, removing=False)
    for number in range(options.rounds):
        for removing in (False, True) if number % 2 == 0 else (True, False):
            got = await one(outbox, options, removing=removing)
            rounds[removing].append(got)
            print(f"{'with' if removing else 'without':7}  {words(got)}", flush=True)
    alone = await one(outbox, options, removing=True, callers=0)
    await outbox.close()
    pairs = zip(rounds[True], rounds[False], strict=True)
    rates, cpu = zip(
        *((with_.rate / bare.rate, bare.cpu / with_.cpu) for with_, bare in pairs),
        strict=True,
    )
    print(
        f"removing leaves {spread(rates)} of the rate, {spread(cpu)} by CPU;"
        f" alone it removes {alone.removed / options.seconds:,.0f} rows/s"
    )


def spread(ratios: Sequence[float]) -> str:
    """Say the median, and between which quarters the rounds lie."""
    low, _, high = statistics.quantiles(ratios, n=4)
    return f"{statistics.median(ratios):.3f} ({low:.3f}-{high:.3f})"


def words(got: Round) -> str:
    return (
        f"{got.rate:8,.0f} leads/s  {got.cpu:6.1f} us  p99 {got.p99:6.1f} ms"
        f"  {got.removed:7,} removed"
    )


async def one(
    outbox: Outbox,
    options: argparse.Namespace,
    *,
    removing: bool,
    callers: int | None = None,
) -> Round:
    """Store leads for some seconds, with the job beside it or alone."""
    before = sum((await outbox.counts()).values())
    job = RowRemovalJob(outbox, days=400, for_ever=False, clock=outbox.now)
    beside = asyncio.create_task(job.sweep()) if removing else None
    end = time.monotonic() + options.seconds
    took: list[float] = []
    leads = new_leads()
    worked = time.process_time()
    callers = options.callers if callers is None else callers
    await asyncio.gather(*(caller(outbox, leads, end, took) for _ in range(callers)))
    worked = time.process_time() - worked
    await asyncio.sleep(end - time.monotonic())
    if beside is not None:
        beside.cancel()
        await asyncio.gather(beside, return_exceptions=True)
    removed = before + len(took) - sum((await outbox.counts()).values())
    p99 = statistics.quantiles(took, n=100)[-1] * 1000 if took else 0.0
    cpu = worked / len(took) * 1e6 if took else 0.0
    return Round(len(took) / options.seconds, cpu, p99, removed)


async def caller(
    outbox: Outbox, leads: Iterator[NewLead], end: float, took: list[float]
) -> None:
    while time.monotonic() < end:
        began = time.monotonic()
        await outbox.put(next(leads))
        took.append(time.monotonic() - began)


def new_leads() -> Iterator[NewLead]:
    for number in itertools.count():
        now = now_ms()
        lead_id = new_lead_id(now)
        customer = f"user_{lead_id[-16:]}{number}"
        lead = Lead(lead_id, "hook", lead_id[-16:], "Sign Up", customer, now)
        yield NewLead(lead, f"lead:{customer}:sign-up", now - 7 * DAY_MS)


if __name__ == "__main__":
    main()
