"""Takes in leads of another ledger: an export of a relay, or a list of one's own.

What Dub has already stays as it is and is never sent; the rest is sent, behind the
sign-ups that come meanwhile. A row always makes a lead of the same id, so that an
import which broke off is simply run again.
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final

from relay.core import jsontext
from relay.core.clock import iso
from relay.core.dub.fields import InvalidFieldError
from relay.core.dub.track_lead import LeadFields, dedupe_key, lead_of, sanitise
from relay.core.dub.track_sale import sale_key, sanitise_sale
from relay.core.leads import OPEN, CreditedLink, Lead, LeadStatus, Mode
from relay.operations.presentation import (
    EXPORT_COLUMNS,
    EXPORT_FIELDS,
    FORMULA_STARTS,
)
from relay.outbox.contract import (
    ImportedLead,
    Inserted,
    InsertResult,
    NewLead,
    Outbox,
)

SOURCE: Final = "import"

BATCH: Final = 50
"""Leads in flight to the database at once: they share a commit."""

PAUSE_S: Final = 0.02
"""Between two batches, for the sign-ups that come meanwhile."""

LOOK_S: Final = 1.0
"""How often it is looked whether the queue is short enough for more."""

MAX_CELL: Final = 2**31 - 1
"""Characters of a cell: the fields have limits of their own. Python's limit would end
the reading of a file at a quote that is not closed."""

DELIMITERS: Final = ",;\t"
"""What spreadsheets put between cells, by country."""

KNOWN: Final = frozenset((*EXPORT_FIELDS, *EXPORT_COLUMNS))
"""Columns that an import reads, or knows to be of no use to it."""

_ID: Final = re.compile(r"lead_[0-9A-Za-z]{8,64}")

_INTEGERS: Final = ("eventQuantity", "amount", "attempts")

_DOCUMENTS: Final = ("notes", "metadata")

Row = Mapping[str, Any]


class WrongRowError(Exception):
    """A row that cannot become a lead; the message says why, and quotes nothing."""


class ErasedRowError(Exception):
    """A row whose personal data was erased: there is no lead to be made of it."""


class RefundRowError(Exception):
    """A row of a refund, which was the other ledger's to tell Dub of.

    An export does not have all of a refund; taken for a sale it would count.
    """


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row of the file begins: its offset in bytes, and its line from 1."""

    offset: int
    line: int


class LedgerFile:
    """An open file of CSV, with a head, or of JSON lines; read as often as need be.

    Raises WrongRowError where it is neither.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        first = self._file.readline()
        self._is_json = first.lstrip(b"\xef\xbb\xbf \t").startswith(b"{")
        self._delimiter = max(DELIMITERS, key=lambda one: first.count(one.encode()))
        self._head: list[str] = []
        self._begin = Place(0, 1)
        if not self._is_json:
            self._file.seek(0)
            lines = _Lines(self._file, self._begin)
            self._head = next(self._csv(lines), [])
            self._begin = lines.next
            if "customerExternalId" not in self._head:
                raise WrongRowError(
                    "neither JSON lines nor CSV with a column customerExternalId"
                )

    def _csv(self, lines: Iterator[str]) -> Iterator[list[str]]:
        csv.field_size_limit(MAX_CELL)
        return csv.reader(lines, delimiter=self._delimiter)

    @property
    def unknown_columns(self) -> list[str]:
        """Columns of CSV that nothing reads."""
        return [name for name in self._head if name not in KNOWN]

    def places(self) -> Iterator[Place]:
        """Return where each row begins; blank lines are none."""
        lines = _Lines(self._file, self._begin)
        if self._is_json:
            for place, line in lines.with_places():
                if line.strip():
                    yield place
            return
        rows = self._csv(lines)
        while True:
            place = lines.next
            row = next(rows, None)
            if row is None:
                return
            if row:
                yield place

    def row(self, place: Place) -> Row:
        """Read the row at a place; raise WrongRowError."""
        lines = _Lines(self._file, place)
        if self._is_json:
            return _json_row(next(lines))
        cells = next(self._csv(lines))
        _require_utf8("".join(cells))
        if len(cells) != len(self._head):
            raise WrongRowError(f"{len(cells)} cells for {len(self._head)} columns")
        return _csv_row(dict(zip(self._head, cells, strict=True)))


class _Lines:
    """Lines of a file from a place on; ``next`` is where the next one begins."""

    def __init__(self, file: BinaryIO, begin: Place) -> None:
        self._file = file
        self.next = begin

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        self._file.seek(self.next.offset)
        line = self._file.readline()
        if not line:
            raise StopIteration
        self.next = Place(self.next.offset + len(line), self.next.line + 1)
        return line.decode("utf-8-sig", "surrogateescape")

    def with_places(self) -> Iterator[tuple[Place, str]]:
        place = self.next
        for line in self:
            yield place, line
            place = self.next


def _require_utf8(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise WrongRowError("not UTF-8") from None


def _json_row(line: str) -> Row:
    _require_utf8(line)
    try:
        row = jsontext.decode(line.encode())
    except ValueError:
        raise WrongRowError("not JSON") from None
    if not isinstance(row, dict):
        raise WrongRowError("not a JSON object")
    sale = row.get("sale")
    return {**row, **sale} if isinstance(sale, dict) else row


def _csv_row(cells: Mapping[str, str]) -> Row:
    """Give the cells the types that JSON has; an empty one is null."""
    row: dict[str, Any] = {}
    for name, cell in cells.items():
        text = _unguarded(cell)
        if not text:
            row[name] = None
        elif name in _INTEGERS:
            row[name] = int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text
        elif name in _DOCUMENTS:
            row[name] = _json_cell(name, text)
        else:
            row[name] = text
    return row


def _json_cell(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise WrongRowError(f"{name}: not JSON") from None


def _unguarded(cell: str) -> str:
    """Take away the ' that an export puts before what looks like a formula."""
    guarded = cell.startswith("'") and cell[1:].startswith(FORMULA_STARTS)
    return cell[1:] if guarded else cell


def imported_lead(row: Row, now: int) -> ImportedLead:
    """Make the lead of a row; raise WrongRowError, ErasedRowError or RefundRowError."""
    if row.get("erasedAt") is not None:
        raise ErasedRowError
    if row.get("kind") == "refund":
        raise RefundRowError
    status = _status(row.get("status"))
    created_at = _time(row, "createdAt", now)
    if created_at is None:
        raise WrongRowError("createdAt: is missing")
    fields, left_out = _fields(row)
    kept = replace(_lead(row, fields, created_at), notes=_notes(row, left_out, now))
    key, since = _counted_once(kept)
    to_be_sent = status in OPEN
    return ImportedLead(
        NewLead(
            replace(kept, origin=_origin(row, now)),
            dedupe_key=key,
            # What Dub has is told as it was; what is sent must count nowhere else.
            dedupe_since=since if to_be_sent else None,
            reason=None if to_be_sent else _text(row.get("lastError")),
        ),
        LeadStatus.QUEUED if to_be_sent else status,
        since=now,
        in_doubt=status is LeadStatus.UNCONFIRMED or (to_be_sent and _was_called(row)),
        delivered_at=_time(row, "deliveredAt", now),
        link=_link(row),
        event_id=_text(row.get("dubEventId")),
        confirmed_by=_text(row.get("confirmedBy")),
    )


def _status(given: object) -> LeadStatus:
    """Read a state; a row without one is a lead that Dub does not have."""
    try:
        return LeadStatus.QUEUED if given is None else LeadStatus(str(given))
    except ValueError:
        raise WrongRowError("status: not a lead's state") from None


def _was_called(row: Row) -> bool:
    """Whether another ledger has called Dub for a lead that is open there."""
    return bool(row.get("attempts"))


def _time(row: Row, name: str, now: int) -> int | None:
    """Read ISO 8601 as epoch ms; UTC unless it says so."""
    given = row.get(name)
    if given is None:
        return None
    try:
        point = datetime.fromisoformat(given if isinstance(given, str) else "")
    except ValueError:
        raise WrongRowError(f"{name}: not a time such as 2026-01-31T12:00Z") from None
    at = round(point.replace(tzinfo=point.tzinfo or UTC).timestamp() * 1000)
    if not 0 < at <= now:
        raise WrongRowError(f"{name}: not in the past")
    return at


def _fields(row: Row) -> tuple[LeadFields, tuple[str, ...]]:
    body = {name: value for name, value in row.items() if value is not None}
    if row.get("kind") not in (None, "lead", "sale"):
        raise WrongRowError("kind: neither lead nor sale")
    is_sale = row.get("kind") == "sale" or (
        row.get("kind") is None and row.get("amount") is not None
    )
    try:
        return sanitise_sale(body) if is_sale else sanitise(body)
    except InvalidFieldError as error:
        raise WrongRowError(f"{error.issue.field}: {error.issue.message}") from None


def _lead(row: Row, fields: LeadFields, created_at: int) -> Lead:
    return lead_of(
        fields,
        id=_id(row, fields, created_at),
        source=SOURCE,
        click_id=fields.click_id or "",
        created_at=created_at,
    )


def _id(row: Row, fields: LeadFields, created_at: int) -> str:
    """Return the row's own id, else one that follows from what it says."""
    given = row.get("id")
    if isinstance(given, str) and _ID.fullmatch(given):
        return given
    invoice = fields.sale.invoice_id if fields.sale else None
    amount = fields.sale.amount if fields.sale else None
    told = (given, fields.customer_external_id, fields.event_name, fields.click_id)
    digest = hashlib.sha256(repr((*told, fields.mode, invoice, amount)).encode())
    return f"lead_{created_at:012x}{digest.hexdigest()[:20]}"


def _notes(row: Row, left_out: tuple[str, ...], now: int) -> tuple[str, ...]:
    notes = row.get("notes")
    if notes is not None and not (
        isinstance(notes, list) and all(isinstance(note, str) for note in notes)
    ):
        raise WrongRowError("notes: not an array of texts")
    return (f"Imported at {iso(now)}.", *(notes or ()), *left_out)


def _origin(row: Row, now: int) -> dict[str, str]:
    earlier = {name: _text(row.get(name)) for name in ("source", "status")}
    known = {name: text for name, text in earlier.items() if text is not None}
    return {"click": SOURCE, "imported": iso(now), **known}


def _counted_once(lead: Lead) -> tuple[str, int | None]:
    """Say which leads an import repeats: the same at any time, as for an invoice."""
    if lead.sale is not None:
        return sale_key(lead.sale), 0 if lead.sale.invoice_id else None
    deferred = lead.mode is Mode.DEFERRED
    names = lead.customer_external_id, lead.event_name
    return dedupe_key(*names, deferred=deferred), 0


def _link(row: Row) -> CreditedLink | None:
    link_id = _text(row.get("linkId"))
    if link_id is None:
        return None
    return CreditedLink(
        link_id,
        domain=_text(row.get("linkDomain")),
        key=_text(row.get("linkKey")),
        partner_id=_text(row.get("partnerId")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


@dataclass
class ImportTally:
    """What an import has found and done; ``wrong`` are lines and why."""

    read: int = 0
    new: int = 0
    to_be_sent: int = 0
    duplicate: int = 0
    erased: int = 0
    refunds: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def leads(self) -> int:
        """Rows that leads can be made of."""
        return self.read - self.erased - self.refunds - len(self.wrong)

    def json(self) -> dict[str, int]:
        """Return the counts, as ``--json`` prints them."""
        return {
            "read": self.read,
            "new": self.new,
            "toBeSent": self.to_be_sent,
            "duplicate": self.duplicate,
            "erased": self.erased,
            "refunds": self.refunds,
            "wrong": len(self.wrong),
        }


class LeadImport:
    """One import of one file, as of ``now``.

    ``ahead`` is how many leads may wait in the queue before more are added to it:
    a sign-up that comes meanwhile waits behind so many at most. ``waiting`` is called
    with how many there are, each time that there are too many.
    """

    def __init__(
        self,
        file: LedgerFile,
        outbox: Outbox,
        *,
        ahead: int,
        waiting: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._file = file
        self._outbox = outbox
        self._now = outbox.now()
        self._ahead = ahead
        self._waiting = waiting
        self._settled: list[tuple[int, Place]] = []
        self._open: list[tuple[int, Place]] = []

    def check(self) -> ImportTally:
        """Read the whole file once, and say what is wrong with it."""
        tally = ImportTally()
        for place in self._file.places():
            tally.read += 1
            try:
                one = self._lead(place)
            except ErasedRowError:
                tally.erased += 1
            except RefundRowError:
                tally.refunds += 1
            except WrongRowError as error:
                tally.wrong.append(f"line {place.line}: {error}")
            else:
                is_open = one.status is LeadStatus.QUEUED
                rows = self._open if is_open else self._settled
                rows.append((one.new_lead.lead.created_at, place))
        # What Dub has comes first, so that nothing of it is sent again; a customer's
        # leads go in the order in which they came.
        for rows in (self._settled, self._open):
            rows.sort(key=lambda row: row[0])
        return tally

    async def preview(self, tally: ImportTally) -> None:
        """Count what :meth:`run` would do, and change nothing."""
        ids: set[str] = set()
        counted: set[tuple[str, str]] = set()
        for _, place in (*self._settled, *self._open):
            one = self._lead(place)
            lead, key = one.new_lead.lead, one.new_lead.dedupe_key
            result = await self._outbox.import_lead(one, dry=True)
            name = lead.customer_external_id, key
            known = lead.id in ids or (
                one.new_lead.dedupe_since is not None and name in counted
            )
            if known:
                result = result._replace(outcome=Inserted.DUPLICATE)
            ids.add(lead.id)
            if one.status is not LeadStatus.REJECTED:
                counted.add(name)
            _count(tally, one, result)

    async def run(self, tally: ImportTally) -> None:
        """Import what :meth:`check` has found; raise OutboxError."""
        for begin in range(0, len(self._settled), BATCH):
            await self._store(self._settled[begin : begin + BATCH], tally)
        done = 0
        while done < len(self._open):
            room = self._ahead - await self._in_queue()
            if room <= 0:
                self._waiting(self._ahead - room)
                await asyncio.sleep(LOOK_S)
                continue
            size = min(room, BATCH)
            await self._store(self._open[done : done + size], tally)
            done += size

    async def _in_queue(self) -> int:
        counts = await self._outbox.counts()
        before = (LeadStatus.QUEUED, LeadStatus.SENDING, LeadStatus.PARKED)
        return sum(counts.get(status, 0) for status in before)

    async def _store(self, rows: list[tuple[int, Place]], tally: ImportTally) -> None:
        leads = [self._lead(place) for _, place in rows]
        results = await asyncio.gather(*map(self._outbox.import_lead, leads))
        for one, result in zip(leads, results, strict=True):
            _count(tally, one, result)
        await asyncio.sleep(PAUSE_S)

    def _lead(self, place: Place) -> ImportedLead:
        return imported_lead(self._file.row(place), self._now)


def _count(tally: ImportTally, one: ImportedLead, result: InsertResult) -> None:
    if result.outcome is not Inserted.NEW:
        tally.duplicate += 1
        return
    tally.new += 1
    tally.to_be_sent += one.status is LeadStatus.QUEUED
