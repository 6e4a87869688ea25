"""How leads leave the SQLite file: claims, leases, settlements, the gate."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from relay.core.leads import OPEN, Attempt
from relay.core.pacing import Budget, Pace, spend, throttled
from relay.outbox.contract import Gate, Settlement
from relay.outbox.leasing import (
    CLAIM_PAGE,
    CLAIM_PAGES,
    FRESH_SHARE,
    PROBE_SCAN,
    Due,
    Lease,
    Leased,
    can_pay,
    due,
    ending,
    require_end,
)
from relay.outbox.queries import sql
from relay.outbox.rows import attempt_row, readable
from relay.outbox.sqlite_reading import budget
from relay.outbox.writer import each

DUE: Final = sql(
    """
    SELECT {entry}, l.seq, {behind} FROM leads AS l
    WHERE l.due_at <= ?
    ORDER BY l.due_at, l.seq LIMIT ?
    """
)

NEWEST_DUE: Final = sql(
    """
    SELECT {entry}, l.seq, {behind} FROM leads AS l
    WHERE l.due_at <= ?
    ORDER BY l.due_at DESC, l.seq DESC LIMIT ?
    """
)

PARKED: Final = sql(
    """
    SELECT {entry}, l.seq, {behind} FROM leads AS l
    WHERE l.status = 'parked' ORDER BY l.seq
    """
)

# The planner thinks that the state finds fewer leads than the time.
PARK: Final = sql(
    """
    UPDATE leads SET status = 'parked', due_at = NULL WHERE seq IN (
        SELECT seq FROM leads INDEXED BY leads_due
        WHERE status IN {parkable} AND due_at <= ? ORDER BY due_at LIMIT ?
    )
    """
)

UNPARK: Final = """
    UPDATE leads SET status = 'queued', due_at = ?, round_at = ? WHERE seq IN (
        SELECT seq FROM leads WHERE status = 'parked' ORDER BY seq LIMIT ?
    )
"""

_LEASE: Final = sql(
    """
    UPDATE leads SET status = 'sending', due_at = ?, token = ?
    WHERE seq IN (SELECT value FROM json_each(?)) AND status IN {sendable}
    """
)

_PUT_OFF: Final = "UPDATE leads SET due_at = ? WHERE seq = ?"

_LEASED: Final = """
    SELECT seq, attempts, notes, customer FROM leads
    WHERE id = ? AND token = ? AND status = 'sending'
"""

_SETTLE: Final = """
    UPDATE leads SET
        status = ?, due_at = ?, token = NULL, attempts = ?, notes = ?,
        last_error = ?, delivered_at = coalesce(?, delivered_at),
        in_doubt = coalesce(?, in_doubt), round_at = coalesce(?, round_at),
        answer = coalesce(?, answer)
    WHERE seq = ?
"""

_CONFIRMED_MEANWHILE: Final = """
    SELECT seq, attempts FROM leads
    WHERE id = ? AND token = ? AND status = 'confirmed'
"""

_NEXT_IN_LINE: Final = """
    UPDATE leads SET due_at = ?1
    WHERE due_at > ?1 AND seq = (
        SELECT min(seq) FROM leads WHERE customer = ?2 AND status = 'queued'
    )
"""

_ATTEMPT: Final = "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


@each
def claim(
    connection: sqlite3.Connection,
    limit: int,
    now: int,
    lease_ms: int,
    pace: Pace | None,
) -> Leased:
    """Lease what is due and first in its customer's line, oldest due first."""
    if pace is not None:
        spent = budget(connection)
        limit = can_pay(spent, pace, limit, now)
    if limit <= 0:
        return Leased([], "")
    lease = Lease(secrets.token_hex(16), now, now + lease_ms)
    oldest = limit - limit // FRESH_SHARE
    found = _first(connection, DUE, oldest, lease)
    if len(found) == oldest:
        found += _first(connection, NEWEST_DUE, limit - oldest, lease)
    if pace is not None and found:
        calls = len(found) * pace.calls
        _write_budget(connection, spend(spent, pace.plan, now, calls))
    return Leased([one.claimed(lease) for one in found], lease.token)


def _first(
    connection: sqlite3.Connection,
    statement: str,
    limit: int,
    lease: Lease,
) -> list[Due]:
    """Lease up to limit leads that are first in their lines, in that order."""
    found: list[Due] = []
    page = max(limit, CLAIM_PAGE)
    for _ in range(CLAIM_PAGES if limit else 0):
        ready = [*map(due, connection.execute(statement, (lease.now, page)))]
        first = [one for one in ready if one.behind is None][: limit - len(found)]
        _lease(connection, first, lease)
        _put_off(connection, ready, lease)
        found += first
        if len(found) == limit or len(ready) < page:
            break
    return found


def _put_off(
    connection: sqlite3.Connection, ready: Iterable[Due], lease: Lease
) -> None:
    """Make what waits behind another lead due when that one is."""
    connection.executemany(
        _PUT_OFF,
        [(one.put_off(lease), one.seq) for one in ready if one.behind is not None],
    )


@each
def claim_probe(connection: sqlite3.Connection, now: int, lease_ms: int) -> Leased:
    """Lease one lead: the oldest parked one, or what a claim would take first."""
    parked = map(due, connection.execute(PARKED))
    for one in islice(parked, PROBE_SCAN):
        if one.behind is None:
            lease = Lease(secrets.token_hex(16), now, now + lease_ms)
            _lease(connection, [one], lease)
            return Leased([one.claimed(lease)], lease.token)
    return claim(connection, [(1, now, lease_ms, None)])[0]


@each
def begin_recording(
    connection: sqlite3.Connection,
    lease: tuple[str, str],
    attempts: Sequence[Attempt],
    until: int,
) -> bool:
    """Note that the lead may count from now on; renew its lease."""
    leased = connection.execute(_LEASED, lease).fetchone()
    if leased is None:
        return False
    seq, made, *_ = leased
    _add_attempts(connection, seq, made, attempts)
    connection.execute(
        "UPDATE leads SET in_doubt = 1, due_at = ?, attempts = ? WHERE seq = ?",
        (until, made + len(attempts), seq),
    )
    return True


@each
def settle(
    connection: sqlite3.Connection, lease: tuple[str, str], end: Settlement, now: int
) -> bool:
    """Write how a delivery ended."""
    require_end(end.status)
    leased = connection.execute(_LEASED, lease).fetchone()
    if leased is None:
        return _add_to_confirmed(connection, lease, end)
    seq, made, notes, customer = leased
    _add_attempts(connection, seq, made, end.attempts)
    connection.execute(_SETTLE, (*ending(end, made, notes, now), seq))
    if end.status not in OPEN:
        connection.execute(_NEXT_IN_LINE, (now, customer))
    return True


def _add_to_confirmed(
    connection: sqlite3.Connection, lease: tuple[str, str], end: Settlement
) -> bool:
    """Keep the calls of a delivery that a webhook has overtaken."""
    confirmed = connection.execute(_CONFIRMED_MEANWHILE, lease).fetchone()
    if confirmed is None:
        return False
    seq, made = confirmed
    _add_attempts(connection, seq, made, end.attempts)
    connection.execute(
        "UPDATE leads SET attempts = ?, token = NULL WHERE seq = ?",
        (made + len(end.attempts), seq),
    )
    return True


@each
def park_due(connection: sqlite3.Connection, now: int, limit: int) -> int:
    """Park what is due."""
    return connection.execute(PARK, (now, limit)).rowcount


@each
def unpark(connection: sqlite3.Connection, now: int, limit: int) -> int:
    """Put what is parked back in line, oldest first, with a new round.

    While it was parked it was not tried in vain.
    """
    return connection.execute(UNPARK, (now, now, limit)).rowcount


@each
def set_gate(connection: sqlite3.Connection, gate: Gate) -> None:
    """Write the one gate."""
    connection.execute(
        "UPDATE gate SET closed = ?, reason = ?, probe_at = ?, failures = ?, parks = ?",
        (
            *(gate.closed, readable(gate.reason), gate.probe_at),
            *(gate.failures, gate.parks),
        ),
    )


@each
def throttle(connection: sqlite3.Connection, plan: int, now: int, until: int) -> None:
    """Lower the shared rate, and pause."""
    _write_budget(connection, throttled(budget(connection), plan, now, until))


def _write_budget(connection: sqlite3.Connection, spent: Budget) -> None:
    connection.execute(
        """
        UPDATE budget SET spent_until = ?, paused_until = ?, share = ?, lowered_at = ?
        """,
        (spent.spent_until, spent.paused_until, spent.share, spent.lowered_at),
    )


@each
def confirm(connection: sqlite3.Connection, lead_ids: Sequence[str], now: int) -> int:
    """Mark leads that Dub says it has; the next in their lines may go."""
    confirmed = connection.execute(
        sql(
            """
            UPDATE leads SET status = 'confirmed', in_doubt = 0, due_at = NULL,
                last_error = NULL, delivered_at = coalesce(delivered_at, ?)
            WHERE id IN (SELECT value FROM json_each(?))
                AND status IN {confirmable} AND (in_doubt OR status NOT IN {open})
            RETURNING customer
            """
        ),
        (now, json.dumps(list(lead_ids))),
    ).fetchall()
    connection.executemany(
        _NEXT_IN_LINE, [(now, customer) for (customer,) in confirmed]
    )
    return len(confirmed)


@each
def requeue(connection: sqlite3.Connection, lead_id: str, now: int) -> bool:
    """Begin a new round for a lead that rests."""
    changed = connection.execute(
        sql(
            """
            UPDATE leads SET status = 'queued', due_at = ?1, round_at = ?1,
                in_doubt = in_doubt AND sale IS NULL
            WHERE id = ?2 AND status IN {resendable}
            """
        ),
        (now, lead_id),
    )
    return changed.rowcount == 1


@each
def beat(connection: sqlite3.Connection) -> None:
    """Commit something harmless that reaches the disk."""
    connection.execute("UPDATE pulse SET beats = beats + 1")


def _lease(connection: sqlite3.Connection, first: Sequence[Due], lease: Lease) -> None:
    if first:
        seqs = json.dumps([one.seq for one in first])
        connection.execute(_LEASE, (lease.until, lease.token, seqs))


def _add_attempts(
    connection: sqlite3.Connection, seq: int, made: int, attempts: Sequence[Attempt]
) -> None:
    connection.executemany(
        _ATTEMPT,
        [attempt_row(seq, n, one) for n, one in enumerate(attempts, made + 1)],
    )
