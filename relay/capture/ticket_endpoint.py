"""``GET|POST ticket``: the click of this browser, signed for its page.

The page puts the ticket where a provider keeps it for the sign-up, and the
provider's hook brings it back.
"""

from __future__ import annotations

from aiohttp import web

from relay.capture.click_cookie import Landing
from relay.core.clock import Clock
from relay.core.http import tickets
from relay.core.http.tickets import Opener
from relay.http.callers import OwnPages, Visit
from relay.http.responses import answer

PATH = "ticket"


class TicketEndpoint:
    """Issues tickets to pages of the very same origin."""

    def __init__(
        self, landing: Landing, pages: OwnPages, opener: Opener, clock: Clock
    ) -> None:
        self._landing = landing
        self._pages = pages
        self._opener = opener
        self._clock = clock

    async def issue(self, request: web.Request) -> web.StreamResponse:
        """Answer the ticket and its life in seconds; null where no click is known.

        Raises RefusedError for anybody else's page.
        """
        click_id = self._click(self._pages.visit(request))
        if click_id is None:
            return answer({"ticket": None})
        ticket = tickets.issue(click_id, self._opener.secrets, self._clock())
        return answer({"ticket": ticket, "expiresIn": self._opener.life_s})

    def _click(self, visit: Visit) -> str | None:
        """Return the click of the cookie, or of the companion if that was lost."""
        click_id = visit.click_id()
        if click_id is not None:
            return click_id
        companion = self._landing.companion(visit)
        return None if companion is None or companion.used else companion.click_id
