"""Leads of sign-ups that went around the relay, out of a front server's log or a HAR.

What is read is counted by what became of it; nothing is taken twice, however often a
file is read.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from relay.capture.click_cookie import Landing
from relay.capture.intake import Intake
from relay.config.settings import Settings
from relay.core.clock import now_ms
from relay.core.leads import LeadStatus
from relay.core.rules.bypass import (
    MAX_LINE,
    Bypassed,
    BypassError,
    judge_bypassed,
    read_line,
)
from relay.core.rules.har import read_har
from relay.http.callers import Visit
from relay.observability.logging import get_logger
from relay.observability.metrics import Metrics
from relay.outbox.contract import (
    Inserted,
    NewLead,
    Outbox,
    OutboxUnavailableError,
    Query,
)

log = get_logger()

SOURCE: Final = "recovered"

LOOK_S: Final = 10.0
"""How often a watched log is looked at."""

_NO_LEAD: Final = frozenset({LeadStatus.HELD, LeadStatus.REJECTED})
"""States of leads of which nothing came: none repeats them."""


@dataclass
class Recovered:
    """What became of the sign-ups of a file.

    ``duplicate``: the ledger has it; ``noRule``: no rule matches it; ``rejected``:
    kept with the reason why Dub cannot have it as it is; ``refused``: the site did not
    accept it; ``unattributed``: it has no click.
    """

    read: int = 0
    new: int = 0
    duplicate: int = 0
    noRule: int = 0  # noqa: N815 - as it is printed
    rejected: int = 0
    unreadable: int = 0
    refused: int = 0
    unattributed: int = 0

    def count(self, what: str) -> None:
        """Count one sign-up."""
        self.read += 1
        setattr(self, what, getattr(self, what) + 1)

    def as_json(self) -> dict[str, int]:
        """Return the counts by their names."""
        return asdict(self)

    def __str__(self) -> str:
        """Say what is not zero."""
        counts = self.as_json()
        counts.pop("read")
        found = [f"{count} {_WORDS[name]}" for name, count in counts.items() if count]
        return f"{self.read} read: {', '.join(found) or 'nothing'}."


_WORDS: Final = {
    "new": "new",
    "duplicate": "known already",
    "noRule": "that no rule matches",
    "rejected": "kept as rejected",
    "unreadable": "unreadable",
    "refused": "refused by the site",
    "unattributed": "without a click",
}


class Line(NamedTuple):
    """One record of a file: where it begins, and its bytes."""

    offset: int
    content: bytes


class Recovery:
    """Runs the rules over what went around, and commits what they make of it."""

    def __init__(self, outbox: Outbox, intake: Intake, settings: Settings) -> None:
        self._outbox = outbox
        self._intake = intake
        self._rules = settings.signup
        self._landing = Landing(
            settings.secret,
            domain=settings.cookie_domain,
            days=settings.cookie_days,
            attribution=settings.attribution,
            clock=now_ms,
            metrics=Metrics(),
        )

    async def take(self, one: Bypassed, key: bytes, *, dry_run: bool = False) -> str:
        """Commit the lead of one sign-up; return under which name it is counted.

        ``key`` is what makes the record this one. Raises OutboxUnavailableError.
        """
        new_lead = self._new_lead(one, key)
        if isinstance(new_lead, str):
            return new_lead
        if dry_run:
            return await self._foreseen(new_lead)
        result = await self._intake.commit(new_lead)
        if result.outcome is not Inserted.NEW:
            return "duplicate"
        return "rejected" if new_lead.status is LeadStatus.REJECTED else "new"

    def _new_lead(self, one: Bypassed, key: bytes) -> NewLead | str:
        judged = judge_bypassed(self._rules, one.exchange)
        if judged is None:
            return "noRule"
        if judged.draft is None:
            return "refused"
        asked = one.exchange
        click = self._landing.click(
            Visit(asked.method, asked.target, asked.headers, one.host, one.secure)
        )
        click_id = click.id
        if click_id is None:
            if not judged.rule.known_customer:
                return "unattributed"
            click_id = ""
        note = f"it went around the relay ({one.at}), and was recovered from a record"
        new_lead = self._intake.drafted(
            SOURCE,
            judged.draft.fields,
            judged.draft.problem,
            (*judged.draft.notes, note),
            click_id=click_id,
            origin={"click": click.source, "rule": judged.rule.label},
        )
        digest = hashlib.sha256(key)
        return replace(
            new_lead,
            idempotency_key=f"{SOURCE}:{digest.hexdigest()}",
            body_hash=digest.digest(),
        )

    async def _foreseen(self, new_lead: NewLead) -> str:
        """Say what the ledger would make of it."""
        lead = new_lead.lead
        since = new_lead.dedupe_since
        if since is not None:
            for known in await self._outbox.list(
                Query(customer=lead.customer_external_id, since=since)
            ):
                same = known.lead.event_name == lead.event_name
                if same and known.status not in _NO_LEAD:
                    return "duplicate"
        return "rejected" if new_lead.status is LeadStatus.REJECTED else "new"


async def recover_file(
    recovery: Recovery,
    path: Path,
    *,
    dry_run: bool = False,
    remove: bool = False,
    on_unreadable: Callable[[int, str], None] = lambda _, __: None,
) -> Recovered:
    """Recover all sign-ups of a front server's log, or of a HAR.

    With ``remove`` the records that are settled are overwritten in place, by line
    breaks: whoever appends to the log meanwhile is not disturbed. Raises OSError,
    TryoutError for a HAR that is malformed, and OutboxUnavailableError.
    """
    found = Recovered()
    content = await asyncio.to_thread(path.read_bytes)
    if (har := _as_har(content)) is not None:
        for one in har:
            key = repr(one.exchange).encode()
            found.count(await recovery.take(one, key, dry_run=dry_run))
        return found
    for number, line in enumerate(_lines(content), 1):
        unreadable = partial(on_unreadable, number)
        what = await _taken(recovery, line, unreadable, dry_run=dry_run)
        if what is None:
            continue
        found.count(what)
        if remove and not dry_run and what != "unreadable":
            await asyncio.to_thread(_blank, path, [line])
    return found


async def _taken(
    recovery: Recovery,
    line: Line,
    on_unreadable: Callable[[str], None],
    *,
    dry_run: bool = False,
) -> str | None:
    """Take a line's sign-up; return under which name it is counted, None for none."""
    if not line.content.strip(b"\r\n\0 "):
        return None
    try:
        one = read_line(line.content)
    except BypassError as error:
        on_unreadable(str(error))
        return "unreadable"
    if one is None:
        return None
    return await recovery.take(one, line.content, dry_run=dry_run)


def _as_har(content: bytes) -> list[Bypassed] | None:
    """Return the exchanges of a HAR; None if it is none."""
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or "log" not in said:
        return None
    return [Bypassed(each, secure=True, at="a HAR") for each in read_har(said)]


def _lines(content: bytes) -> Iterator[Line]:
    offset = 0
    for line in content.splitlines(keepends=True):
        yield Line(offset, line.rstrip(b"\r\n"))
        offset += len(line)


def _blank(path: Path, lines: list[Line]) -> None:
    """Overwrite lines where they stand."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        for line in lines:
            os.pwrite(descriptor, b"\n" * len(line.content), line.offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class BypassWatch:
    """Recovers the sign-ups of a log that a front server writes to, as they come.

    What is settled is overwritten. After a rotation the end of the old file is read
    before the new one.
    """

    def __init__(self, recovery: Recovery, path: str) -> None:
        self._recovery = recovery
        self._path = Path(path)
        self._file: int | None = None
        self._at = 0

    async def run(self) -> None:
        """Look every ten seconds; ends by being cancelled."""
        try:
            while True:
                try:
                    found = await self.look()
                    if found.read:
                        log.info("bypass.recovered", **found.as_json())
                except OSError as error:
                    log.error("bypass.log_unusable", reason=error.strerror)
                except OutboxUnavailableError as error:
                    log.error("bypass.database_unavailable", reason=str(error))
                await asyncio.sleep(LOOK_S)
        finally:
            self._close()

    async def look(self) -> Recovered:
        """Recover what has come since; raise OSError and OutboxUnavailableError."""
        found = Recovered()
        if self._file is None and not self._open():
            return found
        await self._read(found)
        if self._is_rotated():
            # Its end: what was written between the reading and the rotation.
            await self._read(found)
            self._close()
            if self._open():
                await self._read(found)
        return found

    async def _read(self, found: Recovered) -> None:
        if self._file is None:
            return
        if os.fstat(self._file).st_size < self._at:
            # Truncated where it stands.
            self._at = 0
        while block := os.pread(self._file, MAX_LINE, self._at):
            end = block.rfind(b"\n") + 1
            if not end:
                if len(block) < MAX_LINE:
                    return
                end = len(block)
            for line in _lines(block[:end]):
                await self._settle(found, line)
            self._at += end

    async def _settle(self, found: Recovered, line: Line) -> None:
        def unreadable(reason: str) -> None:
            log.error("bypass.unreadable", reason=reason)

        what = await _taken(self._recovery, line, unreadable)
        if what is None:
            return
        found.count(what)
        if what != "unreadable" and self._file is not None:
            at = self._at + line.offset
            os.pwrite(self._file, b"\n" * len(line.content), at)

    def _open(self) -> bool:
        try:
            self._file = os.open(self._path, os.O_RDWR)
        except FileNotFoundError:
            return False
        self._at = 0
        return True

    def _is_rotated(self) -> bool:
        if self._file is None:
            return False
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return False
        then = os.fstat(self._file)
        return (now.st_dev, now.st_ino) != (then.st_dev, then.st_ino)

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
