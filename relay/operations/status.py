"""How the relay stands as a whole: what `stats`, the metrics and the alerts show."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relay.core.clock import iso
from relay.core.leads import LeadStatus
from relay.core.pacing import Budget, rate_at
from relay.operations.looks import NEVER, Progress
from relay.outbox.contract import NO_FINDINGS, Circuit, Findings, Outbox


@dataclass(frozen=True, slots=True)
class Spilled:
    """What waits in files beside the database until it takes leads again."""

    files: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk, in bytes; all 0 where it is unknown."""

    free: int = 0
    size: int = 0

    @property
    def used(self) -> float:
        """The share that is used, from 0 to 1."""
        return 1 - self.free / self.size if self.size else 0.0


@dataclass(frozen=True, slots=True)
class Overview:
    """One look at the outbox. Times are epoch ms.

    ``plan`` is the rate that is set, in calls a minute; ``oldest_open`` is when
    the oldest lead was captured that is still to be delivered.
    """

    at: int
    leads: Mapping[LeadStatus, int]
    oldest_open: int | None
    circuit: Circuit
    budget: Budget
    plan: int
    spilled: Spilled
    disk: Disk
    findings: Findings = NO_FINDINGS
    reconciled: Progress = NEVER

    @property
    def oldest_open_s(self) -> float:
        """The age of the oldest open lead in seconds, 0 if there is none."""
        if self.oldest_open is None:
            return 0.0
        return max(0, self.at - self.oldest_open) / 1000

    @property
    def rate(self) -> float:
        """Calls a minute that may be made now: less than the plan after a 429."""
        return rate_at(self.budget, self.plan, self.at)

    @property
    def paused_until(self) -> int | None:
        """When calls go on after a 429; None while they are not paused."""
        until = self.budget.paused_until
        return until if until > self.at else None


async def look(outbox: Outbox, spill: Path, plan: int, now: int) -> Overview:
    """Ask the outbox for everything; raise OutboxUnavailableError if it cannot."""
    return Overview(
        at=now,
        leads=await outbox.counts(),
        oldest_open=await outbox.oldest_open(),
        circuit=await outbox.circuit(),
        budget=await outbox.budget(),
        plan=plan,
        spilled=spilled(spill),
        disk=disk(spill.parent),
        findings=await outbox.findings(),
        reconciled=Progress.read(await outbox.reconciliation()),
    )


def spilled(path: Path) -> Spilled:
    """Measure the spill file and those set aside to be taken in."""
    sizes = []
    for file in (path, *path.parent.glob(f"{path.name}.*")):
        try:
            sizes.append(file.stat().st_size)
        except FileNotFoundError:
            continue  # none, or just taken in
    return Spilled(len(sizes), sum(sizes))


def disk(folder: Path) -> Disk:
    """Measure the disk that a folder is on, as far as others than root may fill it."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return Disk()
    taken = found.f_blocks - found.f_bfree
    free = found.f_bavail * found.f_frsize
    return Disk(free, free + taken * found.f_frsize)


def overview_json(seen: Overview) -> dict[str, Any]:
    """Return the overview as `stats --json` prints it."""
    circuit = seen.circuit
    return {
        "at": iso(seen.at),
        "leads": {status.value: seen.leads.get(status, 0) for status in LeadStatus},
        "total": sum(seen.leads.values()),
        "oldestOpenAt": _iso_or_none(seen.oldest_open),
        "oldestOpenSeconds": seen.oldest_open_s,
        "rate": {
            "plan": seen.plan,
            "now": round(seen.rate, 1),
            "pausedUntil": _iso_or_none(seen.paused_until),
        },
        "delivery": {
            "state": delivery_state(circuit),
            "reason": circuit.reason if circuit.open else None,
            "nextProbeAt": _iso_or_none(circuit.probe_at if circuit.open else None),
        },
        "spill": {"files": seen.spilled.files, "bytes": seen.spilled.bytes},
        "disk": {"freeBytes": seen.disk.free, "sizeBytes": seen.disk.size},
        "reconciled": {
            "until": _iso_or_none(seen.reconciled.read_until),
            "missing": seen.findings.missing,
            "doubled": seen.findings.doubled,
            "notProvable": seen.reconciled.not_provable,
        },
    }


def delivery_state(circuit: Circuit) -> str:
    """Name the state of delivery: going, parked (a person must act), or down."""
    if not circuit.open:
        return "going"
    return "parked" if circuit.parks else "down"


def _iso_or_none(at: int | None) -> str | None:
    return None if at is None else iso(at)
