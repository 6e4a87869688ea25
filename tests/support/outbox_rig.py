"""What the tests of every outbox share: leads, new leads, clocks, other processes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from subprocess import PIPE
from typing import Any

from relay.core.leads import Attempt, Lead, LeadRecord, LeadStatus, Step
from relay.outbox.contract import Claim, InsertResult, NewLead, Outbox, Query, Requeued

NOW = 1_700_000_000_000
LEASE = 60_000
HOUR = 3_600_000
DAY = 24 * HOUR

_numbers = count(1)


def lead(customer: str | None = None, **more: Any) -> Lead:
    """A lead of its own customer unless one is named, made at NOW."""
    number = next(_numbers)
    defaults: dict[str, Any] = {
        "id": f"lead_{number:026}",
        "source": "hook",
        "click_id": f"click{number:08}",
        "event_name": "Sign Up",
        "customer_external_id": f"u_{number}" if customer is None else customer,
        "created_at": NOW,
    }
    return Lead(**(defaults | more))


def new_lead(made: Lead | None = None, **more: Any) -> NewLead:
    """A new lead made of a lead that repeats no other one unless it is told to."""
    made = made or lead()
    defaults: dict[str, Any] = {"dedupe_key": made.id, "dedupe_since": None}
    return NewLead(made, **(defaults | more))


def signup(customer: str, at: int = NOW, key: str = "Sign Up", **more: Any) -> NewLead:
    """A new lead that counts once a week for its customer and key."""
    return new_lead(
        lead(customer, created_at=at), dedupe_key=key, dedupe_since=at - 7 * DAY, **more
    )


def attempt(at: int = NOW, **more: Any) -> Attempt:
    defaults: dict[str, Any] = {
        "step": Step.PROVE,
        "duration_ms": 87,
        "outcome": "Dub had an internal error",
        "http_status": 500,
        "code": "internal_server_error",
    }
    return Attempt(at=at, **(defaults | more))


async def put_all(outbox: Outbox, new_leads: Sequence[NewLead]) -> list[InsertResult]:
    """Put new leads one after the other, so that they come in this order."""
    return [await outbox.put(one) for one in new_leads]


async def put_together(
    outbox: Outbox, new_leads: Sequence[NewLead]
) -> list[InsertResult]:
    """Put new leads at once, so that they meet in one transaction."""
    return await asyncio.gather(*(outbox.put(one) for one in new_leads))


async def entry(outbox: Outbox, lead_id: str) -> LeadRecord:
    """The entry, which must be there."""
    found = await outbox.get(lead_id)
    assert found is not None
    return found


async def status(outbox: Outbox, lead_id: str) -> LeadStatus:
    return (await entry(outbox, lead_id)).status


async def ids(outbox: Outbox, query: Query | None = None) -> list[str]:
    return [found.lead.id for found in await outbox.list(query or Query())]


def claimed(claims: Sequence[Claim]) -> list[str]:
    return [claim.entry.lead.id for claim in claims]


async def claim_one(outbox: Outbox, now: int = NOW) -> Claim:
    """Claim exactly one lead."""
    (claim,) = await outbox.claim(1, now, LEASE)
    return claim


async def requeue(outbox: Outbox, lead_id: str, now: int) -> Requeued:
    """Send a lead again, as an operator does."""
    return await outbox.requeue(lead_id, now, window_ms=7 * DAY, key_ms=7 * DAY + HOUR)


def with_id(made: NewLead, lead_id: str) -> NewLead:
    return replace(made, lead=replace(made.lead, id=lead_id))


CHILD = """
import asyncio, os, sys
from relay.core.leads import Lead
from relay.outbox.backends import open_outbox
from relay.outbox.contract import NewLead

NOW = {now}


def new_lead(name, customer=None, key=None):
    lead = Lead(f"lead_{{name}}", "hook", "click123", "Sign Up", customer or name, NOW)
    return NewLead(lead, key or name, 0)


async def main(outbox):
{body}


async def run():
    outbox = open_outbox({url!r})
    await outbox.open()
    try:
        await main(outbox)
    finally:
        await outbox.close()

asyncio.run(run())
"""


class Child:
    """A process of its own on the same database; body is ``async def main(outbox)``."""

    def __init__(self, url: str, body: str) -> None:
        lines = (f"    {line}" for line in body.strip().splitlines())
        self._script = CHILD.format(url=url, now=NOW, body="\n".join(lines))

    async def start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", self._script, stdout=PIPE, stderr=PIPE
        )

    async def run(self) -> list[str]:
        """Run to its end, which must be good; give the words it printed."""
        process = await self.start()
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode().split()
