"""Relays go through faults at random, of every kind.

They are killed, frozen and started again, PostgreSQL restarts, clocks are set,
connections are cut, and a strict Dub answers in all its moods. At the end everything is
mended, and what Dub has counted is compared with what the relays have acknowledged and
say of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from typing import Any, Final

import aiohttp

from tests.chaos.run import RETRY_S, Run, waits_for_key
from tests.support.harness import API_KEY

WEBHOOK_SECRET: Final = "chaos-webhook-secret"
MOODS: Final[tuple[dict[str, float], ...]] = (
    {},
    {"error_before": 0.2, "limit": 0.05},
    {"cut_after": 0.05, "cut_before": 0.05, "slow_before": 0.02},
    {"html_after": 0.05, "html_before": 0.1},
    {"error_after": 0.05, "slow_after": 0.02},
    {"error_before": 1.0},
    {"crash": 0.01, "lost_click": 0.01},
)


class Storm(Run):
    """Faults for as long as customers come."""

    broken = ("not in the ledger", "lost", "doubled", "explained wrongly")

    def environment(self) -> dict[str, str]:
        return {
            "DUB_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "RELAY_DELIVERY_SALE_WAITS": "1h",
            "RELAY_RECONCILE_EVERY": "20",
            "RELAY_RECONCILE_AFTER": "60",
            "RELAY_RECONCILE_RATE": "16",
        }

    async def happen(self) -> dict[str, Any]:
        hooks = [f"{relay.url}/_dub/hooks/dub" for relay in self.relays]
        await self.set_mood({}, webhooks=hooks, secret=WEBHOOK_SECRET)
        self.done = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.faults_until_done())
            await self.load()
            self.done.set()
        return self.judge(await self.settled(), await self.report())

    # --- The load. ---

    async def customer(self, n: int) -> None:
        name = f"u_{n}"
        if n % 10 == 9:
            # A sale, at times before its customer's lead.
            await asyncio.gather(self.lead(name, "Sign Up"), self.sale(name, n))
            return
        await self.lead(name, "Sign Up")
        if n % 10 in (3, 6):
            await self.lead(name, "Trial")

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
            await asyncio.sleep(RETRY_S)

    # --- What goes wrong. ---

    async def faults_until_done(self) -> None:
        while not self.done.is_set():
            await asyncio.sleep(self.dice.uniform(0.5, 2.0))
            what = self.dice.choice([self.kill, self.freeze, self.mood, self.step])
            if self.postgres is not None and self.dice.random() < 0.1:
                what = self.restart_postgres
            await what()

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
