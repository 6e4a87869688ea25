"""``cookie`` and ``ticket``: calls that pages of the very same origin make.

Safari keeps a cookie that a script wrote for seven days at most, one that the
site's server wrote for its full time. So the script reports its click here, and
gets the cookie again from the server, with the signed click cookie beside it.

Anyone who can make a visitor's browser call this could plant a click, so only
pages of the very same origin may. There are no CORS headers, and what an HTML
form can send is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from relay.capture.click_cookie import Landing
from relay.core.clock import Clock
from relay.core.http import tickets
from relay.core.http.cookies import Attribution, is_click_id
from relay.core.http.tickets import Opener
from relay.http.callers import OwnPages, Trusted
from relay.http.request_body import content_type, read_small
from relay.http.responses import RefusedError, answer, read_object

MAX_BODY: Final = 1024
"""Bytes of a body; it holds one id of 64 characters at most."""

FIELD: Final = "dub_id"


class CookieEndpoint:
    """Writes, restores and removes the click cookie for the site's own pages."""

    def __init__(
        self,
        landing: Landing,
        trusted: Trusted,
        on_difference: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._landing = landing
        self._pages = OwnPages(trusted)
        self._on_difference = on_difference

    async def keep(self, request: web.Request) -> web.StreamResponse:
        """Write the click of the body for its full time.

        Without one, restore what was lost; ``null`` forgets it, as DELETE does, and
        ``{"used": true}`` says that a sign-up has taken it. What the tag says otherwise
        than the settings is reported.
        Raises RefusedError for anybody else's page and for what is no such body.
        """
        visit = self._pages.visit(request)
        if content_type(request)[0] != "application/json":
            raise RefusedError(415, "The Content-Type must be application/json.")
        document = read_object(await read_small(request, MAX_BODY))
        click_id = document.get(FIELD)
        is_text = isinstance(click_id, str) and is_click_id(click_id)
        if click_id is not None and not is_text:
            raise RefusedError(422, f"{FIELD}: is no click id.")
        if "options" in document:
            self._on_difference("data-cookie-options")
            return _silent(self._landing.without_used(visit))
        if document.get("used") is True:
            return _silent(self._landing.used(visit))
        model = _model(document.get("model"))
        if model not in (None, self._landing.attribution):
            self._on_difference(f"data-attribution-model={model}")
        if FIELD not in document:
            return _silent(self._landing.restored(visit))
        if click_id is None:
            return _silent(self._landing.forgotten(visit))
        lines = self._landing.reported(visit, click_id, _page(request), model)
        return _silent(lines)

    async def forget(self, request: web.Request) -> web.StreamResponse:
        """Remove the click cookie and its signed copy: consent was withdrawn."""
        return _silent(self._landing.forgotten(self._pages.visit(request)))


def _model(said: object) -> Attribution | None:
    """Read what a tag says of two clicks; anything else says nothing."""
    match said:
        case "last-click" | "first-click":
            return said
    return None


def _page(request: web.Request) -> str:
    """Return the path of the page that asks; browsers send it to their own origin."""
    try:
        return urlsplit(request.headers.get("Referer", "")).path or "/"
    except ValueError:
        return "/"


def _silent(lines: Sequence[bytes]) -> web.StreamResponse:
    """Answer with cookies and nothing else."""
    response = web.Response(status=204, headers={"Cache-Control": "no-store"})
    for line in lines:
        response.headers.add("Set-Cookie", line.decode("ascii"))
    return response


# --- ``GET|POST ticket``: the click of this browser, signed for its page. ---


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
        click_id = self._landing.click(self._pages.visit(request)).id
        if click_id is None:
            return answer({"ticket": None})
        ticket = tickets.issue(click_id, self._opener.secrets, self._clock())
        return answer({"ticket": ticket, "expiresIn": self._opener.life_s})
