"""How leads leave, once for every database: settlements, the circuit, the budget.

Claims and leases are each database's own (``backends``): what relays do at the same
moment is kept apart there by locks on rows, here by SQLite's one writer. Settling
makes the next in a customer's queue due whether or not that one looks put off, so
that it waits for a claim that is putting it off just now.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from relay.core import jsontext
from relay.core.dub.retry import (
    Move,
    key_free_at,
    may_have_run_out,
    wait_for_key,
)
from relay.core.dub.track_sale import SALE_KEY
from relay.core.leads import OPEN, Attempt, LeadStatus
from relay.core.pacing import Budget, spend, throttled
from relay.outbox.contract import (
    Circuit,
    OutboxUnavailableError,
    Proof,
    Requeued,
    Resolution,
    Settlement,
)
from relay.outbox.database import NO_LIMIT, Database, Row, each, fetch_one
from relay.outbox.leases import ending, require_end
from relay.outbox.records import (
    attempt_row,
    both,
    credit_row,
    encode_notes,
    readable,
    sql,
)

# (|| '': SQLite's planner would walk every lead in these states, not look up the ids.)
UNDER_WAY: Final = """
    SELECT id, token, seq, attempts, notes, customer, status FROM leads
    WHERE id = ANY($1::text[]) AND token IS NOT NULL
        AND (status || '') IN ('sending', 'confirmed')
    ORDER BY seq FOR UPDATE
"""

_RECORD: Final = """
    UPDATE leads SET in_doubt = TRUE, key_claimed_at = $1, due_at = $2, attempts = $3
    WHERE seq = $4
"""

_SETTLE: Final = """
    UPDATE leads SET
        status = $1, due_at = $2, token = NULL, attempts = $3, notes = $4,
        last_error = $5, delivered_at = coalesce($6::bigint, delivered_at),
        in_doubt = coalesce($7::boolean, in_doubt),
        round_at = coalesce($8::bigint, round_at),
        answer = coalesce($9::text, answer),
        key_claimed_at = CASE WHEN $10::bigint = -1 THEN key_claimed_at ELSE $10 END,
        credit = coalesce($11::text, credit), link_id = coalesce($12::text, link_id),
        partner_id = coalesce($13::text, partner_id),
        missing_at = CASE WHEN $2::bigint IS NULL THEN NULL ELSE missing_at END
    WHERE seq = $14
"""

_OVERTAKEN: Final = "UPDATE leads SET attempts = $1, token = NULL WHERE seq = $2"

_ATTEMPT: Final = """
    INSERT INTO attempts
        (lead_seq, n, at, step, duration_ms, outcome, http_status, code)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""

_NEXT_IN_QUEUE: Final = """
    UPDATE leads SET due_at = least(due_at, $1::bigint)
    WHERE status = 'queued' AND seq = (
        SELECT min(o.seq) FROM leads AS o
        WHERE o.customer = $2 AND o.status = 'queued'
    )
"""

# (|| '': as in UNDER_WAY.)
CONFIRM: Final = sql(
    """
    UPDATE leads SET status = 'confirmed', in_doubt = FALSE, due_at = NULL,
        last_error = NULL, delivered_at = coalesce(delivered_at, $1),
        confirmed_by = coalesce($4::text, confirmed_by),
        event_id = coalesce($5::text, event_id),
        credit = coalesce($6::text, credit), link_id = coalesce($7::text, link_id),
        partner_id = coalesce($8::text, partner_id),
        events = coalesce($9::text, events), missing_at = NULL
    WHERE id = ANY($2::text[]) AND (status || '') IN {confirmable}
        AND (in_doubt OR status NOT IN {open} OR $3 OR missing_at IS NOT NULL)
    RETURNING customer
    """
)

_SHOW: Final = """
    UPDATE leads SET doubled_at = coalesce(doubled_at, $2::bigint), missing_at = NULL,
        event_id = coalesce(event_id, $3::text), credit = coalesce(credit, $4::text),
        link_id = coalesce(link_id, $5::text),
        partner_id = coalesce(partner_id, $6::text),
        events = coalesce($7::text, events)
    WHERE id = $1
"""

_MISS: Final = """
    UPDATE leads SET missing_at = $2 WHERE id = ANY($1::text[])
        AND ((status || '') = 'delivered' OR missing_at IS NOT NULL)
"""

_UNPROVEN: Final = sql(
    """
    SELECT notes FROM leads WHERE id = $1 AND (status || '') IN {unproven}
    FOR UPDATE
    """
)

_RESOLVE: Final = """
    UPDATE leads SET status = $2, due_at = $3, last_error = $4, notes = $5,
        missing_at = $6, round_at = $7, in_doubt = FALSE
    WHERE id = $1
"""

_UNDOUBTED: Final = sql(
    """
    SELECT seq, notes FROM leads WHERE status IN {open} AND NOT in_doubt
    ORDER BY seq LIMIT $1 FOR UPDATE
    """
)

_DOUBT: Final = """
    UPDATE leads SET in_doubt = TRUE, notes = $2,
        key_claimed_at = coalesce(key_claimed_at, created_at)
    WHERE seq = $1
"""

_RESENDABLE: Final = sql(
    """
    SELECT customer, dedupe_key, created_at, in_doubt, key_claimed_at, last_error, notes
    FROM leads WHERE id = $1 AND erased_at IS NULL AND (
        (status || '') IN {resendable}
        OR status = 'delivered' AND missing_at IS NOT NULL
    )
    FOR UPDATE
    """
)

_COUNTED: Final = sql(
    """
    SELECT id, seq FROM leads
    WHERE customer = ANY($1::text[]) AND dedupe_key = ANY($2::text[])
        AND id <> $3 AND status NOT IN {uncounted}
        AND created_at BETWEEN $4 AND $5
    UNION ALL
    SELECT lead_id, 0 FROM removed
    WHERE customer = ANY($1::text[]) AND dedupe_key = ANY($2::text[])
        AND created_at BETWEEN $4 AND $5
    ORDER BY seq LIMIT 1
    """
)

_REQUEUE: Final = sql(
    """
    UPDATE leads SET status = $1, due_at = $2, round_at = $2, last_error = $3,
        notes = $4, in_doubt = $5 AND sale IS NULL
    WHERE id = $6
    """
)

# A lead whose row is locked is being claimed or settled: then it is no longer due.
# (|| '': the planners think that the state finds fewer leads than the time.)
PARK: Final = sql(
    """
    UPDATE leads SET status = 'parked', due_at = NULL WHERE seq = ANY(ARRAY(
        SELECT seq FROM leads /*sqlite:INDEXED BY leads_due*/
        WHERE due_at <= $1 AND (status || '') IN {parkable}
        ORDER BY due_at, seq LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
    """
)

UNPARK: Final = """
    UPDATE leads SET status = 'queued', due_at = $1, round_at = $1
    WHERE seq = ANY(ARRAY(
        SELECT seq FROM leads WHERE status = 'parked'
        ORDER BY seq LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
"""

_WAITS_FOR_KEY: Final = "(key_claimed_at IS NOT NULL AND NOT in_doubt)"

_MADE_DUE: Final = f"CASE WHEN {_WAITS_FOR_KEY} THEN $3::bigint ELSE $1 END"

# What waits for Dub's key is never made due: its call would be for nothing. Only a time
# that no clock can have meant, twice as far off as any key, is brought nearer.
RESCHEDULE: Final = sql(
    f"""
    UPDATE leads SET round_at = least(round_at, {_MADE_DUE}), due_at = {_MADE_DUE}
    WHERE seq = ANY(ARRAY(
        SELECT seq FROM leads /*sqlite:INDEXED BY leads_due*/
        WHERE due_at > $1 AND (status || '') IN {{parkable}}
            AND CASE WHEN {_WAITS_FOR_KEY}
                THEN due_at > $3::bigint + $3::bigint - $1::bigint
                ELSE round_at > $1 OR due_at > $2 END
        ORDER BY due_at, seq LIMIT $4 FOR UPDATE SKIP LOCKED
    ))
    """  # noqa: S608 - of constants
)

NO_KEYS: Final = frozenset({"", SALE_KEY})
"""Dedupe keys of what repeats nothing: unusable leads, sales without an invoice."""

_BUDGET: Final = "SELECT spent_until, paused_until, share, lowered_at FROM budget"

Recording = tuple[tuple[str, str], Sequence[Attempt], int, int]
"""A lead's id and token, the calls made, when, and until when its lease is renewed."""

Ending = tuple[tuple[str, str], Settlement, int]
"""A lead's id and token, how its delivery ended, and when."""


class _Leased(NamedTuple):
    """What must be known of a lead whose delivery is under way."""

    lead_id: str
    token: str
    seq: int
    attempts: int
    notes: str
    customer: str
    status: str

    @property
    def is_sending(self) -> bool:
        """Whether it can be settled still; else a webhook has confirmed it."""
        return self.status == "sending"

    def calls(self, attempts: Iterable[Attempt]) -> list[Row]:
        """Return the rows of further calls."""
        first = self.attempts + 1
        return [attempt_row(self.seq, n, one) for n, one in enumerate(attempts, first)]


async def _leased(
    db: Database, leases: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], _Leased]:
    """Find and lock the leads that these tokens hold still."""
    rows = await db.fetch(UNDER_WAY, [lead_id for lead_id, _ in leases])
    return {(row[0], row[1]): _Leased(*row) for row in rows}


async def begin_recording(db: Database, arguments: Sequence[Recording]) -> list[bool]:
    """Note that the leads may count from now on; renew their leases."""
    held = await _leased(db, [lease for lease, *_ in arguments])
    found = [
        (held.pop(lease, None), attempts, now, until)
        for lease, attempts, now, until in arguments
    ]
    mine = [
        (lead, attempts, now, until)
        for lead, attempts, now, until in found
        if lead is not None and lead.is_sending
    ]
    calls = [row for lead, attempts, _, _ in mine for row in lead.calls(attempts)]
    await db.execute_many(_ATTEMPT, calls)
    await db.execute_many(
        _RECORD,
        [
            (now, until, lead.attempts + len(attempts), lead.seq)
            for lead, attempts, now, until in mine
        ],
    )
    return [lead is not None and lead.is_sending for lead, *_ in found]


async def settle(db: Database, arguments: Sequence[Ending]) -> list[bool]:
    """Write how deliveries ended."""
    for _, end, _ in arguments:
        require_end(end.status)
    held = await _leased(db, [lease for lease, _, _ in arguments])
    ended = [(held.pop(lease, None), end, now) for lease, end, now in arguments]
    there = [(lead, end, now) for lead, end, now in ended if lead is not None]
    mine = [one for one in there if one[0].is_sending]
    calls = [row for lead, end, _ in there for row in lead.calls(end.attempts)]
    await db.execute_many(_ATTEMPT, calls)
    await db.execute_many(
        _SETTLE,
        [
            (*ending(end, lead.attempts, lead.notes, now), lead.seq)
            for lead, end, now in mine
        ],
    )
    # A webhook has overtaken the answer: the calls are kept, the state stays.
    await db.execute_many(
        _OVERTAKEN,
        [
            (lead.attempts + len(end.attempts), lead.seq)
            for lead, end, _ in there
            if not lead.is_sending
        ],
    )
    await next_in_queue(
        db, [(lead.customer, now) for lead, end, now in mine if end.status not in OPEN]
    )
    return [lead is not None for lead, _, _ in ended]


async def next_in_queue(db: Database, free: Iterable[tuple[str, int]]) -> None:
    """Make the next lead of each customer due, who had one that ended then."""
    # In order, so that two transactions never wait for each other.
    earliest = dict(sorted(set(free), key=lambda one: (one[0], -one[1])))
    await db.execute_many(
        _NEXT_IN_QUEUE, [(now, customer) for customer, now in earliest.items()]
    )


@each
async def confirm(
    db: Database,
    lead_ids: Sequence[str],
    now: int,
    proof: Proof,
) -> int:
    """Mark leads that Dub says it has; the next in their queues may go."""
    said = (proof.ours, proof.by, *_shown(proof))
    rows = await db.fetch(CONFIRM, now, list(lead_ids), *said)
    await next_in_queue(db, [(row[0], now) for row in rows])
    return len(rows)


def _shown(proof: Proof) -> Row:
    """Return event_id, credit, link_id, partner_id and events; None leaves them."""
    return (
        readable(proof.event_id),
        *credit_row(proof.link),
        jsontext.encode(proof.events).decode() if proof.events else None,
    )


@each
async def show(
    db: Database, lead_id: str, proof: Proof, doubled_at: int | None
) -> None:
    """Keep what Dub's list shows of a lead."""
    await db.execute(_SHOW, lead_id, doubled_at, *_shown(proof))


@each
async def miss(db: Database, lead_ids: Sequence[str], now: int) -> int:
    """Note that Dub's list does not have these."""
    return await db.execute(_MISS, list(lead_ids), now)


@each
async def resolve(db: Database, lead_id: str, end: Resolution, now: int) -> bool:
    """Settle what Dub's list does not show as ours."""
    row = await fetch_one(db, _UNPROVEN, lead_id)
    if row is None:
        return False
    notes = encode_notes([*json.loads(row[0]), end.note])
    missing_at = None if end.status is LeadStatus.DUPLICATE else now
    await db.execute(
        _RESOLVE,
        *(lead_id, end.status.value, end.due_at, readable(end.reason), notes),
        *(missing_at, now if end.due_at is None else end.due_at),
    )
    return True


@each
async def doubt(db: Database, note: str, limit: int) -> int:
    """Take open leads for ones that may have counted since they came; say why."""
    rows = await db.fetch(_UNDOUBTED, limit)
    await db.execute_many(
        _DOUBT,
        [(seq, encode_notes([*json.loads(notes), note])) for seq, notes in rows],
    )
    return len(rows)


@each
async def requeue(
    db: Database, lead_id: str, now: int, window_ms: int, key_ms: int
) -> Requeued:
    """Begin a new round for a lead that rests, unless another has counted for it."""
    row = await fetch_one(db, _RESENDABLE, lead_id)
    if row is None:
        return Requeued()
    customer, dedupe_key, created_at, in_doubt, claimed_at, reason, notes = row
    if dedupe_key not in NO_KEYS:
        span = NO_LIMIT if dedupe_key.startswith(SALE_KEY) else window_ms or NO_LIMIT
        names = both([customer]), both([dedupe_key])
        around = created_at - span, created_at + span
        other = await fetch_one(db, _COUNTED, *names, lead_id, *around)
        if other is not None:
            return Requeued(other=other[0])
    # Whether a call in doubt has counted, the same call again can show, as long as Dub
    # holds its key; after that the person who sends it again knows that it did not.
    in_doubt = in_doubt and not may_have_run_out(claimed_at, now)
    free_at = None if in_doubt else key_free_at(claimed_at, now, key_ms)
    move = Move(LeadStatus.QUEUED, now, reason)
    if free_at is not None:
        move = wait_for_key(claimed_at, free_at)
        notes = encode_notes([*json.loads(notes), str(move.note)])
    due_at = move.due_at
    values = (move.status.value, due_at, move.reason, notes, bool(in_doubt), lead_id)
    await db.execute(_REQUEUE, *values)
    return Requeued(due_at=due_at)


@each
async def park_due(db: Database, now: int, limit: int) -> int:
    """Park what is due."""
    return await db.execute(PARK, now, limit)


@each
async def unpark(db: Database, now: int, limit: int) -> int:
    """Put what is parked back in the queue, oldest first, with a new round.

    While it was parked it was not tried in vain.
    """
    return await db.execute(UNPARK, now, limit)


@each
async def reschedule(
    db: Database, now: int, latest: int, free_at: int, limit: int
) -> int:
    """Make due what only a clock that was set back keeps waiting."""
    return await db.execute(RESCHEDULE, now, latest, free_at, limit)


async def next_due(db: Database) -> int | None:
    """Return when the next entry becomes due (epoch ms)."""
    row = await fetch_one(
        db, "SELECT due_at FROM leads WHERE due_at IS NOT NULL ORDER BY due_at LIMIT 1"
    )
    return None if row is None else row[0]


# --- The circuit and the budget: one row each. ---


async def circuit(db: Database) -> Circuit:
    """Read the one circuit."""
    row = await _only(
        db, "SELECT is_open, reason, probe_at, failures, parks, paused FROM circuit"
    )
    is_open, reason, probe_at, failures, parks, paused = row
    return Circuit(bool(is_open), reason, probe_at, failures, bool(parks), bool(paused))


@each
async def set_circuit(db: Database, circuit: Circuit) -> None:
    """Write the one circuit."""
    await db.execute(
        """
        UPDATE circuit
        SET is_open = $1, reason = $2, probe_at = $3, failures = $4, parks = $5
        """,
        circuit.open,
        readable(circuit.reason),
        circuit.probe_at,
        circuit.failures,
        circuit.parks,
    )


@each
async def pause(db: Database, paused: bool) -> None:  # noqa: FBT001 - a value to write
    """Write whether a person has stopped delivery."""
    await db.execute("UPDATE circuit SET paused = $1", paused)


async def budget(db: Database) -> Budget:
    """Read the one budget."""
    return Budget(*await _only(db, _BUDGET))


async def lock_budget(db: Database) -> Budget:
    """Read the one budget; nobody else spends of it until this transaction ends."""
    return Budget(*await _only(db, f"{_BUDGET} FOR UPDATE"))


async def write_budget(db: Database, spent: Budget) -> None:
    """Write the one budget, which must be locked."""
    await db.execute(
        """
        UPDATE budget
        SET spent_until = $1, paused_until = $2, share = $3, lowered_at = $4
        """,
        float(spent.spent_until),
        spent.paused_until,
        float(spent.share),
        spent.lowered_at,
    )


@each
async def throttle(db: Database, plan: int, now: int, until: int) -> None:
    """Lower the shared rate, and pause."""
    await write_budget(db, throttled(await lock_budget(db), plan, now, until))


@each
async def spend_calls(db: Database, plan: int, now: int, calls: int) -> None:
    """Pay for calls that belong to no claim."""
    await write_budget(db, spend(await lock_budget(db), plan, now, calls))


@each
async def beat(db: Database) -> None:
    """Commit something harmless that reaches the disk."""
    await db.execute("UPDATE pulse SET beats = beats + 1")


@each
async def touch(_: Database) -> None:
    """Do nothing: to open the database is enough."""


async def _only(db: Database, statement: str) -> tuple[Any, ...]:
    row = await fetch_one(db, statement)
    if row is None:
        raise OutboxUnavailableError("the database has lost its rows")
    return row
