"""What one look at Dub's list of events found, and what is kept between looks. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from relay.core import jsontext
from relay.core.dub.events import Kind
from relay.core.dub.retry import AT_WORK_MS
from relay.core.leads import Attempt, LeadRecord, Step


@dataclass(frozen=True, slots=True)
class Report:
    """What one look found. Times are epoch ms.

    ``checked``: leads and sales compared. ``confirmed``: those that the list has shown
    for the first time, ``settled``: those in doubt that it has settled.
    ``elsewhere``: events that no lead of ours made, by where they come from.
    ``not_provable`` says why Dub's events cannot be read, ``unfinished`` why the look
    ended early.
    """

    at: int = 0
    checked: int = 0
    confirmed: int = 0
    settled: int = 0
    missing: int = 0
    doubled: int = 0
    elsewhere: Mapping[str, int] = field(default_factory=dict)
    unreadable: int = 0
    calls: int = 0
    not_provable: str | None = None
    unfinished: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """What is kept between looks: JSON in the database.

    ``since`` is from when on the lists were read, ``until`` how far each was;
    ``holder`` looks until ``leased_until`` at least.
    """

    since: int | None = None
    until: Mapping[str, int] = field(default_factory=dict)
    holder: str = ""
    leased_until: int = 0
    report: Report | None = None

    @property
    def read_until(self) -> int | None:
        """How far both lists were read (epoch ms)."""
        return min(self.until.values(), default=None)

    @property
    def not_provable(self) -> str | None:
        """Why Dub's events could not be read when they were last asked for."""
        return None if self.report is None else self.report.not_provable

    @classmethod
    def read(cls, stored: str) -> Progress:
        """Read what was kept."""
        said = jsontext.decode(stored)
        report = said.get("report")
        known = {name: said[name] for name in cls.__slots__ if name in said}
        return cls(**known | {"report": report and Report(**report)})

    def write(self) -> str:
        """Write it as :meth:`read` takes it."""
        return jsontext.encode(asdict(self)).decode()


NEVER: Final = Progress()


def report_json(report: Report) -> dict[str, object]:
    """Return a report as ``reconcile --json`` prints it."""
    return {
        "checked": report.checked,
        "confirmed": report.confirmed,
        "missing": report.missing,
        "doubled": report.doubled,
        "elsewhere": sum(report.elsewhere.values()),
        "settled": report.settled,
        "notProvable": report.not_provable,
        "elsewhereBy": dict(report.elsewhere),
        "unreadable": report.unreadable,
        "calls": report.calls,
        "unfinished": report.unfinished,
    }


# --- Leads that are asked for by themselves. ---

Span = tuple[int, int]
"""A time's begin and end, epoch ms."""


@dataclass(frozen=True, slots=True)
class Sought:
    """A lead that is asked for by itself.

    ``spans``: when calls of it may have been counted, in order, apart from each other;
    ``called_until``: the end of its last call.
    """

    entry: LeadRecord
    spans: Sequence[Span]
    called_until: int

    @property
    def kind(self) -> Kind:
        """In which of Dub's lists it would stand."""
        return Kind.LEADS if self.entry.lead.sale is None else Kind.SALES


def sought_of(entry: LeadRecord, calls: Sequence[Attempt]) -> Sought:
    """Take the times of a lead's calls together.

    A call whose end nobody wrote down may have been made at any time until then.
    """
    ends = (one.at + one.duration_ms for one in calls)
    claimed = entry.key_claimed_at or entry.lead.created_at
    times = [(claimed, claimed)]
    times += (
        (one.at, one.at + one.duration_ms)
        for one in calls
        if one.step in (Step.RECORD, Step.SALE)
    )
    spans = joined((begin - AT_WORK_MS, end + AT_WORK_MS) for begin, end in times)
    return Sought(entry, spans, max(ends, default=entry.lead.created_at))


def joined(spans: Iterable[Span]) -> list[Span]:
    """Join spans that touch; the result is in order."""
    found: list[Span] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((begin, end))
    return found
