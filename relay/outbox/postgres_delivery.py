"""How leads leave PostgreSQL: claims, leases, settlements.

What relays do at the same moment is kept apart by locks on rows: a claim takes only
leads that nobody else has locked, and looks again, once it has them, whether they
are still due and first in line. Settling makes the next in line due whether or not
that one looks put off, so that it waits for a claim that is putting it off just now.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Final

from relay.core.leads import OPEN, Attempt
from relay.core.pacing import Pace, spend
from relay.outbox.contract import Settlement
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
from relay.outbox.postgres_gate import lock_budget, write_budget
from relay.outbox.postgres_session import Connection
from relay.outbox.postgres_writer import each
from relay.outbox.queries import sql
from relay.outbox.rows import Row, attempt_row

# Limits are written into the statement: the planner must know that they are small.
DUE: Final = sql(
    """
    SELECT {entry}, l.seq, {behind} FROM leads AS l
    WHERE l.due_at <= $1
    ORDER BY l.due_at, l.seq LIMIT
    """
)

NEWEST_DUE: Final = sql(
    """
    SELECT {entry}, l.seq, {behind} FROM leads AS l
    WHERE l.due_at <= $1
    ORDER BY l.due_at DESC, l.seq DESC LIMIT
    """
)

PARKED: Final = sql(
    """
    SELECT {entry}, l.seq, {behind} FROM leads AS l
    WHERE l.status = 'parked' ORDER BY l.seq LIMIT
    """
)

# Looked at again under the lock: another relay may have been here since.
_LEASE: Final = sql(
    """
    UPDATE leads AS l SET status = 'sending', due_at = $2, token = $3
    WHERE l.seq = ANY(ARRAY(
        SELECT l.seq FROM leads AS l
        WHERE l.seq = ANY($1::bigint[]) AND l.status IN {sendable}
            AND (l.due_at <= $4 OR ($5 AND l.status = 'parked'))
            AND {behind} IS NULL
        ORDER BY l.seq FOR UPDATE OF l SKIP LOCKED
    ))
    RETURNING l.seq, {entry}
    """
)

_PUT_OFF: Final = sql(
    """
    UPDATE leads AS l SET due_at = p.due_at
    FROM unnest($1::bigint[], $2::bigint[]) AS p (seq, due_at)
    WHERE l.seq = p.seq AND {behind} IS NOT NULL AND l.seq = ANY(ARRAY(
        SELECT o.seq FROM leads AS o
        WHERE o.seq = ANY($1::bigint[]) AND o.due_at <= $3
        ORDER BY o.seq FOR UPDATE SKIP LOCKED
    ))
    """
)

_UNDER_WAY: Final = """
    SELECT id, token, seq, attempts, notes, customer, status FROM leads
    WHERE id = ANY($1::text[]) AND token IS NOT NULL
        AND status IN ('sending', 'confirmed')
    ORDER BY seq FOR UPDATE
"""

_RECORD: Final = """
    UPDATE leads AS l SET in_doubt = TRUE, due_at = r.due_at, attempts = r.attempts
    FROM unnest($1::bigint[], $2::bigint[], $3::integer[]) AS r (seq, due_at, attempts)
    WHERE l.seq = r.seq
"""

_SETTLE: Final = """
    UPDATE leads AS l SET
        status = e.status, due_at = e.due_at, token = NULL, attempts = e.attempts,
        notes = e.notes, last_error = e.last_error,
        delivered_at = coalesce(e.delivered_at, l.delivered_at),
        in_doubt = coalesce(e.in_doubt, l.in_doubt),
        round_at = coalesce(e.round_at, l.round_at),
        answer = coalesce(e.answer, l.answer)
    FROM unnest(
        $1::text[], $2::bigint[], $3::integer[], $4::text[], $5::text[], $6::bigint[],
        $7::boolean[], $8::bigint[], $9::text[], $10::bigint[]
    ) AS e (
        status, due_at, attempts, notes, last_error, delivered_at,
        in_doubt, round_at, answer, seq
    )
    WHERE l.seq = e.seq
"""

_OVERTAKEN: Final = """
    UPDATE leads AS l SET attempts = e.attempts, token = NULL
    FROM unnest($1::bigint[], $2::integer[]) AS e (seq, attempts) WHERE l.seq = e.seq
"""

_NEXT_IN_LINE: Final = """
    UPDATE leads SET due_at = least(due_at, $2::bigint)
    WHERE status = 'queued' AND seq = ANY(ARRAY(
        SELECT (
            SELECT min(o.seq) FROM leads AS o
            WHERE o.customer = c.customer AND o.status = 'queued'
        )
        FROM unnest($1::text[]) AS c (customer)
    ))
"""

_CONFIRM: Final = sql(
    """
    UPDATE leads SET status = 'confirmed', in_doubt = FALSE, due_at = NULL,
        last_error = NULL, delivered_at = coalesce(delivered_at, $1)
    WHERE id = ANY($2::text[]) AND status IN {confirmable}
        AND (in_doubt OR status NOT IN {open})
    RETURNING customer
    """
)

_ATTEMPTS: Final = """
    INSERT INTO attempts
        (lead_seq, n, at, step, duration_ms, outcome, http_status, code)
    SELECT * FROM unnest(
        $1::bigint[], $2::integer[], $3::bigint[], $4::text[], $5::bigint[],
        $6::text[], $7::integer[], $8::text[]
    )
"""

Recording = tuple[tuple[str, str], Sequence[Attempt], int]
"""A lead's id and token, the calls made, and until when its lease is renewed."""

Ending = tuple[tuple[str, str], Settlement, int]
"""A lead's id and token, how its delivery ended, and when."""


async def claim(
    connection: Connection, limit: int, now: int, lease_ms: int, pace: Pace | None
) -> Leased:
    """Lease what is due and first in its customer's line, oldest due first."""
    lease = Lease(secrets.token_hex(16), now, now + lease_ms)
    if pace is None:
        return Leased(await _oldest_and_newest(connection, limit, lease), lease.token)
    # Claims that pay go one after the other, over all relays.
    spent = await lock_budget(connection)
    rows = await _oldest_and_newest(connection, can_pay(spent, pace, limit, now), lease)
    if rows:
        calls = len(rows) * pace.calls
        await write_budget(connection, spend(spent, pace.plan, now, calls))
    return Leased(rows, lease.token)


async def _oldest_and_newest(
    connection: Connection, limit: int, lease: Lease
) -> list[Row]:
    oldest = limit - limit // FRESH_SHARE
    found = await _first(connection, DUE, oldest, lease)
    if len(found) == oldest:
        found += await _first(connection, NEWEST_DUE, limit - oldest, lease)
    return found


async def _first(
    connection: Connection, statement: str, limit: int, lease: Lease
) -> list[Row]:
    """Lease up to limit leads that are first in their lines, in that order."""
    found: list[Row] = []
    page = max(limit, CLAIM_PAGE)
    for _ in range(CLAIM_PAGES if limit > 0 else 0):
        rows = await connection.fetch(f"{statement} {page:d}", lease.now)
        ready = [due(tuple(row)) for row in rows]
        first = [one for one in ready if one.behind is None][: limit - len(found)]
        leased = await _lease(connection, first, lease)
        behind = [one for one in ready if one.behind is not None]
        await _put_off(connection, behind, lease)
        found += leased
        # Of a page that others have locked, nothing would be new the next time.
        if len(found) == limit or len(ready) < page or not (leased or behind):
            break
    return found


async def _lease(
    connection: Connection, first: Sequence[Due], lease: Lease, *, probe: bool = False
) -> list[Row]:
    """Lease those that are still there for it; give their rows, in this order."""
    if not first:
        return []
    seqs = [one.seq for one in first]
    rows = await connection.fetch(
        _LEASE, seqs, lease.until, lease.token, lease.now, probe
    )
    taken = {row[0]: tuple(row)[1:] for row in rows}
    return [taken[seq] for seq in seqs if seq in taken]


async def _put_off(connection: Connection, behind: Sequence[Due], lease: Lease) -> None:
    """Make what waits behind another lead due when that one is."""
    if behind:
        await connection.execute(
            _PUT_OFF,
            [one.seq for one in behind],
            [one.put_off(lease) for one in behind],
            lease.now,
        )


async def claim_probe(connection: Connection, now: int, lease_ms: int) -> Leased:
    """Lease one lead: the oldest parked one, or what a claim would take first."""
    lease = Lease(secrets.token_hex(16), now, now + lease_ms)
    parked = await connection.fetch(f"{PARKED} {PROBE_SCAN:d}")
    ready = [one for row in parked if (one := due(tuple(row))).behind is None]
    for one in ready:
        if rows := await _lease(connection, [one], lease, probe=True):
            return Leased(rows, lease.token)
    return await claim(connection, 1, now, lease_ms, None)


async def begin_recording(
    connection: Connection, arguments: Sequence[Recording]
) -> list[bool]:
    """Note that the leads may count from now on; renew their leases."""
    held = await _held(connection, [lease for lease, _, _ in arguments])
    rows: list[Row] = []
    calls: list[Row] = []
    done = []
    for lease, attempts, until in arguments:
        lead = held.pop(lease, None)
        done.append(lead is not None and lead["status"] == "sending")
        if lead is not None and done[-1]:
            calls += _calls(lead, attempts)
            rows.append((lead["seq"], until, lead["attempts"] + len(attempts)))
    await _write(connection, _ATTEMPTS, calls)
    await _write(connection, _RECORD, rows)
    return done


async def settle(connection: Connection, arguments: Sequence[Ending]) -> list[bool]:
    """Write how deliveries ended."""
    for _, end, _ in arguments:
        require_end(end.status)
    held = await _held(connection, [lease for lease, _, _ in arguments])
    ended = [(held.pop(lease, None), end, now) for lease, end, now in arguments]
    there = [(lead, end, now) for lead, end, now in ended if lead is not None]
    mine = [one for one in there if one[0]["status"] == "sending"]
    await _write(
        connection,
        _ATTEMPTS,
        [row for lead, end, _ in there for row in _calls(lead, end.attempts)],
    )
    await _write(
        connection,
        _SETTLE,
        [
            (*ending(end, lead["attempts"], lead["notes"], now), lead["seq"])
            for lead, end, now in mine
        ],
    )
    # A webhook has overtaken the answer: the calls are kept, the state stays.
    await _write(
        connection,
        _OVERTAKEN,
        [
            (lead["seq"], lead["attempts"] + len(end.attempts))
            for lead, end, _ in there
            if lead["status"] != "sending"
        ],
    )
    free = [
        (lead["customer"], now) for lead, end, now in mine if end.status not in OPEN
    ]
    await _next_in_line(connection, free)
    return [lead is not None for lead, _, _ in ended]


async def _next_in_line(
    connection: Connection, free: Sequence[tuple[str, int]]
) -> None:
    """Make the next lead of each customer due, who had one that ended then."""
    if free:
        customers = sorted({customer for customer, _ in free})
        await connection.execute(_NEXT_IN_LINE, customers, min(now for _, now in free))


@each
async def confirm(connection: Connection, lead_ids: Sequence[str], now: int) -> int:
    """Mark leads that Dub says it has; the next in their lines may go."""
    rows = await connection.fetch(_CONFIRM, now, list(lead_ids))
    await _next_in_line(connection, [(row[0], now) for row in rows])
    return len(rows)


async def _held(
    connection: Connection, leases: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Any]:
    """Find and lock the leads that are still held by these tokens."""
    rows = await connection.fetch(_UNDER_WAY, [lead_id for lead_id, _ in leases])
    return {(row["id"], row["token"]): row for row in rows}


def _calls(lead: Any, attempts: Iterable[Attempt]) -> list[Row]:
    first = lead["attempts"] + 1
    return [attempt_row(lead["seq"], n, one) for n, one in enumerate(attempts, first)]


async def _write(connection: Connection, statement: str, rows: Sequence[Row]) -> None:
    """Run a statement that takes each column as an array."""
    if rows:
        await connection.execute(statement, *map(list, zip(*rows, strict=True)))
