"""What is read of leads and of what is kept beside them, once for every database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from relay.core import jsontext
from relay.core.leads import OPEN, SETTLED, Attempt, LeadRecord, LeadStatus
from relay.outbox.contract import (
    Alert,
    AuditEntry,
    Credited,
    Findings,
    Query,
    Sample,
    Sighting,
)
from relay.outbox.database import NO_LIMIT, Database, Row, each, fetch_one
from relay.outbox.encryption import Seal
from relay.outbox.records import (
    attempt_of,
    both,
    entry_of,
    link_of,
    readable,
    sql,
)

# Each state by its name: a plan for any state walks all leads for one that has none.
_OLDEST_OPEN: Final = " UNION ALL ".join(
    f"""
    SELECT * FROM (
        SELECT round_at FROM leads WHERE status = '{one.value}' ORDER BY seq LIMIT 1
    ) AS {one.value}
    """  # noqa: S608 - of constants
    for one in sorted(OPEN)
).join(("SELECT min(round_at) FROM (", ") AS firsts"))

# SQLite's index of clicks is in parts, and each is asked (sqlite.sql).
_CLICK: Final = """
    l.click_id = ${} /*sqlite: AND l.seq IN (
        SELECT seq FROM leads WHERE click_id = ${} AND seq >> 10 IN (
            WITH RECURSIVE parts (n) AS (
                SELECT max(seq) >> 10 FROM leads
                UNION ALL SELECT n - 1 FROM parts WHERE n > 0
            )
            SELECT n FROM parts
        )
    )*/
"""


async def get(db: Database, lead_id: str, seal: Seal) -> LeadRecord | None:
    """Return one entry, or None."""
    row = await fetch_one(
        db, sql("SELECT {entry} FROM leads AS l WHERE l.id = $1"), lead_id
    )
    return None if row is None else entry_of(row, seal)


async def attempts(db: Database, lead_id: str) -> list[Attempt]:
    """Return every call made for a lead, oldest first."""
    rows = await db.fetch(
        """
        SELECT at, step, duration_ms, outcome, http_status, code FROM attempts
        WHERE lead_seq = (SELECT seq FROM leads WHERE id = $1) ORDER BY n
        """,
        lead_id,
    )
    return [attempt_of(row) for row in rows]


async def entries(db: Database, query: Query, seal: Seal) -> list[LeadRecord]:
    """Return entries, newest first."""
    limit = NO_LIMIT if query.limit is None else query.limit
    return [entry_of(row, seal) for row in await page(db, query, None, limit)]


async def page(db: Database, query: Query, below: int | None, limit: int) -> list[Row]:
    """Read up to limit entries below a seq, newest first: the entry, then its seq."""
    tests, values = where(query)
    if below is not None:
        values.append(below)
        tests += f" AND l.seq < ${len(values)}"
    statement = sql("SELECT {entry}, l.seq FROM leads AS l WHERE")
    last = f"ORDER BY l.seq DESC LIMIT ${len(values) + 1}::bigint"
    return [*await db.fetch(f"{statement} {tests} {last}", *values, limit)]


def where(query: Query) -> tuple[str, list[Any]]:
    """Return the condition of a query, and its values."""
    status, event = _hints(query)
    # Also what was the customer's before it was erased.
    names = None if query.customer is None else both([query.customer])
    wanted: list[tuple[str, Any]] = [
        (f"{status}l.status = ${{}}", query.status),
        ("l.customer = ANY(${}::text[])", names),
        ("l.created_at >= ${}", query.since),
        (_CLICK, query.click),
        (f"{event}l.event = ${{}}", query.event),
        ("l.link_id = ${}", query.link),
        ("l.partner_id = ${}", query.partner),
        ("l.seq < (SELECT seq FROM leads WHERE id = ${})", query.before),
    ]
    given = [(test, value) for test, value in wanted if value is not None]
    tests = [test.format(place, place) for place, (test, _) in enumerate(given, 1)]
    marked = (("missing_at", query.missing), ("doubled_at", query.doubled))
    tests += [f"l.{name} IS NOT NULL" for name, asked in marked if asked]
    return " AND ".join(["TRUE", *tests]), [value for _, value in given]


def _hints(query: Query) -> tuple[str, str]:
    """Keep SQLite from the index of status and of event where another is better.

    It knows no numbers: a customer and a click have few leads, and of the states,
    those in which leads end have most.
    """
    plus = "/*sqlite:+*/"
    few = query.customer, query.click, query.link, query.partner
    if query.missing or query.doubled or any(name is not None for name in few):
        return plus, plus
    if query.status is None or query.event is None:
        return "", ""
    return (plus, "") if query.status in SETTLED else ("", plus)


async def of_customers(
    db: Database, names: Sequence[str], seal: Seal
) -> list[LeadRecord]:
    """Return all entries of these customers."""
    statement = sql(
        "SELECT {entry} FROM leads AS l WHERE l.customer = ANY($1::text[]) ORDER BY seq"
    )
    return [entry_of(row, seal) for row in await db.fetch(statement, both(names))]


async def unproven(
    db: Database, since: int, until: int, limit: int, seal: Seal
) -> list[LeadRecord]:
    """Return entries delivered in a time that nothing has confirmed, oldest first.

    No refunds: Dub makes no event of them.
    """
    rows = await db.fetch(
        sql(
            """
            SELECT {entry} FROM leads AS l
            WHERE l.status = 'delivered' AND l.missing_at IS NULL
                AND l.mode <> 'deferred' AND l.delivered_at BETWEEN $1 AND $2
                AND (l.sale IS NULL OR l.sale NOT LIKE '%"refund":true%')
            ORDER BY l.delivered_at LIMIT $3
            """
        ),
        *(since, until, limit),
    )
    return [entry_of(row, seal) for row in rows]


async def first_at(db: Database) -> int | None:
    """Return when the first lead was captured (epoch ms)."""
    row = await fetch_one(db, "SELECT created_at FROM leads ORDER BY seq LIMIT 1")
    return None if row is None else row[0]


async def findings(db: Database) -> Findings:
    """Count what Dub's list does not have, and has too often."""
    row = await fetch_one(
        db,
        """
        SELECT (SELECT count(*) FROM leads WHERE missing_at IS NOT NULL),
            (SELECT count(*) FROM leads WHERE doubled_at IS NOT NULL)
        """,
    )
    return Findings(*(row or ()))


async def reconciliation(db: Database) -> str:
    """Return what is kept of reconciliation."""
    row = await fetch_one(db, "SELECT state FROM reconciliation")
    return "{}" if row is None else row[0]


@each
async def swap_reconciliation(db: Database, old: str, new: str) -> bool:
    """Put the new state in the old one's place, if that is still as it was."""
    statement = "UPDATE reconciliation SET state = $2 WHERE state = $1"
    return await db.execute(statement, old, new) == 1


async def oldest_open(db: Database) -> int | None:
    """Return since when the oldest open lead is tried (epoch ms)."""
    row = await fetch_one(db, _OLDEST_OPEN)
    return None if row is None else row[0]


async def reasons(db: Database, status: LeadStatus) -> dict[str, int]:
    """Count the leads of a state for each reason."""
    rows = await db.fetch(
        """
        SELECT coalesce(last_error, ''), count(*) FROM leads
        WHERE status = $1 GROUP BY 1
        """,
        status.value,
    )
    return dict(rows)


async def credits_since(db: Database, since: int) -> list[Credited]:
    """Count leads by link and state; those that Dub has not credited have no link."""
    rows = await db.fetch(
        """
        SELECT max(credit), status, count(*) FROM leads
        WHERE created_at >= $1 AND sale IS NULL GROUP BY link_id, partner_id, status
        """,
        since,
    )
    return [Credited(link_of(row[0]), LeadStatus(row[1]), row[2]) for row in rows]


async def persons(db: Database, above: int, limit: int) -> list[tuple[int, str, str]]:
    """Read seq, id and person of the next leads, oldest first."""
    rows = await db.fetch(
        """
        SELECT seq, id, person FROM leads
        WHERE seq > $1 AND erased_at IS NULL ORDER BY seq LIMIT $2
        """,
        above,
        limit,
    )
    return [(row[0], row[1], row[2]) for row in rows]


# --- What is kept beside the leads: the audit log, samples for plots, alerts. ---

_ALERT: Final = "cause, message_id, body, since, over, due_at, attempts"

_INSERT: Final = f"""
    INSERT INTO alerts ({_ALERT}) VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT DO NOTHING
"""  # noqa: S608 - of constants

_AS_IT_WAS: Final = """
    cause = $1 AND message_id = $2 AND due_at IS NOT DISTINCT FROM $3::bigint
"""

_REPLACE: Final = f"""
    UPDATE alerts SET
        message_id = $4, body = $5, since = $6, over = $7, due_at = $8, attempts = $9
    WHERE {_AS_IT_WAS}
"""  # noqa: S608 - of constants

_DELETE: Final = f"DELETE FROM alerts WHERE {_AS_IT_WAS}"  # noqa: S608 - of constants


@each
async def record(db: Database, act: AuditEntry) -> None:
    """Write down what a person did."""
    await db.execute(
        """
        INSERT INTO audit_log (at, actor, name, subject, detail)
        VALUES ($1, $2, $3, $4, $5)
        """,
        act.at,
        *map(readable, (act.actor, act.name, act.subject, act.detail)),
    )


async def audit_log(db: Database, limit: int) -> list[AuditEntry]:
    """Return what people did, newest first."""
    rows = await db.fetch(
        """
        SELECT at, actor, name, subject, detail FROM audit_log
        ORDER BY at DESC LIMIT $1
        """,
        limit,
    )
    return [AuditEntry(*row) for row in rows]


@each
async def sample(db: Database, taken: Sample, keep_since: int) -> None:
    """Keep a sample, and drop those that are too old."""
    await db.execute(
        """
        INSERT INTO samples (at, relay, seen) VALUES ($1, $2, $3)
        ON CONFLICT (at, relay) DO UPDATE SET seen = excluded.seen
        """,
        taken.at,
        taken.relay,
        jsontext.encode(dict(taken.seen)).decode(),
    )
    await db.execute("DELETE FROM samples WHERE at < $1", keep_since)


async def samples(db: Database, since: int) -> list[Sample]:
    """Return every relay's samples since then, oldest first."""
    rows = await db.fetch(
        "SELECT at, relay, seen FROM samples WHERE at >= $1 ORDER BY at, relay", since
    )
    return [Sample(at, relay, jsontext.decode(seen)) for at, relay, seen in rows]


@each
async def add_sightings(db: Database, fresh: Sequence[Sighting], keep: int) -> None:
    """Add to what was seen before; drop what was not seen for longest."""
    # In one order for all relays: they would wait for each other in a circle.
    for one in sorted(fresh, key=lambda one: (one.kind, one.name)):
        await db.execute(
            """
            INSERT INTO sightings AS s (kind, name, seen, times, first_at, last_at)
            VALUES ($1, $2, $3, $4, $5, $6)
            ON CONFLICT (kind, name) DO UPDATE SET
                seen = excluded.seen,
                times = s.times + excluded.times,
                last_at = excluded.last_at
            """,
            *(one.kind, one.name, jsontext.encode(dict(one.seen)).decode()),
            *(one.times, one.first_at, one.last_at),
        )
    for kind in sorted({one.kind for one in fresh}):
        await db.execute(
            """
            DELETE FROM sightings WHERE kind = $1 AND name IN (
                SELECT name FROM sightings WHERE kind = $1
                ORDER BY last_at DESC, name LIMIT 1000000 OFFSET $2
            )
            """,
            kind,
            keep,
        )


async def sightings(db: Database, kind: str) -> list[Sighting]:
    """Return what was seen of a kind, the last first."""
    rows = await db.fetch(
        """
        SELECT kind, name, seen, times, first_at, last_at FROM sightings
        WHERE kind = $1 ORDER BY last_at DESC, name
        """,
        kind,
    )
    return [
        Sighting(kind, name, jsontext.decode(seen), times, first_at, last_at)
        for _, name, seen, times, first_at, last_at in rows
    ]


async def alerts(db: Database) -> list[Alert]:
    """Return every cause that is not over, and every message to be sent."""
    rows = await db.fetch(f"SELECT {_ALERT} FROM alerts")  # noqa: S608 - of constants
    return [
        Alert(cause, message_id, body, since, bool(over), due_at, attempts)
        for cause, message_id, body, since, over, due_at, attempts in rows
    ]


@each
async def swap_alert(db: Database, old: Alert | None, new: Alert | None) -> bool:
    """Put the new row in the old one's place, if that is still as it was."""
    row = () if new is None else _row(new)
    if old is None:
        return bool(row) and await db.execute(_INSERT, *row) == 1
    as_it_was = (old.cause, old.message_id, old.due_at)
    if new is None:
        return await db.execute(_DELETE, *as_it_was) == 1
    return await db.execute(_REPLACE, *as_it_was, *row[1:]) == 1


def _row(alert: Alert) -> tuple[object, ...]:
    return (
        alert.cause,
        alert.message_id,
        alert.body,
        alert.since,
        alert.over,
        alert.due_at,
        alert.attempts,
    )
