"""What became of a registration that the relay was told of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """The one word for it."""

    QUEUED = "queued"
    """The relay has the lead on its disk, and will deliver it."""
    DUPLICATE = "duplicate"
    """This customer and event, or this very message, was taken before."""
    UNATTRIBUTED = "unattributed"
    """No click led to this registration. There is nothing to do."""
    SPOOLED = "spooled"
    """The relay gave no good answer; the local file has it, and it is sent later."""
    REFUSED = "refused"
    """A mistake of the integration, which a repetition would not mend."""
    LOST = "lost"
    """Neither the relay nor the local file took it."""


@dataclass(frozen=True, slots=True)
class Result:
    """What happened, why, and under which ids. It holds nothing personal.

    ``lead_id`` is the relay's (``lead_…``); ``webhook_id`` is that of the
    message, as the relay's log and the spool know it.
    """

    status: Status
    reason: str = ""
    lead_id: str | None = None
    webhook_id: str | None = None

    @property
    def safe(self) -> bool:
        """Whether nothing was lost: it is taken, waits on the disk, or is no lead."""
        return self.status not in (Status.REFUSED, Status.LOST)
