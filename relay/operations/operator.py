"""What an operator does to the leads, once for the command line and the dashboard.

Each act that changes something is written to the
audit log: who, what, to which lead, and how it ended. Of a customer the log keeps a
hash alone.
"""

from __future__ import annotations

import asyncio
import getpass
import os
from collections.abc import Sequence
from dataclasses import dataclass

from relay.capture import spill
from relay.core.clock import iso
from relay.core.dub.retry import DAY, KEY_HELD_MS
from relay.core.leads import Lead, LeadRecord, LeadStatus, why_not_again
from relay.outbox.contract import AuditEntry, Forgotten, Outbox, Query, Scrubbed, Wanted
from relay.outbox.encryption import Seal
from relay.outbox.records import pseudonym


@dataclass(frozen=True, slots=True)
class Erased:
    """What was erased, and from where. ``unreadable`` are lines of the spill file."""

    forgotten: Forgotten
    spilled: int
    unreadable: int
    scrubbed: Scrubbed

    def __str__(self) -> str:
        """Say so in a line."""
        number = sum(self.forgotten.leads.values())
        return f"{number} erased. {self.problem or ''}".rstrip()

    @property
    def problem(self) -> str | None:
        """Say what may still hold this customer; None if nothing does."""
        if self.unreadable:
            return (
                f"{self.unreadable} lines of the spill file cannot be read, and may"
                " hold this customer: is every key in RELAY_DATA_KEY?"
            )
        if not self.scrubbed.clean:
            return f"not out of the database's files: {self.scrubbed.reason}"
        return None


async def erase(
    outbox: Outbox, database: str, seal: Seal, wanted: Wanted, now: int
) -> Erased:
    """Erase it; relays may run meanwhile.

    Raises OSError if the spill file could not be rewritten, and
    OutboxUnavailableError.
    """

    def is_wanted(lead: Lead) -> bool:
        if wanted.lead_id is not None:
            return lead.id == wanted.lead_id
        return lead.customer_external_id == wanted.customer

    # The file first: what a relay takes in meanwhile is then in the database.
    path = spill.spill_path(database)
    purged = await asyncio.to_thread(spill.forget, path, is_wanted, seal)
    forgotten = await outbox.forget(wanted, now)
    scrubbed = await outbox.scrub(forgotten)
    return Erased(forgotten, purged.leads, purged.unreadable, scrubbed)


def system_user() -> str:
    """Return who runs a command, for the audit log: ``cli:alice``.

    The person behind sudo, where there is one; ``cli:uid 1000`` for a user that the
    system has no name for.
    """
    if os.geteuid() == 0 and (behind := os.environ.get("SUDO_USER")):
        return f"cli:{behind}"
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return f"cli:uid {os.getuid()}"


@dataclass(frozen=True, slots=True)
class Retried:
    """Which leads are on their way again, and of which others why not.

    Of those that are, some wait until Dub's dedupe key is free: they are WAITING.
    """

    sent: Sequence[LeadRecord]
    refused: Sequence[str] = ()

    def __str__(self) -> str:
        """Say so in a line."""
        waiting = [one.due_at for one in self.sent if one.status is LeadStatus.WAITING]
        said = f"{len(self.sent) - len(waiting)} sent again"
        if waiting:
            free = iso(max(at or 0 for at in waiting))
            said += f"; {len(waiting)} wait for Dub's key, until {free} at the latest"
        if self.refused:
            said += f"; {len(self.refused)} not: {self.refused[0]}"
            said += " …" if len(self.refused) > 1 else ""
        return f"{said}."


class Operator:
    """One person at work; ``actor`` is who the audit log says it was."""

    def __init__(self, outbox: Outbox, actor: str) -> None:
        self._outbox = outbox
        self._actor = actor

    async def note(self, act: str, subject: str, detail: str) -> None:
        """Write down an act that was done elsewhere, such as a restored backup."""
        await self._outbox.record(
            AuditEntry(self._outbox.now(), self._actor, act, subject, detail)
        )

    async def named(
        self, lead_ids: Sequence[str]
    ) -> tuple[list[LeadRecord], list[str]]:
        """Find leads that can be sent again, and say of the others why not."""
        found, refused = [], []
        for lead_id in dict.fromkeys(lead_ids):
            entry = await self._outbox.get(lead_id)
            if entry is None:
                refused.append(f"there is no lead {lead_id}")
            elif (reason := why_not_again(entry)) is not None:
                refused.append(f"{lead_id} {reason}")
            else:
                found.append(entry)
        return found, refused

    async def in_state(
        self,
        status: LeadStatus,
        limit: int | None,
        like: LeadRecord | None = None,
    ) -> list[LeadRecord]:
        """Find the newest leads of a state that can be sent again.

        With ``like``, only those that came there for the same reason.
        """
        found: list[LeadRecord] = []
        async for entry in self._outbox.scan(Query(status=status)):
            if limit is not None and len(found) == limit:
                break
            alike = like is None or entry.last_error == like.last_error
            if alike and why_not_again(entry) is None:
                found.append(entry)
        return found

    async def retry(
        self,
        entries: Sequence[LeadRecord],
        subject: str,
        *,
        dedupe_days: int,
        act: str = "retry",
    ) -> Retried:
        """Send leads again, in the order in which they came.

        Not one that was reported again meanwhile: within ``dedupe_days`` (0: ever)
        another lead of the same customer and event has counted in its place.
        """
        sent, refused = [], []
        for entry in sorted(entries, key=lambda entry: entry.lead.created_at):
            lead_id = entry.lead.id
            done = await self._outbox.requeue(
                lead_id,
                self._outbox.now(),
                window_ms=dedupe_days * DAY,
                key_ms=KEY_HELD_MS,
            )
            if done.other is not None:
                refused.append(f"{lead_id} was reported again as {done.other}")
            elif done.due_at is None:
                refused.append(f"{lead_id} has moved on meanwhile")
            else:
                sent.append(await self._outbox.get(lead_id) or entry)
        retried = Retried(sent, refused)
        links = sorted({one.link.name for one in sent if one.link})
        credited = f" Credited to {', '.join(links)}." if links else ""
        await self.note(act, subject, f"{retried}{credited}")
        return retried

    async def forget(self, wanted: Wanted, database: str, seal: Seal) -> Erased:
        """Erase a customer's, or one lead's, personal data everywhere.

        Raises OSError if the spill file could not be rewritten.
        """
        erased = await erase(self._outbox, database, seal, wanted, self._outbox.now())
        subject = wanted.lead_id or pseudonym(wanted.customer or "")
        await self.note("forget", subject, str(erased))
        return erased

    async def pause(self, *, paused: bool) -> str:
        """Stop delivery on all relays of this database, or let it go on."""
        await self._outbox.pause(paused=paused)
        done = "Paused." if paused else "Resumed."
        await self.note("pause" if paused else "resume", "delivery", done)
        return done
