"""How rows of finished leads, and of held ones, go once they are old.

In small steps, in the order in which the leads came. What was not received in the order
of its time, such as an import, goes with the leads around it. Where a repeat must be
recognised for ever, hashes of its customer and dedupe key stay, and the lead's id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from relay.core.dub.track_sale import SALE_KEY
from relay.outbox.contract import Removed
from relay.outbox.database import Database, Row, each
from relay.outbox.records import ERASED, pseudonym, sql


class _Looked(NamedTuple):
    """What must be known of a lead to remove it, or to leave it."""

    seq: int
    lead_id: str
    customer: str
    dedupe_key: str
    created_at: int
    is_sale: bool
    is_old: bool
    is_finished: bool
    was_held: bool


# What Dub's list of events does not have, a person has to see first. What is held after
# all that time, nobody will decide.
_NEXT: Final = sql(
    """
    SELECT seq, id, customer, dedupe_key, created_at, sale IS NOT NULL,
        created_at < $2,
        (status IN {settled} OR status = 'held') AND missing_at IS NULL
            AND token IS NULL AND created_at < $2 AND round_at < $2
            AND coalesce(delivered_at, 0) < $2,
        status = 'held'
    FROM leads WHERE seq > $1 ORDER BY seq LIMIT $3
    """
)

# A lead whose row is locked is being confirmed, or removed by another relay.
_GONE: Final = """
    DELETE FROM leads WHERE seq = ANY(ARRAY(
        SELECT seq FROM leads WHERE seq = ANY($1::bigint[])
        ORDER BY seq FOR UPDATE SKIP LOCKED
    ))
"""

_REMEMBER: Final = """
    INSERT INTO removed AS r (customer, dedupe_key, lead_id, created_at)
    VALUES ($1, $2, $3, $4)
    ON CONFLICT (customer, dedupe_key) DO UPDATE SET
        lead_id = excluded.lead_id, created_at = excluded.created_at
    WHERE excluded.created_at > r.created_at
"""


@each
async def remove_old(
    db: Database,
    above: int,
    before: int,
    limit: int,
    for_ever: bool,  # noqa: FBT001 - a value of the settings
) -> Removed:
    """Remove what is finished and of before then, of the next leads above a seq."""
    rows = [_Looked(*row) for row in await db.fetch(_NEXT, above, before, limit)]
    gone = [row for row in rows if row.is_finished]
    counted = (row for row in gone if not row.was_held)
    known = (row for row in counted if for_ever or _is_invoice(row))
    await db.execute_many(_REMEMBER, sorted(map(_kept, known)))
    removed = await _delete(db, [row.seq for row in gone])
    is_end = not any(row.is_old for row in rows)
    return Removed(None if is_end else rows[-1].seq, removed)


async def _delete(db: Database, seqs: list[int]) -> int:
    return await db.execute(_GONE, seqs) if seqs else 0


def _kept(row: _Looked) -> Row:
    return (_hashed(row.customer), _hashed(row.dedupe_key), row.lead_id, row.created_at)


def _is_invoice(row: _Looked) -> bool:
    """Whether it is a sale that counts once for ever, whatever the settings say."""
    return bool(row.is_sale) and row.dedupe_key not in _NO_INVOICE


_NO_INVOICE: Final[Sequence[Any]] = (SALE_KEY, pseudonym(SALE_KEY))


def _hashed(name: str) -> str:
    """Return a name's hash; the name of an erased lead is one already."""
    return name if name.startswith(ERASED) else pseudonym(name)
