"""How leads leave the SQLite file: claims, leases, settlements, the gate."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from relay.core.leads import OPEN, Attempt, IllegalMoveError, Status, require_move
from relay.core.pacing import Budget, Pace, affordable, spend, throttled
from relay.outbox.contract import Gate, Settlement
from relay.outbox.queries import ENTRY_COLUMNS, sql
from relay.outbox.rows import Row, attempt_row, encode_notes, readable
from relay.outbox.sqlite_reading import budget
from relay.outbox.writer import each

CLAIM_PAGE: Final = 64
"""Due leads looked at in one go, at least; a claim rarely wants more."""

CLAIM_PAGES: Final = 10
"""Pages after which a claim gives what it has found.

Others wait to write meanwhile. Each page that held leads in vain is put off, so
the next claim goes on behind it.
"""

FRESH_SHARE: Final = 4
"""One in so many of a claim goes to the newest that is due. A backlog, of an
import or of a night with Dub down, then costs a fresh sign-up no wait, and is
itself slowed by a quarter at most."""

PROBE_SCAN: Final = 1_000
"""Parked leads looked at for one that may be sent: some milliseconds at most."""

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
        in_doubt = coalesce(?, in_doubt), round_at = coalesce(?, round_at)
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


class Leased(NamedTuple):
    """Rows of leads as they were claimed, and the token that settles them."""

    rows: list[Row]
    token: str


class _Lease(NamedTuple):
    """A claim under way: its token, and from when until when it holds."""

    token: str
    now: int
    until: int


class _Due(NamedTuple):
    """A lead that could go; behind is when one before it is due, None if none is."""

    row: Row
    seq: int
    behind: int | None


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
        limit = min(limit, affordable(spent, pace.plan, now) // pace.calls)
    if limit <= 0:
        return Leased([], "")
    token = secrets.token_hex(16)
    lease = _Lease(token, now, now + lease_ms)
    oldest = limit - limit // FRESH_SHARE
    found = _first(connection, DUE, oldest, lease)
    if len(found) == oldest:
        found += _first(connection, NEWEST_DUE, limit - oldest, lease)
    if pace is not None and found:
        calls = len(found) * pace.calls
        _write_budget(connection, spend(spent, pace.plan, now, calls))
    return Leased([_claimed(one, now + lease_ms) for one in found], token)


def _first(
    connection: sqlite3.Connection,
    statement: str,
    limit: int,
    lease: _Lease,
) -> list[_Due]:
    """Lease up to limit leads that are first in their lines, in that order."""
    found: list[_Due] = []
    page = max(limit, CLAIM_PAGE)
    for _ in range(CLAIM_PAGES if limit else 0):
        due = _read(connection.execute(statement, (lease.now, page)))
        first = [one for one in due if one.behind is None][: limit - len(found)]
        _lease(connection, first, lease.until, lease.token)
        _put_off(connection, due, lease.now, lease.until)
        found += first
        if len(found) == limit or len(due) < page:
            break
    return found


def _put_off(
    connection: sqlite3.Connection, due: Iterable[_Due], now: int, until: int
) -> None:
    """Make what waits behind another lead due when that one is.

    Left as they are, they would be walked over by each claim, and next_due would
    ask for claims that find nothing. settle makes the next in line due again;
    should it not, because the one ahead is parked or ended some other way, they
    are looked at again after a lease's time.
    """
    connection.executemany(
        _PUT_OFF,
        [
            (one.behind if one.behind > now else until, one.seq)
            for one in due
            if one.behind is not None
        ],
    )


@each
def claim_probe(connection: sqlite3.Connection, now: int, lease_ms: int) -> Leased:
    """Lease one lead: the oldest parked one, or what a claim would take first."""
    parked = map(_due, connection.execute(PARKED))
    for one in islice(parked, PROBE_SCAN):
        if one.behind is None:
            token = secrets.token_hex(16)
            _lease(connection, [one], now + lease_ms, token)
            return Leased([_claimed(one, now + lease_ms)], token)
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
    _require_end(end.status)
    leased = connection.execute(_LEASED, lease).fetchone()
    if leased is None:
        return _add_to_confirmed(connection, lease, end)
    seq, made, notes, customer = leased
    if end.notes:
        notes = encode_notes([*json.loads(notes), *end.notes])
    again = end.status in {Status.QUEUED, Status.WAITING}
    # Without a time the lead would never be due.
    due_at = (now if end.due_at is None else end.due_at) if again else None
    _add_attempts(connection, seq, made, end.attempts)
    connection.execute(
        _SETTLE,
        (
            *(end.status.value, due_at, made + len(end.attempts), notes),
            *(readable(end.last_error), end.delivered_at, end.in_doubt),
            *(end.since, seq),
        ),
    )
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
            UPDATE leads SET status = 'queued', due_at = ?1, round_at = ?1
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


def _due(row: Row) -> _Due:
    *entry, seq, behind = row
    return _Due(tuple(entry), seq, behind)


def _read(rows: Iterable[Row]) -> list[_Due]:
    return [_due(row) for row in rows]


def _lease(
    connection: sqlite3.Connection, first: Sequence[_Due], until: int, token: str
) -> None:
    if first:
        seqs = json.dumps([one.seq for one in first])
        connection.execute(_LEASE, (until, token, seqs))


def _claimed(one: _Due, until: int) -> Row:
    """Give the row as it is after the lease."""
    row: list[Any] = list(one.row)
    row[_STATUS], row[_DUE_AT] = Status.SENDING.value, until
    return tuple(row)


_STATUS: Final = ENTRY_COLUMNS.index("status")
_DUE_AT: Final = ENTRY_COLUMNS.index("due_at")


def _add_attempts(
    connection: sqlite3.Connection, seq: int, made: int, attempts: Sequence[Attempt]
) -> None:
    connection.executemany(
        _ATTEMPT,
        [attempt_row(seq, n, one) for n, one in enumerate(attempts, made + 1)],
    )


def _require_end(status: Status) -> None:
    require_move(Status.SENDING, status)
    if status in {Status.SENDING, Status.CONFIRMED}:
        # MOVES means a claim by the first, Dub's webhook by the second.
        raise IllegalMoveError(f"a delivery cannot end in {status}")
