"""Between a lead and its row: columns, states in SQL, reading and writing.

Lists of states are made from the one table of moves, so that no statement can move a
lead where :data:`relay.core.leads.MOVES` does not let it go.

What has a shape of its own is kept as JSON text; any string that JSON can carry
is kept, lone surrogates as escapes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from relay.core import jsontext
from relay.core.leads import (
    MOVES,
    OPEN,
    RETRYABLE,
    SETTLED,
    Attempt,
    CreditedLink,
    Lead,
    LeadRecord,
    LeadStatus,
    Mode,
    Sale,
    Step,
    require_move,
)
from relay.outbox.contract import NewLead, Settlement, UnstorableError
from relay.outbox.database import Row
from relay.outbox.encryption import PLAIN, Seal, SealedError

ENTRY_COLUMNS: Final = (
    *("id", "source", "customer", "event", "click_id", "mode"),
    *("person", "notes", "origin", "created_at"),
    *("status", "attempts", "last_error", "due_at", "delivered_at", "in_doubt"),
    *("round_at", "erased_at", "sale", "answer", "key_claimed_at"),
    *("credit", "event_id", "confirmed_by", "events", "missing_at", "doubled_at"),
)
"""What :func:`entry_of` reads, in this order."""

NEW_LEAD_COLUMNS: Final = (
    *("id", "source", "customer", "event", "click_id", "mode"),
    *("person", "notes", "origin", "created_at"),
    *("status", "last_error", "due_at", "round_at"),
    *("dedupe_key", "idempotency_key", "body_hash", "sale"),
)
"""What :func:`row_of` writes, in this order."""


def from_to(old: Iterable[LeadStatus], new: LeadStatus) -> frozenset[LeadStatus]:
    """Return old; raise IllegalMoveError if one of them may not become new."""
    states = frozenset(old)
    for status in states:
        require_move(status, new)
    return states


SENDABLE: Final = from_to(OPEN, LeadStatus.SENDING)
PARKABLE: Final = from_to({LeadStatus.QUEUED, LeadStatus.WAITING}, LeadStatus.PARKED)
CONFIRMABLE: Final = frozenset(
    s for s in LeadStatus if LeadStatus.CONFIRMED in MOVES[s]
)
RESENDABLE: Final = from_to(RETRYABLE, LeadStatus.QUEUED) & from_to(
    RETRYABLE, LeadStatus.WAITING
)

UNPROVEN: Final = frozenset({LeadStatus.UNCONFIRMED, LeadStatus.DELIVERED})
"""States that Dub's list of events settles: taken without proof, or in doubt."""

UNCOUNTED: Final = frozenset({LeadStatus.HELD, LeadStatus.REJECTED})
"""States whose leads make no later one a duplicate: nothing came of them yet."""


def _listed(states: Iterable[LeadStatus]) -> str:
    # In the order of Status: SQLite uses an index on some of the rows only for
    # a query that writes its condition letter by letter as the index does.
    wanted = frozenset(states)
    return "(" + ", ".join(f"'{s.value}'" for s in LeadStatus if s in wanted) + ")"


_TYPES: Final = {
    **dict.fromkeys(("created_at", "due_at", "round_at"), "bigint"),
    "body_hash": "bytea",
}
"""PostgreSQL's types of the columns of a new lead that are no text."""


def _typed(suffix: str = "") -> str:
    return ", ".join(
        f"${place}::{_TYPES.get(name, 'text')}{suffix}"
        for place, name in enumerate(NEW_LEAD_COLUMNS, 1)
    )


_PARTS: Final = {
    "entry": ", ".join(f"l.{name}" for name in ENTRY_COLUMNS),
    "new_lead": ", ".join(NEW_LEAD_COLUMNS),
    "new_lead_values": _typed(),
    # A row from each place of as many arrays.
    "new_lead_arrays": _typed("[]"),
    "after_new_lead": f"${len(NEW_LEAD_COLUMNS) + 1}",
    "open": _listed(OPEN),
    "sendable": _listed(SENDABLE),
    "parkable": _listed(PARKABLE),
    "confirmable": _listed(CONFIRMABLE),
    "resendable": _listed(RESENDABLE),
    "uncounted": _listed(UNCOUNTED),
    "unproven": _listed(UNPROVEN),
    "settled": _listed(SETTLED),
}


def sql(text: str) -> str:
    """Put the shared parts into a statement: ``{entry}``, ``{open}``, ...

    Only constants of this module go in; values are always bound.
    """
    return text.format_map(_PARTS)


# When an older open lead of the same customer is due, 0 when that one is parked,
# NULL when there is none: then the lead l is first in its customer's line. Leads go
# before sales, which Dub refuses of a customer that it does not know yet.
_PARTS["behind"] = sql(
    """(
        SELECT coalesce(o.due_at, 0) FROM leads AS o
        WHERE o.customer = l.customer AND o.status IN {open} AND o.seq <> l.seq
            AND CASE WHEN l.sale IS NULL THEN o.sale IS NULL AND o.seq < l.seq
                ELSE o.sale IS NULL OR o.seq < l.seq END
        LIMIT 1
    )"""
)


_PERSON: Final = (
    *("customer_name", "customer_email", "customer_avatar"),
    *("event_quantity", "metadata"),
)


ERASED: Final = "erased:"
"""Begins what stands in the place of a name."""


def request_key(new_lead: NewLead) -> str | None:
    """Join source and the caller's key, so that sources do not meet."""
    if new_lead.idempotency_key is None:
        return None
    return f"{new_lead.lead.source}:{new_lead.idempotency_key}"


def row_of(new_lead: NewLead, seal: Seal = PLAIN) -> Row:
    """Return the row of a new lead, :data:`NEW_LEAD_COLUMNS`.

    Raises UnstorableError for a text that no database can keep.
    """
    lead = new_lead.lead
    due_at = lead.created_at + new_lead.waits_ms
    key = request_key(new_lead)
    _require_text(
        f"{lead.id}{lead.source}{lead.customer_external_id}{lead.event_name}"
        f"{lead.click_id}{new_lead.dedupe_key}{key}"
    )
    return (
        lead.id,
        lead.source,
        lead.customer_external_id,
        lead.event_name,
        lead.click_id,
        str(lead.mode),
        seal.close(_person(lead), lead.id),
        encode_notes(lead.notes),
        _encode(lead.origin if type(lead.origin) is dict else dict(lead.origin)),
        lead.created_at,
        str(new_lead.status),
        readable(new_lead.reason),
        due_at if new_lead.status is LeadStatus.QUEUED else None,
        due_at,
        new_lead.dedupe_key,
        key,
        new_lead.body_hash,
        None if lead.sale is None else _encode(asdict(lead.sale)),
    )


def entry_of(row: Sequence[Any], seal: Seal = PLAIN) -> LeadRecord:
    """Read an entry from :data:`ENTRY_COLUMNS`.

    One whose personal data cannot be decrypted comes without it, and says so.
    """
    person, answer, sealed = "{}", None, None
    try:
        person = seal.open(row[6], row[0])
        answer = None if row[19] is None else seal.open(row[19], row[0])
    except SealedError as error:
        sealed = str(error)
    lead = Lead(
        id=row[0],
        source=row[1],
        customer_external_id=row[2],
        event_name=row[3],
        click_id=row[4],
        mode=Mode(row[5]),
        **jsontext.decode(person),
        notes=tuple(jsontext.decode(row[7])),
        origin=jsontext.decode(row[8]),
        created_at=row[9],
        sale=None if row[18] is None else Sale(**jsontext.decode(row[18])),
    )
    return LeadRecord(
        lead,
        status=LeadStatus(row[10]),
        attempts=row[11],
        last_error=row[12],
        due_at=row[13],
        delivered_at=row[14],
        in_doubt=bool(row[15]),
        since=row[16],
        erased_at=row[17],
        sealed=sealed,
        answer=answer,
        key_claimed_at=row[20],
        link=link_of(row[21]),
        event_id=row[22],
        confirmed_by=row[23],
        events=events_of(row[24]),
        missing_at=row[25],
        doubled_at=row[26],
    )


def credit_row(link: CreditedLink | None) -> Row:
    """Return how a link is stored: credit, link_id and partner_id."""
    if link is None:
        return (None, None, None)
    said = {name: text for name, text in asdict(link).items() if text is not None}
    return (_encode(said), readable(link.id), readable(link.partner_id))


def link_of(credit: str | None) -> CreditedLink | None:
    """Read what :func:`credit_row` wrote as credit."""
    return None if credit is None else CreditedLink(**jsontext.decode(credit))


def events_of(stored: str | None) -> tuple[tuple[str, int], ...]:
    """Read the ids and times of Dub's events."""
    if stored is None:
        return ()
    return tuple((event_id, at) for event_id, at in jsontext.decode(stored))


def sealed_end(end: Settlement, lead_id: str, seal: Seal) -> Settlement:
    """Return an end as it is stored: Dub's answer shows who the customer is."""
    if end.answer is None:
        return end
    return replace(end, answer=seal.close(end.answer, lead_id))


def attempt_row(lead_seq: int, number: int, attempt: Attempt) -> Row:
    """Return the row of an attempt; number counts a lead's attempts from 1."""
    return (
        lead_seq,
        number,
        attempt.at,
        attempt.step.value,
        attempt.duration_ms,
        readable(attempt.outcome),
        attempt.http_status,
        readable(attempt.code),
    )


def attempt_of(row: Sequence[Any]) -> Attempt:
    """Read an attempt: at, step, duration_ms, outcome, http_status, code."""
    at, step, *rest = row
    return Attempt(at, Step(step), *rest)


def _encode(value: object) -> str:
    return jsontext.encode(value).decode()


def encode_notes(notes: Sequence[str]) -> str:
    """Write notes as JSON."""
    return _encode(list(notes)) if notes else "[]"


def without_invoice(sale: str) -> str:
    """Return what is kept of a sale once its customer is erased: not which it was."""
    return _encode(jsontext.decode(sale) | {"invoice_id": None})


def readable(text: str | None) -> str | None:
    """Make an explanation storable: what no database keeps becomes "?".

    An explanation may quote what Dub sent. Refusing it would keep a lead from
    ever being settled.
    """
    if text is None:
        return None
    return text.encode("utf-8", "replace").decode().replace("\0", "?")


def _person(lead: Lead) -> str:
    values = ((name, getattr(lead, name)) for name in _PERSON)
    return _encode({name: value for name, value in values if value is not None})


def _require_text(text: str) -> None:
    """Refuse what PostgreSQL and UTF-8 cannot hold: NUL and lone surrogates."""
    if "\0" in text:
        raise UnstorableError("a field of the lead holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UnstorableError("a field of the lead holds a lone surrogate") from error


def pseudonym(name: str) -> str:
    """Return what stands for a name once it is erased: SHA-256, cut to 128 bits.

    Without a key: anyone who holds the database and guesses a name can test the guess
    (docs/keeping.md).
    """
    return ERASED + hashlib.sha256(name.encode()).hexdigest()[:32]


def both(names: Iterable[str]) -> list[str]:
    """Return each name with what stands for it once it is erased."""
    return [each for name in names for each in (name, pseudonym(name))]
