"""How long a claim of 50 leads takes with 1,000 and with 1,000,000 open leads.

Three shapes of backlog, both sizes in turn, the commit included, medians:

- customers: every lead is another customer's, and all are due;
- lines: four leads a customer, all due; one of each four may go;
- outage: half of the leads wait for a later try, and behind each is a lead of the
  same customer that would be due; the leads of new customers come last of all.

    python bench/claim.py [--small 1000] [--large 1000000] [--rounds 300]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from relay.core.leads import Lead, LeadStatus
from relay.outbox.backends.sqlite import SqliteOutbox
from relay.outbox.backends.sqlite_file import connect_writer, make_file
from relay.outbox.contract import Claim, NewLead, Settlement
from relay.outbox.database import Row, for_sqlite
from relay.outbox.records import row_of, sql

NOW = 1_700_000_000_000
HOUR = 3_600_000
LEASE = 60_000
LIMIT = 50
FRESH = 400
"""Leads of new customers in the outage, enough for some claims."""

INSERT = for_sqlite(sql("INSERT INTO leads ({new_lead}) VALUES ({new_lead_values})"))


def row(number: int, customer: int, at: int) -> Row:
    lead = Lead(
        id=f"lead_{number:026}",
        source="hook",
        click_id=f"click{number:011}",
        event_name="Sign Up",
        customer_external_id=f"user_{customer * 7919 % 10**9:09}",
        created_at=at,
        customer_name="Ada Lovelace",
        customer_email=f"ada{number}@example.com",
        metadata={"plan": "team", "source": "bench"},
    )
    return row_of(NewLead(lead, f"lead:{number}", None))


def customers(count: int) -> Iterator[Row]:
    return (row(n, n, NOW - HOUR + n) for n in range(count))


def lines(count: int) -> Iterator[Row]:
    return (row(n, n // 4, NOW - HOUR + n) for n in range(count))


def outage(count: int) -> Iterator[Row]:
    half = count // 2
    yield from (row(n, n, NOW + HOUR) for n in range(half))
    yield from (row(half + n, n, NOW - HOUR + n) for n in range(half))
    yield from (row(count + n, count + n, NOW) for n in range(FRESH))


SHAPES = (customers, lines, outage)


def build(path: Path, rows: Iterator[Row]) -> None:
    """Write the backlog past the outbox, which would take its time."""
    make_file(path)
    connection = connect_writer(path)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN")
    connection.executemany(INSERT, rows)
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


async def claim(outbox: SqliteOutbox) -> tuple[float, list[Claim]]:
    """Claim once; give milliseconds and what was claimed."""
    started = time.perf_counter()
    claims = await outbox.claim(LIMIT, NOW, LEASE)
    return (time.perf_counter() - started) * 1000, claims


async def give_back(outbox: SqliteOutbox, claims: list[Claim]) -> None:
    """Put leads back to where they were, so that the backlog stays as it is."""
    for one in claims:
        end = Settlement(LeadStatus.QUEUED, due_at=one.entry.lead.created_at)
        await outbox.settle(one, end, NOW)


async def compare(paths: list[Path], rounds: int) -> list[list[float]]:
    outboxes = [SqliteOutbox(path) for path in paths]
    for outbox in outboxes:
        await outbox.open()
    took: list[list[float]] = [[] for _ in paths]
    for number in range(rounds):
        pairs = list(zip(outboxes, took, strict=True))
        for outbox, times in pairs if number % 2 else pairs[::-1]:
            spent, claims = await claim(outbox)
            times.append(spent)
            await give_back(outbox, claims)
    for outbox in outboxes:
        await outbox.close()
    return took


async def until_fresh(path: Path) -> tuple[int, float, float]:
    """Claim until leads come: how many claims, the longest and all of it in ms."""
    outbox = SqliteOutbox(path)
    await outbox.open()
    times = []
    while True:
        spent, claims = await claim(outbox)
        times.append(spent)
        if claims:
            break
    await give_back(outbox, claims)
    await outbox.close()
    return len(times), max(times), sum(times)


def main() -> None:
    options = parse()
    print(f"{'backlog':10} {'open leads':>12} {'median ms':>10} {'p95 ms':>8} ratio")
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            sizes = (options.small, options.large)
            paths = [Path(folder) / f"{size}.db" for size in sizes]
            for path, size in zip(paths, sizes, strict=True):
                build(path, shape(size))
                if shape is outage:
                    say_first_claims(size, path)
            took = asyncio.run(compare(paths, options.rounds))
        medians = [statistics.median(times) for times in took]
        for size, times, median in zip(sizes, took, medians, strict=True):
            p95 = statistics.quantiles(times, n=20)[-1]
            ratio = f"{median / medians[0]:.2f}"
            print(f"{shape.__name__:10} {size:12,} {median:10.2f} {p95:8.2f} {ratio}")


def say_first_claims(size: int, path: Path) -> None:
    count, longest, total = asyncio.run(until_fresh(path))
    print(
        f"{'outage':10} {size:12,} first leads after {count} claims "
        f"({longest:.1f} ms at most, {total:,.0f} ms in all)"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=1_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=300)
    return parser.parse_args()


if __name__ == "__main__":
    main()
