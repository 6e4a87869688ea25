"""What deserves an alert: an overview in, causes out. Nothing of a person's in them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from relay.core.clock import iso
from relay.core.leads import LeadStatus
from relay.operations.presentation import span
from relay.operations.status import Overview
from relay.outbox.contract import Alert

PARKED: Final = "leads.parked"
REJECTED: Final = "lead.rejected"
BACKLOG: Final = "backlog.old"
DISK: Final = "disk.nearly_full"
MISSING: Final = "leads.missing_at_dub"
DOUBLED: Final = "leads.doubled_at_dub"

CALM: Final = 0.5
"""A backlog that was reported is over once it is half as old."""

ROOM: Final = 1.2
"""A disk is well again with a fifth more room than the limit."""


@dataclass(frozen=True, slots=True)
class AlertLimits:
    """What is too much: the oldest open lead's age in seconds, the free share."""

    backlog_s: float
    disk_free: float


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that is wrong.

    ``key`` identifies it and holds across restarts and relays; ``type`` is
    the message's. ``action`` says what a person should do.
    """

    key: str
    type: str
    summary: str
    action: str
    facts: Mapping[str, Any] = field(default_factory=dict)


class CreditedLinks(NamedTuple):
    """Links as people write them, each once, of what is missing and what is doubled."""

    missing: Sequence[str] = ()
    doubled: Sequence[str] = ()


NOBODY: Final = CreditedLinks()


def find(
    seen: Overview,
    rejected: Mapping[str, int],
    standing: Collection[str],
    limits: AlertLimits,
    host: str,
    credited: CreditedLinks = NOBODY,
) -> list[Cause]:
    """Return everything that is wrong now.

    ``rejected`` counts the rejected leads by reason; ``standing`` are the keys that
    were reported before: those end later than they would begin, so that nothing that
    hovers about its limit is reported again and again. ``credited`` names the links
    whose partners what is missing or doubled at Dub concerns.
    """
    return [
        *_parked(seen),
        *_rejected(rejected),
        *_backlog(seen, standing, limits),
        *_disk(seen, standing, limits, host),
        *_unproven(seen, credited),
    ]


def is_mine(key: str, host: str) -> bool:
    """Return whether this relay can see that a cause is over: a disk is one host's."""
    return not key.startswith(f"{DISK}:") or key == f"{DISK}:{host}"


def _parked(seen: Overview) -> Iterator[Cause]:
    if seen.circuit.open and seen.circuit.parks:
        reason = seen.circuit.reason or "no reason kept"
        yield Cause(
            PARKED,
            PARKED,
            f"Delivery waits for a person: {reason}",
            "Put the key or the plan right; the leads then go on by themselves.",
            {"reason": reason, "parked": seen.leads.get(LeadStatus.PARKED, 0)},
        )


def _rejected(rejected: Mapping[str, int]) -> Iterator[Cause]:
    for reason, count in rejected.items():
        digest = hashlib.sha256(reason.encode()).hexdigest()[:16]
        yield Cause(
            f"{REJECTED}:{digest}",
            REJECTED,
            f"Dub will not take {_leads(count)} as it is: {reason}",
            "See them with `dub-relay leads list --status rejected`; after a fix,"
            " `dub-relay leads retry --status rejected` sends them again.",
            {"reason": reason, "rejected": count},
        )


def _backlog(
    seen: Overview, standing: Collection[str], limits: AlertLimits
) -> Iterator[Cause]:
    limit = limits.backlog_s * (CALM if BACKLOG in standing else 1)
    if seen.oldest_open_s > limit:
        waiting = sum(seen.leads.get(status, 0) for status in _WAITING)
        yield Cause(
            BACKLOG,
            BACKLOG,
            f"The oldest of {waiting} open leads has waited for"
            f" {span(round(seen.oldest_open_s * 1000))}",
            "`dub-relay stats` shows whether Dub is down, or more leads come than the"
            " plan's rate lets out.",
            {
                "oldestOpenSeconds": round(seen.oldest_open_s),
                "limitSeconds": limits.backlog_s,
                "open": waiting,
            },
        )


def _unproven(seen: Overview, credited: CreditedLinks) -> Iterator[Cause]:
    missing, doubled = seen.findings
    if missing:
        yield Cause(
            MISSING,
            MISSING,
            f"Dub took {_leads(missing)}, and its own list does not have it",
            "See them with `dub-relay leads list --missing`; `dub-relay leads retry ID`"
            " sends one again once Dub's dedupe key is free.",
            {"missing": missing, "links": list(credited.missing)},
        )
    if doubled:
        yield Cause(
            DOUBLED,
            DOUBLED,
            f"Dub counted {_leads(doubled)} more often than it was sent",
            "See them with `dub-relay leads list --doubled`; `dub-relay leads show ID`"
            " names both events of Dub's, for its support.",
            {"doubled": doubled, "links": list(credited.doubled)},
        )


_WAITING: Final = (
    LeadStatus.QUEUED,
    LeadStatus.SENDING,
    LeadStatus.WAITING,
    LeadStatus.PARKED,
)


def _disk(
    seen: Overview, standing: Collection[str], limits: AlertLimits, host: str
) -> Iterator[Cause]:
    key = f"{DISK}:{host}"
    needed = limits.disk_free * (ROOM if key in standing else 1)
    disk = seen.disk
    if disk.size and disk.free / disk.size < needed:
        yield Cause(
            key,
            DISK,
            f"The disk of {host} has {disk.free / disk.size:.0%} left",
            "Make room: when it is full, hooks are refused and proxied sign-ups wait"
            " in memory, where a crash loses them.",
            {"host": host, "freeBytes": disk.free, "sizeBytes": disk.size},
        )


def _leads(count: int) -> str:
    return "a lead" if count == 1 else f"{count} leads"


# --- The messages of the operator's webhook, and how they move: plain data. ---

LEASE_MS: Final = 60_000
"""How long a message is one relay's to send: longer than a call may take."""

LONGEST_MS: Final = 3_600_000
"""The longest wait before a receiver that refuses is tried again."""


def begun(cause: Cause, now: int) -> Alert:
    """Return the message that something is wrong, due now."""
    data = {
        "cause": cause.key,
        "state": "begun",
        "since": iso(now),
        "summary": cause.summary,
        "action": cause.action,
        **cause.facts,
    }
    return Alert(
        cause=cause.key,
        message_id=_new_id(),
        body=_body(cause.type, now, data),
        since=now,
        due_at=now,
    )


def over(alert: Alert, now: int) -> Alert:
    """Return the message that it is over, due now."""
    said = json.loads(alert.body)
    data = {
        "cause": alert.cause,
        "state": "over",
        "since": iso(alert.since),
        "until": iso(now),
        "summary": f"Over: {said['data']['summary']}",
    }
    return replace(
        alert,
        message_id=_new_id(),
        body=_body(f"{said['type']}.over", now, data),
        over=True,
        due_at=now,
        attempts=0,
    )


def leased(alert: Alert, now: int) -> Alert:
    """Return a message that is being sent."""
    return replace(alert, due_at=now + LEASE_MS, attempts=alert.attempts + 1)


def taken(alert: Alert) -> Alert | None:
    """Return what is left of a message that was taken: it stands, or nothing."""
    return None if alert.over else replace(alert, due_at=None)


def again(alert: Alert, now: int, base_ms: int, roll: float) -> Alert:
    """Return a message that was not taken, due after a wait that doubles."""
    wait = min(base_ms * 2 ** min(alert.attempts - 1, 20), LONGEST_MS)
    return replace(alert, due_at=now + round(wait * (0.5 + roll / 2)))


def trial(now: int) -> Alert:
    """Return a message that only shows whether it arrives."""
    data = {"state": "begun", "summary": "A test: alerts of dub-relay arrive here."}
    return Alert("test", _new_id(), _body("test", now, data), now)


def _body(kind: str, now: int, data: Mapping[str, object]) -> str:
    # Standard Webhooks' own shape of a payload.
    return json.dumps({"type": kind, "timestamp": iso(now), "data": data})


def _new_id() -> str:
    return f"alert_{os.urandom(12).hex()}"
