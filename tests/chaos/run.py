"""A strict Dub, relays, and customers who sign up: what each scenario starts from."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Final

import aiohttp

from relay.outbox.contract import OutboxUnavailableError
from tests.acceptance.test_clock import FakeClock
from tests.support.harness import RelayProcess, post_hook
from tests.support.postgres_server import PostgresServer, postgres_server

LOADERS: Final = 48
RETRY_S: Final = 0.2


@dataclass(frozen=True)
class Options:
    """What is asked for: ``rate`` in customers a second, ``settle`` in seconds."""

    leads: int = 20_000
    database: str = "postgres"
    rate: float = 60
    seed: int = 1
    steps: int = 2
    settle: float = 420


@dataclass
class Acknowledged:
    """What a relay has answered for."""

    leads: set[tuple[str, str]] = field(default_factory=set)
    sales: set[str] = field(default_factory=set)
    refused: int = 0


class Run(ABC):
    """One run: a Dub, relays, a load and what happens to them."""

    broken: ClassVar[tuple[str, ...]]
    """The figures that must be zero."""

    sets_clocks = True

    def __init__(self, options: Options, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.dice = random.Random(options.seed)
        self.acknowledged = Acknowledged()
        self.faults: Counter[str] = Counter()
        self.relays: list[RelayProcess] = []
        self.clocks: list[FakeClock] = []
        self.postgres: PostgresServer | None = None
        self.dub_url = ""
        self.session: aiohttp.ClientSession
        self.numbers = iter(range(options.leads))
        self.started = time.monotonic()

    async def figures(self) -> dict[str, Any]:
        """Run it from start to end; what was seen."""
        started = time.monotonic()
        async with self._running():
            found = await self.happen()
        return found | {
            "database": self.options.database,
            "seed": self.options.seed,
            "faults": dict(self.faults),
            "refused and sent again": self.acknowledged.refused,
            "seconds": round(time.monotonic() - started),
        }

    # --- What a scenario is. ---

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """The settings of its relays, beyond what all have."""

    @abstractmethod
    async def customer(self, n: int) -> None:
        """Let one customer do what customers do."""

    @abstractmethod
    async def happen(self) -> dict[str, Any]:
        """Load the relays, let things go wrong, wait for the end, and judge it."""

    # --- What runs. ---

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
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
            "RELAY_RATE": "1000000",
            "RELAY_RETRY_BASE": "0.2",
            "RELAY_RETRY_MAX": "2",
            "RELAY_DUB_TIMEOUT": "2",
            "RELAY_DELIVERY_STEPS": str(self.options.steps),
        } | self.environment()
        if self.postgres is not None:
            shared["RELAY_DATABASE"] = self.postgres.new_url()
        for n in range(3 if self.postgres else 1):
            folder = self.folder / str(n)
            folder.mkdir()
            here = {"RELAY_LISTEN": f"127.0.0.1:{free_port()}"}
            if self.sets_clocks:
                self.clocks.append(FakeClock(folder))
                here |= self.clocks[n].environment
            workers = () if self.postgres else ("--workers", "2")
            relay = RelayProcess(folder, shared | here, arguments=workers)
            await relay.start()
            stack.push_async_callback(relay.stop)
            self.relays.append(relay)

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
        """Let all customers come, so many a second, and say how far they are."""
        loading = asyncio.gather(*(self._customers() for _ in range(LOADERS)))
        while not loading.done():
            await asyncio.wait([loading], timeout=10)
            print(f"  {self.taken} acknowledged, {dict(self.faults)}", flush=True)
        await loading

    @property
    def taken(self) -> int:
        return len(self.acknowledged.leads) + len(self.acknowledged.sales)

    async def _customers(self) -> None:
        for n in self.numbers:
            due = self.started + n / self.options.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self.customer(n)

    async def lead(self, customer: str, event: str) -> None:
        """Send a hook until a relay has answered for it."""
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
                    at=time.time() + (self.clocks[n].ahead_s if self.clocks else 0),
                )
                if status in (200, 202):
                    self.acknowledged.leads.add((customer, event.lower()))
                    return
                assert status in (401, 503), (status, said)
            self.acknowledged.refused += 1
            await asyncio.sleep(RETRY_S)

    # --- What happens to relays, and what they say. ---

    async def kill(self) -> None:
        self.faults["killed"] += 1
        relay = self.dice.choice(self.relays)
        await relay.stop(signal.SIGKILL)
        await asyncio.sleep(self.dice.uniform(0, 2))
        # The workers of a killed parent end by themselves, and free the port.
        await relay.start()

    async def ledger(self) -> list[dict[str, Any]]:
        """Read all leads, however long the database is busy."""
        while True:
            try:
                return await self.relays[0].leads()
            except OutboxUnavailableError as error:
                print(f"  the ledger cannot be read: {error}")
            await asyncio.sleep(5)


def waits_for_key(lead: dict[str, Any]) -> bool:
    """Whether it waits for Dub's key, or behind a lead of its customer that does."""
    if lead["status"] not in ("queued", "waiting"):
        return False
    due = datetime.fromisoformat(lead["nextAttemptAt"] or "1970-01-01T00:00:00Z")
    return due - datetime.now(UTC) > timedelta(days=1)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
