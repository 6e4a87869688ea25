"""Runs relays through faults while so many customers sign up; counts what is wrong.

``make chaos ARGS="--leads 20000 --database postgres --seed 1"``: relays are killed,
frozen and started again, PostgreSQL restarts, clocks are set, connections are cut, and
a strict Dub answers in all its moods. At the end everything is mended, and what Dub has
counted is compared with what the relays have acknowledged and say of it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import aiohttp
import uvloop

from relay.outbox.contract import OutboxUnavailableError
from tests.acceptance.test_clock import FakeClock
from tests.support.harness import API_KEY, RelayProcess, post_hook
from tests.support.postgres_server import PostgresServer, postgres_server

WEBHOOK_SECRET: Final = "chaos-webhook-secret"
LOADERS: Final = 48
MOODS: Final[tuple[dict[str, float], ...]] = (
    {},
    {"error_before": 0.2, "limit": 0.05},
    {"cut_after": 0.05, "cut_before": 0.05, "slow_before": 0.02},
    {"html_after": 0.05, "html_before": 0.1},
    {"error_after": 0.05, "slow_after": 0.02},
    {"error_before": 1.0},
    {"crash": 0.01, "lost_click": 0.01},
)


@dataclass
class Acknowledged:
    """What a relay has answered for."""

    leads: set[tuple[str, str]] = field(default_factory=set)
    sales: set[str] = field(default_factory=set)
    refused: int = 0


class Run:
    """One run: a Dub, relays, a load and what happens to them."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.dice = random.Random(options.seed)
        self.acknowledged = Acknowledged()
        self.faults: Counter[str] = Counter()
        self.relays: list[RelayProcess] = []
        self.clocks: list[FakeClock] = []
        self.busy: set[int] = set()
        self.postgres: PostgresServer | None = None
        self.dub_url = ""
        self.session: aiohttp.ClientSession
        self.numbers = iter(range(options.leads))
        self.done = asyncio.Event()
        self.started = time.monotonic()

    # --- What runs. ---

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            limits = aiohttp.TCPConnector(limit=0)
            timeout = aiohttp.ClientTimeout(total=15)
            self.session = await stack.enter_async_context(
                aiohttp.ClientSession(connector=limits, timeout=timeout)
            )
            await self._start_dub(stack)
            if self.options.database == "postgres":
                self.postgres = stack.enter_context(postgres_server({}))
            await self._start_relays(stack)
            self.started = time.monotonic()
            yield

    async def _start_dub(self, stack: contextlib.AsyncExitStack) -> None:
        port = free_port()
        self.dub_url = f"http://127.0.0.1:{port}"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.chaos.strict_dub"),
            *(str(port), str(self.options.seed)),
        )
        stack.push_async_callback(process.wait)
        stack.callback(process.kill)
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    await self.report()
                    return
                await asyncio.sleep(0.05)

    async def _start_relays(self, stack: contextlib.AsyncExitStack) -> None:
        shared = {
            "DUB_API_URL": self.dub_url,
            "DUB_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "RELAY_RATE": "1000000",
            "RELAY_RETRY_BASE": "0.2",
            "RELAY_RETRY_MAX": "2",
            "RELAY_DUB_TIMEOUT": "2",
            "RELAY_DELIVERY_SALE_WAITS": "1h",
            "RELAY_DELIVERY_STEPS": str(self.options.steps),
            "RELAY_RECONCILE_EVERY": "20",
            "RELAY_RECONCILE_AFTER": "60",
            "RELAY_RECONCILE_RATE": "16",
        }
        if self.postgres is not None:
            shared["RELAY_DATABASE"] = self.postgres.new_url()
        for n in range(3 if self.postgres else 1):
            folder = self.folder / str(n)
            folder.mkdir()
            clock = FakeClock(folder)
            here = {"RELAY_LISTEN": f"127.0.0.1:{free_port()}"}
            workers = () if self.postgres else ("--workers", "2")
            relay = RelayProcess(
                folder, shared | here | clock.environment, arguments=workers
            )
            await relay.start()
            stack.push_async_callback(relay.stop)
            self.relays.append(relay)
            self.clocks.append(clock)
        hooks = [f"{relay.url}/_dub/hooks/dub" for relay in self.relays]
        await self.set_mood({}, webhooks=hooks, secret=WEBHOOK_SECRET)

    async def set_mood(self, mood: dict[str, float], **more: Any) -> None:
        body = {"mood": mood, **more}
        async with self.session.post(f"{self.dub_url}/mood", json=body) as answer:
            assert answer.status == 200

    async def report(self) -> dict[str, Any]:
        async with self.session.get(f"{self.dub_url}/report") as answer:
            found: dict[str, Any] = await answer.json()
            return found

    # --- The load. ---

    async def load(self) -> None:
        for n in self.numbers:
            due = self.started + n / self.options.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            customer = f"u_{n}"
            kind = n % 10
            if kind == 9:
                # A sale, at times before its customer's lead.
                await asyncio.gather(
                    self.lead(f"u_{n}", "Sign Up"), self.sale(customer, n)
                )
                continue
            await self.lead(customer, "Sign Up")
            if kind in (3, 6):
                await self.lead(customer, "Trial")

    async def lead(self, customer: str, event: str) -> None:
        body = {
            "clickId": f"click{customer:>12}".replace(" ", "0").replace("_", "x"),
            "eventName": event,
            "customerExternalId": customer,
        }
        while True:
            n = self.dice.randrange(len(self.relays))
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                status, said = await post_hook(
                    self.session,
                    self.relays[n].url,
                    body,
                    f"msg_{customer}_{event[:4]}",
                    at=time.time() + self.clocks[n].ahead_s,
                )
                if status in (200, 202):
                    self.acknowledged.leads.add((customer, event.lower()))
                    return
                assert status in (401, 503), (status, said)
            self.acknowledged.refused += 1
            await asyncio.sleep(0.2)

    async def sale(self, customer: str, n: int) -> None:
        invoice = None if n % 20 == 19 else f"in_{n}"
        body = {
            "customerExternalId": customer,
            "amount": 100 + n,
            "invoiceId": invoice,
            "metadata": {"sale": f"sale_{n}"},
        }
        headers = {"Authorization": f"Bearer {API_KEY}"}
        if invoice is None:
            headers["Idempotency-Key"] = f"sale_{n}"
        while True:
            relay = self.dice.choice(self.relays)
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self.session.post(
                    f"{relay.url}/_dub/track/sale", json=body, headers=headers
                ) as answer:
                    if answer.status == 200:
                        self.acknowledged.sales.add(f"sale_{n}")
                        return
                    assert answer.status == 503, await answer.text()
            if invoice is None:
                return  # nobody can know whether it was stored: not sent again
            await asyncio.sleep(0.2)

    # --- What goes wrong. ---

    async def faults_until_done(self) -> None:
        while not self.done.is_set():
            await asyncio.sleep(self.dice.uniform(0.5, 2.0))
            what = self.dice.choice([self.kill, self.freeze, self.mood, self.step])
            if self.postgres is not None and self.dice.random() < 0.1:
                what = self.restart_postgres
            await what()

    async def kill(self) -> None:
        self.faults["killed"] += 1
        n = self.dice.randrange(len(self.relays))
        relay = self.relays[n]
        await relay.stop(signal.SIGKILL)
        await asyncio.sleep(self.dice.uniform(0, 2))
        # The workers of a killed parent end by themselves, and free the port.
        await relay.start()

    async def freeze(self) -> None:
        self.faults["frozen"] += 1
        process = self.dice.choice(self.relays).process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self.dice.uniform(0.2, 6))
        process.send_signal(signal.SIGCONT)

    async def mood(self) -> None:
        self.faults["moods"] += 1
        await self.set_mood(self.dice.choice(MOODS))

    async def step(self) -> None:
        self.faults["clock steps"] += 1
        clock = self.dice.choice(self.clocks)
        clock.set(self.dice.choice([0, 30, -30, 90, -90, 240, -240]))

    async def restart_postgres(self) -> None:
        assert self.postgres is not None
        self.faults["database restarts"] += 1
        await asyncio.to_thread(self.postgres.stop)
        await asyncio.sleep(self.dice.uniform(0, 3))
        await asyncio.to_thread(self.postgres.start)

    # --- The end. ---

    async def settled(self) -> list[dict[str, Any]]:
        """Mend everything, and wait until nothing moves but what waits for a key."""
        await self.set_mood({})
        deadline = time.monotonic() + self.options.settle
        while True:
            leads = await self.ledger()
            states = Counter(lead["status"] for lead in leads)
            moving = [
                lead
                for lead in leads
                # What Dub's list of events will show, or show the absence of.
                if lead["status"] in ("sending", "parked", "delivered", "unconfirmed")
                or (lead["status"] in ("queued", "waiting") and not waits_for_key(lead))
            ]
            telling = (await self.report())["telling"]
            if (not moving and not telling) or time.monotonic() > deadline:
                return leads
            print(f"  settling: {dict(states)}, webhooks under way: {telling}")
            await asyncio.sleep(5)

    async def ledger(self) -> list[dict[str, Any]]:
        """Read all leads, however long the database is busy."""
        while True:
            try:
                return await self.relays[0].leads()
            except OutboxUnavailableError as error:
                print(f"  the ledger cannot be read: {error}")
            await asyncio.sleep(5)

    def judge(self, leads: list[dict[str, Any]], dub: dict[str, Any]) -> dict[str, Any]:
        counted = {(customer, event): n for customer, event, n in dub["leads"]}
        claimed = {tuple(key) for key in dub["keys"]}
        sold: dict[str, int] = dub["sales"]
        said: dict[Any, dict[str, Any]] = {}
        for lead in leads:
            if lead["kind"] == "lead":
                said[lead["customerExternalId"], lead["eventName"].lower()] = lead
            else:
                said["sale_" + lead["customerExternalId"].removeprefix("u_")] = lead
        there = counted | sold
        mine = self.acknowledged.leads | self.acknowledged.sales
        by_state = {key: said[key]["status"] for key in said}
        ended = ("unconfirmed", "waiting", "queued")
        wrong = [
            (key, state)
            for key, state in by_state.items()
            if (state in ("delivered", "confirmed") and key not in there)
            or state in ("duplicate", "rejected", "parked", "sending")
            or (state in ("queued", "waiting") and not waits_for_key(said[key]))
        ]
        return {
            "acknowledged": len(mine),
            "not in the ledger": len([key for key in mine if key not in said]),
            "lost": len(
                [k for k in mine if k not in there and by_state.get(k) not in ended]
            ),
            "doubled": len([key for key, n in there.items() if n > 1]),
            "explained wrongly": len(wrong),
            "in doubt, counted": len(
                [k for k, s in by_state.items() if s == "unconfirmed" and k in there]
            ),
            "in doubt, not counted": len(
                [
                    k
                    for k, s in by_state.items()
                    if s == "unconfirmed" and k not in there
                ]
            ),
            "waiting for Dub's key": len(
                [k for k, s in by_state.items() if s == "waiting" and k in claimed]
            ),
            "behind one that waits": len(
                [k for k, s in by_state.items() if s == "queued"]
            ),
            "waiting, and counted": len(
                [k for k, s in by_state.items() if s == "waiting" and k in there]
            ),
            "states": dict(Counter(by_state.values())),
            "examples": [str(one) for one in wrong[:5]]
            + [str(key) for key, n in there.items() if n > 1][:5],
        }


def waits_for_key(lead: dict[str, Any]) -> bool:
    """Whether it waits for Dub's key, or behind a lead of its customer that does."""
    due = datetime.fromisoformat(lead["nextAttemptAt"] or "1970-01-01T00:00:00Z")
    return due - datetime.now(UTC) > timedelta(days=1)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def main(options: argparse.Namespace) -> int:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="relay-chaos-") as folder:
        run = Run(options, Path(folder))
        async with run.running():
            faults = asyncio.create_task(run.faults_until_done())
            loading = asyncio.gather(*(run.load() for _ in range(LOADERS)))
            while not loading.done():
                await asyncio.wait([loading], timeout=10)
                taken = len(run.acknowledged.leads) + len(run.acknowledged.sales)
                print(f"  {taken} acknowledged, {dict(run.faults)}")
                if faults.done():
                    faults.result()
            await loading
            run.done.set()
            await faults
            leads = await run.settled()
            found = run.judge(leads, await run.report())
    found |= {
        "database": options.database,
        "seed": options.seed,
        "faults": dict(run.faults),
        "refused and sent again": run.acknowledged.refused,
        "seconds": round(time.monotonic() - started),
    }
    print(json.dumps(found, indent=2))
    broken = ("not in the ledger", "lost", "doubled", "explained wrongly")
    return 1 if any(found[name] for name in broken) else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--leads", type=int, default=20_000, help="customers")
    parser.add_argument(
        "--database", choices=("postgres", "sqlite"), default="postgres"
    )
    parser.add_argument("--rate", type=float, default=60, help="customers a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, choices=(1, 2), default=2)
    parser.add_argument("--settle", type=float, default=420, help="seconds at the end")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(uvloop.run(main(parse())))
