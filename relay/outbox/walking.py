"""Walks through all leads, a page at a time, the same for every database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from relay.core.leads import LeadRecord
from relay.outbox.contract import Query, Rekeyed
from relay.outbox.rows import Row, entry_of
from relay.outbox.sealing import Seal, SealedError

PAGE: Final = 500
"""Entries read at once: about a megabyte, some milliseconds."""

Read = Callable[[Query, int | None, int], Awaitable[Sequence[Row]]]
"""Reads entries below a seq, newest first: each row's last column is its seq."""

Change = tuple[str, int, str]
"""A person as it is to be, the lead's seq, and the person as it was read."""

Replace = Callable[[tuple[list[Change]]], Awaitable[int]]


async def scanned(read: Read, query: Query, seal: Seal) -> AsyncIterator[LeadRecord]:
    """Give every entry of a query, up to its limit."""
    left, below = query.limit, None
    everything = replace(query, limit=None)
    while left is None or left > 0:
        size = PAGE if left is None else min(PAGE, left)
        rows = await read(everything, below, size)
        for *row, _ in rows:
            yield entry_of(row, seal)
        if len(rows) < size:
            return
        below = rows[-1][-1]
        left = None if left is None else left - len(rows)


async def rekeyed(
    found: Sequence[tuple[int, str, str]], seal: Seal, write: Replace
) -> Rekeyed:
    """Write anew what is not under the first key; found: seq, id and person each."""
    changes: list[Change] = []
    unreadable = 0
    for seq, lead_id, person in found:
        if seal.is_current(person):
            continue
        try:
            plain = seal.open(person, lead_id)
        except SealedError:
            unreadable += 1
        else:
            changes.append((seal.close(plain, lead_id), seq, person))
    changed = await write((changes,)) if changes else 0
    last = found[-1][0] if found else None
    return Rekeyed(last, changed, unreadable, busy=len(changes) - changed)
