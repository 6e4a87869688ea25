"""What removing the rows of old leads leaves of ingest.

A database with many finished leads of two years ago; callers store new leads in it, in
turn with and without the removal job beside them (without, with, with, without, ...):
read the ratios; the CPU time a lead (PostgreSQL's not counted) scatters less than the
rate. How many rows went meanwhile shows that the job was at work.

    python bench/removal.py [--leads 1000000] [--rounds 6] [--seconds 10]
        [--callers 64] [--database postgresql://user@host/empty]

Without --database it makes an SQLite file in a folder of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
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
    with tempfile.TemporaryDirectory() as folder:
        url = options.database or f"sqlite:///{folder}/relay.db"
        print(f"filling with {options.leads:,} leads", flush=True)
        fill(url, options.leads, 1, now_ms() - OLD_MS)
        asyncio.run(measured(url, options))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leads", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--database")
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
        f"removing leaves {statistics.median(rates):.3f} of the rate,"
        f" {statistics.median(cpu):.3f} by CPU;"
        f" alone it removes {alone.removed / options.seconds:,.0f} rows/s"
    )


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
