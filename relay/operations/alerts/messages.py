"""The messages of the operator's webhook, and how they move: plain data."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from relay.core.clock import iso
from relay.operations.alerts.causes import Cause
from relay.outbox.contract import Alert

LEASE_MS: Final = 60_000
"""How long a message is one relay's to send: longer than a call may take."""

LONGEST_MS: Final = 3_600_000
"""The longest wait before a receiver that refuses is tried again."""


def begun(cause: Cause, now: int) -> Alert:
    """Give the message that something is wrong, due now."""
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
    """Give the message that it is over, due now."""
    told = json.loads(alert.body)
    data = {
        "cause": alert.cause,
        "state": "over",
        "since": iso(alert.since),
        "until": iso(now),
        "summary": f"Over: {told['data']['summary']}",
    }
    return replace(
        alert,
        message_id=_new_id(),
        body=_body(f"{told['type']}.over", now, data),
        over=True,
        due_at=now,
        attempts=0,
    )


def leased(alert: Alert, now: int) -> Alert:
    """Give a message that is being sent."""
    return replace(alert, due_at=now + LEASE_MS, attempts=alert.attempts + 1)


def taken(alert: Alert) -> Alert | None:
    """Give what is left of a message that was taken: it stands, or nothing."""
    return None if alert.over else replace(alert, due_at=None)


def again(alert: Alert, now: int, base_ms: int, roll: float) -> Alert:
    """Give a message that was not taken, due after a wait that doubles."""
    wait = min(base_ms * 2 ** min(alert.attempts - 1, 20), LONGEST_MS)
    return replace(alert, due_at=now + round(wait * (0.5 + roll / 2)))


def trial(now: int) -> Alert:
    """Give a message that only shows whether it arrives."""
    data = {"state": "begun", "summary": "A test: alerts of dub-relay arrive here."}
    return Alert("test", _new_id(), _body("test", now, data), now)


def _body(kind: str, now: int, data: Mapping[str, object]) -> str:
    # Standard Webhooks' own shape of a payload.
    return json.dumps({"type": kind, "timestamp": iso(now), "data": data})


def _new_id() -> str:
    return f"alert_{os.urandom(12).hex()}"
