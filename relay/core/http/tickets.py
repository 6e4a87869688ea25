"""Tickets: a click id that the relay signed for a browser of the site's own.

Anyone who may write a user's metadata may write any click id there. A ticket shows
that a page of the site carried this click within the last hour; it says nothing
of who clicked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from relay.core import signing
from relay.core.http.cookies import is_click_id

LIFE_S: Final = 3600
"""How old a ticket may be when the person signs up, unless set otherwise."""

MAX_WAIT_S: Final = 3 * 86_400
"""How long a hook may come after the sign-up and still be believed: providers try for
up to three days (Stripe's webhooks). A time of sign-up before that proves nothing."""

_PURPOSE: Final = "dub-relay.ticket"

NO_CLICK: Final = "no click id and no ticket"
UNUSABLE: Final = "what is there is neither a click id nor a ticket"
EXPIRED: Final = "the ticket was older than allowed when the person signed up"
FORGED: Final = "the ticket was not signed by this relay"
TICKET_WANTED: Final = (
    "a plain click id stands where the person may write, and"
    " hooks.require_ticket wants a ticket there"
)


def issue(click_id: str, secrets: Sequence[str], now: int) -> str:
    """Sign a ticket for a click; URL-safe text of some 80 characters."""
    return signing.sign_json(click_id, secrets, _PURPOSE, now)


def is_ticket(value: str) -> bool:
    """Separate a ticket from a click id: only what was signed has full stops."""
    return "." in value


@dataclass(frozen=True, slots=True)
class FoundClick:
    """The click that was found, and in what; or none, and why."""

    click_id: str | None
    told_by: str


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens tickets and judges plain click ids; ``life_s`` is in seconds."""

    secrets: Sequence[str]
    life_s: int = LIFE_S
    required: bool = False

    def open(self, ticket: str, now: int, at: int | None = None) -> str:
        """Return the click of a ticket; raise signing.BadSignatureError.

        ``at`` is when the person signed up (epoch milliseconds, as ``now``), which
        counts for its age: a provider may repeat a hook for MAX_WAIT_S.
        """
        waited_s = min(max(0, now - at) // 1000, MAX_WAIT_S) if at is not None else 0
        click = signing.verify_json(
            ticket, self.secrets, _PURPOSE, now, max_age_s=self.life_s + waited_s
        )
        if not isinstance(click, str) or not is_click_id(click):
            raise signing.SignatureMismatchError("a ticket holds a click id")
        return click

    def find(
        self,
        trusted: Iterable[str],
        writable: Iterable[str],
        now: int,
        at: int | None = None,
    ) -> FoundClick:
        """Choose the first usable click; what only a server writes comes first."""
        places = [(value, False) for value in trusted]
        places += [(value, self.required) for value in writable]
        found = FoundClick(None, NO_CLICK)
        for value, wary in places:
            found = self._judge(value, now, at, wary=wary)
            if found.click_id is not None:
                break
        return found

    def _judge(self, value: str, now: int, at: int | None, *, wary: bool) -> FoundClick:
        if is_ticket(value):
            try:
                return FoundClick(self.open(value, now, at), "ticket")
            except signing.StaleTimestampError:
                return FoundClick(None, EXPIRED)
            except signing.BadSignatureError:
                return FoundClick(None, FORGED)
        if not is_click_id(value):
            return FoundClick(None, UNUSABLE)
        return FoundClick(None, TICKET_WANTED) if wary else FoundClick(value, "clickId")
