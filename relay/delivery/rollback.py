"""Notices that the database was set back to an older copy.

After a failover to a server that had not received everything, or a restore, leads that
Dub has are open again, and once Dub's dedupe key has run out they would count twice.
What was delivered last is remembered outside the database: a lead that is settled stays
so, and if it is not there or open, the database is older than that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from relay.core.leads import SETTLED
from relay.observability.logging import get_logger
from relay.outbox.contract import AuditEntry, Outbox

log = get_logger()

WRITE_S: Final = 1.0
"""How often the file is written at most. What was delivered since is not seen to be
missing after a kill, but then the copy is hardly older."""

BATCH: Final = 500

NOTE: Final = (
    "The database was found to be an older copy: a call of ours that it does not know"
    " may have recorded this lead."
)


class LastSeen:
    """The lead that was delivered last, in memory and in a file.

    Rows go after ``keep_days`` (0: never): what was remembered before that proves
    nothing any more.
    """

    def __init__(self, outbox: Outbox, path: Path, *, keep_days: int = 0) -> None:
        self._outbox = outbox
        self._path = path
        self._keep_s = keep_days * 86_400 or float("inf")
        self._lead_id: str | None = None
        self._written: str | None = None
        self._write_at = 0.0
        self.doubtful = True

    async def compare(self) -> None:
        """Take all open leads for ones in doubt, if the database is an older copy.

        Looks only after a start and after trouble. Raises OutboxUnavailableError.
        """
        if not self.doubtful:
            return
        lead_id = self._lead_id or await asyncio.to_thread(self._read)
        if lead_id is not None:
            found = await self._outbox.get(lead_id)
            if found is None or found.status not in SETTLED:
                await self._doubt(lead_id)
        self.doubtful = False

    async def _doubt(self, lead_id: str) -> None:
        doubted = 0
        while some := await self._outbox.doubt(NOTE, BATCH):
            doubted += some
        log.error("database.older_copy", missing=lead_id, in_doubt=doubted)
        detail = f"{lead_id} was delivered and is not; {doubted} open leads in doubt"
        await self._outbox.record(
            AuditEntry(self._outbox.now(), "relay", "older-copy", "database", detail)
        )
        self._lead_id = self._written = None
        await self._touch(partial(self._path.unlink, missing_ok=True))

    async def remember(self, lead_id: str | None, *, at_once: bool = False) -> None:
        """Remember what was delivered last; the file is written now and then."""
        self._lead_id = lead_id or self._lead_id
        if self._lead_id == self._written or self._lead_id is None:
            return
        if time.monotonic() < self._write_at and not at_once:
            return
        self._written = self._lead_id
        self._write_at = time.monotonic() + WRITE_S
        await self._touch(partial(self._write, self._lead_id))

    async def _touch(self, change: Callable[[], object]) -> None:
        """Change the file; where that cannot be, memory alone remembers."""
        try:
            await asyncio.to_thread(change)
        except OSError as error:
            log.debug("database.seen_not_written", reason=error.strerror or "")

    def _read(self) -> str | None:
        try:
            if time.time() - self._path.stat().st_mtime > self._keep_s:
                return None
            return self._path.read_text(encoding="ascii").strip() or None
        except (OSError, UnicodeDecodeError):
            return None  # none yet, or not ours

    def _write(self, lead_id: str) -> None:
        # Replaced as a whole: workers share it.
        new = self._path.with_suffix(".seen.new")
        new.write_text(f"{lead_id}\n", encoding="ascii")
        new.replace(self._path)
