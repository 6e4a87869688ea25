"""Dub loses answers, its list of events lags and lacks some, and relays are killed.

At the end no lead is in doubt, none was counted twice, and what Dub forgot is named by
the ledger, by ``dub-relay reconcile`` and by the metrics.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from relay.core.dub.retry import AT_WORK_MS
from relay.operations.looks import Progress
from tests.chaos.run import Options, Run, waits_for_key
from tests.support.harness import RelayProcess

LOSES_ANSWERS: Final = {
    "cut_after": 0.02,
    "error_after": 0.02,
    "html_after": 0.02,
    "slow_after": 0.005,
    "crash": 0.002,
    "limit": 0.005,
}
"""Shares of calls; of a crash Dub keeps its dedupe key and nothing else."""


@dataclass(frozen=True)
class ProofOptions(Options):
    """``lag``: how late an event may be listed, in seconds; ``forget``: a share.

    ``hurry``: clocks are set ahead by as long as Dub may be at work, not waited for.
    """

    settle: float = 2400
    kills: int = 5
    lag: float = 300
    forget: float = 0.001
    hurry: bool = False


class Proof(Run):
    """Nothing heals but by Dub's own list: its webhooks are off."""

    broken = (
        "not in the ledger",
        "lost",
        "unconfirmed",
        "neither proven nor named",
        "doubled at Dub",
        "called doubled",
        "forgotten, not named",
        "named, but there",
        "counted otherwise",
    )
    options: ProofOptions

    def __init__(self, options: ProofOptions, folder: Path) -> None:
        super().__init__(options, folder)
        self.sets_clocks = options.hurry

    def environment(self) -> dict[str, str]:
        return {
            "RELAY_RECONCILE_EVERY": "2" if self.options.hurry else "20",
            # Some calls on top, as the list is asked a moment before.
            "RELAY_RECONCILE_AFTER": str(self.options.lag * 1.2),
            "RELAY_RECONCILE_RATE": "16" if self.options.hurry else "4",
        }

    async def customer(self, n: int) -> None:
        await self.lead(f"u_{n}", "Sign Up")

    async def happen(self) -> dict[str, Any]:
        faults = {"forget": self.options.forget, "events_lag_s": self.options.lag}
        await self.set_mood(LOSES_ANSWERS | faults)
        async with asyncio.TaskGroup() as group:
            group.create_task(self.kills_under_load())
            await self.load()
        await self.kill_while_one_looks()
        if self.options.hurry:
            await self.set_clocks_ahead()
        leads = await self.proven()
        return await self.judge(leads)

    # --- What goes wrong. ---

    async def kills_under_load(self) -> None:
        """All but the last, evenly over the load."""
        kills = self.options.kills
        for number in range(1, kills):
            while self.taken < self.options.leads * number / kills:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            await self.kill()

    async def kill_while_one_looks(self) -> None:
        """The last kill comes while a relay compares the ledger with Dub's list."""
        async with self.relays[0].outbox() as outbox:
            while not Progress.read(await outbox.reconciliation()).holder:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await self.kill()

    async def set_clocks_ahead(self) -> None:
        """Not before Dub lists what it will: its list would seem to lag by more."""
        while await self.comes_more():  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.1)
        for clock in self.clocks:
            clock.set(AT_WORK_MS // 1000 + round(2 * self.options.lag) + 1)

    async def comes_more(self) -> bool:
        """Whether a lead is to be sent yet, or an event to be listed."""
        if (await self.report())["lagging"]:
            return True
        return any(is_on_its_way(lead) for lead in await self.ledger())

    # --- The end. ---

    async def proven(self) -> list[dict[str, Any]]:
        """Wait until each lead is proven or named; the faults go on meanwhile."""
        deadline = time.monotonic() + self.options.settle
        while True:
            leads = await self.ledger()
            open_ = [lead for lead in leads if not is_settled(lead)]
            if not open_ or time.monotonic() > deadline:
                return leads
            states = Counter(lead["status"] for lead in open_)
            print(f"  not proven yet: {dict(states)}", flush=True)
            await asyncio.sleep(0.2 if self.options.hurry else 10)

    async def judge(self, leads: list[dict[str, Any]]) -> dict[str, Any]:
        relay = self.relays[0]
        named = await reconciled(relay)
        gauge = await self.gauge(relay, "dub_relay_missing_at_dub")
        dub = await self.report()
        counted = {(customer, event): n for customer, event, n in dub["leads"]}
        forgotten = {tuple(key) for key in dub["forgotten"]}
        listed = set(counted) - forgotten
        said = {key_of(lead): lead for lead in leads}
        by_id = {lead["id"]: key for key, lead in said.items()}
        missing = {by_id[lead_id] for lead_id in named["missingLeads"]}
        shown = {key for key, lead in said.items() if lead["missingAtDubAt"]}
        mine = self.acknowledged.leads
        return {
            "acknowledged": len(mine),
            "not in the ledger": len(mine - set(said)),
            "lost": len([k for k in mine - set(counted) if k not in missing]),
            "were in doubt": len(self.logged("lead.unconfirmed")),
            "unconfirmed": len([1 for x in leads if x["status"] == "unconfirmed"]),
            "neither proven nor named": len([1 for x in leads if not is_settled(x)]),
            "doubled at Dub": len([key for key, n in counted.items() if n > 1]),
            "called doubled": len(named["doubledLeads"]),
            "forgotten": len(forgotten),
            "forgotten, not named": len(forgotten - missing) + len(forgotten - shown),
            "recorded nothing": len(mine - set(counted)),
            "named": len(missing),
            "named, but there": len(missing & listed),
            "counted otherwise": gauge - len(missing),
            "states": dict(Counter(lead["status"] for lead in leads)),
        }

    def logged(self, event: str) -> set[str]:
        """The leads of which relays have logged this."""
        lines = (line for relay in self.relays for line in relay.events)
        return {line["lead"] for line in lines if line["event"] == event}

    async def gauge(self, relay: RelayProcess, name: str) -> int:
        async with self.session.get(f"{relay.url}/_dub/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return next(round(float(x.split()[1])) for x in lines if x.startswith(name))


async def reconciled(relay: RelayProcess) -> dict[str, Any]:
    """What the command says; it looks once more."""
    # It may wait for a relay that looks, and asks for what is missing once more.
    code, out, err = await relay.run("reconcile", "--json", within=900)
    found: dict[str, Any] = json.loads(out)
    assert code == int(bool(found["missing"] or found["doubled"])), err
    return found


def key_of(lead: dict[str, Any]) -> tuple[str, str]:
    return lead["customerExternalId"], lead["eventName"].lower()


def is_on_its_way(lead: dict[str, Any]) -> bool:
    return lead["status"] in ("queued", "sending", "waiting", "parked") and not (
        waits_for_key(lead)
    )


def is_settled(lead: dict[str, Any]) -> bool:
    """Whether Dub's list has shown it, or it is named as missing there."""
    return lead["status"] == "confirmed" or lead["missingAtDubAt"] is not None
