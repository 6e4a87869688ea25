"""The first page: do leads flow? It stays up to date by server-sent events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from relay.core import jsontext
from relay.core.clock import Clock
from relay.core.leads import LeadStatus
from relay.dashboard.access import AdminSession
from relay.dashboard.live import (
    EVERY_S,
    LiveStatus,
    LiveWatch,
    plots,
)
from relay.dashboard.pages import Pages
from relay.http.responses import RefusedError
from relay.operations.presentation import span
from relay.outbox.contract import Circuit, Outbox, OutboxUnavailableError

PACE_S: Final = 2.0
"""How often an open page gets what has changed."""

KEEPALIVE_S: Final = 20.0
"""A comment that often lets a dead connection be noticed."""

OLD_MS: Final = 15 * 60_000
"""An open lead of this age is worth a look: the usual way takes a second."""

HOURS: Final = (1, 6, 24, 168)
"""What the plots may look back on."""


@dataclass(frozen=True, slots=True)
class Headline:
    """In one line, whether leads flow; ``tone`` is good, warn or bad."""

    tone: str
    text: str
    hint: str = ""


def headline(standing: LiveStatus) -> Headline:
    """Say in ten seconds' reading how things stand, the worst first."""
    return _stopped(standing.circuit) or _waiting(standing) or _flowing(standing)


def _stopped(circuit: Circuit) -> Headline | None:
    reason = (circuit.reason or "no reason was kept").rstrip(".")
    if circuit.paused:
        return Headline("warn", "Delivery is paused by a person.", "Resume it below.")
    if circuit.open and circuit.parks:
        return Headline("bad", f"Nothing is sent until a person acts: {reason}.")
    if circuit.open:
        hint = "All leads wait and go on by themselves."
        return Headline("bad", f"Dub is down ({reason}).", hint)
    return None


def _waiting(standing: LiveStatus) -> Headline | None:
    if standing.oldest is not None and standing.at - standing.oldest > OLD_MS:
        age = span(standing.at - standing.oldest)
        return Headline("warn", f"The oldest open lead has waited for {age}.")
    resting = (LeadStatus.REJECTED, LeadStatus.UNCONFIRMED, LeadStatus.HELD)
    number = sum(standing.counts.get(status, 0) for status in resting)
    if number:
        many = "1 lead waits" if number == 1 else f"{number:,} leads wait"
        return Headline("warn", f"Leads flow; {many} for a person.")
    return None


def _flowing(standing: LiveStatus) -> Headline:
    if standing.total:
        return Headline("good", "Leads flow.")
    return Headline("good", "Ready. No lead has come yet.")


class OverviewPages:
    """Draws the overview once for all who look."""

    def __init__(
        self,
        outbox: Outbox,
        watch: LiveWatch,
        pages: Pages,
        clock: Clock,
        stopping: Callable[[], bool],
    ) -> None:
        self._outbox = outbox
        self._watch = watch
        self._pages = pages
        self._clock = clock
        self._stopping = stopping
        self._drawn: tuple[LiveStatus, str] | None = None
        self._plotted: dict[int, tuple[float, bytes]] = {}

    async def page(self, _: web.Request, session: AdminSession) -> web.Response:
        """Show how things stand."""
        standing = await self._watch.standing()
        return self._pages.answer(
            "overview.html",
            session,
            live=self._draw(standing),
            circuit=standing.circuit,
        )

    async def live(self, request: web.Request, _: AdminSession) -> web.StreamResponse:
        """Send the live part whenever it has changed, until the page is closed."""
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        try:
            async for event in self._events():
                await response.write(event)
        except ConnectionError:
            # The page was closed: nobody is there to be sent anything.
            return response
        return response

    async def _events(self) -> AsyncIterator[bytes]:
        said, told_at = "", time.monotonic()
        while not self._stopping():
            await asyncio.sleep(PACE_S)
            try:
                text = self._draw(await self._watch.standing())
            except OutboxUnavailableError:
                continue
            if text != said:
                said, told_at = text, time.monotonic()
                yield "".join(f"data: {line}\n" for line in text.splitlines()).encode()
                yield b"\n"
            elif time.monotonic() - told_at > KEEPALIVE_S:
                told_at = time.monotonic()
                yield b": still here\n\n"

    def _draw(self, standing: LiveStatus) -> str:
        """Render the live part, once for each standing."""
        if self._drawn is None or self._drawn[0] is not standing:
            text = self._pages.text(
                "_overview.html",
                None,
                standing=standing,
                headline=headline(standing),
                tiles=list(_tiles(standing)),
            )
            self._drawn = (standing, text)
        return self._drawn[1]

    async def plots(self, request: web.Request, _: AdminSession) -> web.Response:
        """Return the series of the last hours as JSON."""
        hours = request.query.get("hours", "24")
        if not hours.isascii() or not hours.isdigit() or int(hours) not in HOURS:
            raise RefusedError(400, f"hours: must be one of {HOURS}.")
        return web.Response(
            body=await self._series(int(hours)),
            content_type="application/json",
            headers={"Cache-Control": "no-store"},
        )

    async def _series(self, hours: int) -> bytes:
        """Draw the last hours once for all who look, until there are new samples."""
        until, body = self._plotted.get(hours, (0.0, b""))
        if time.monotonic() >= until:
            since = self._clock() - hours * 3_600_000
            body = jsontext.encode(plots(await self._outbox.samples(since)))
            self._plotted[hours] = (time.monotonic() + EVERY_S, body)
        return body


def _tiles(standing: LiveStatus) -> Iterator[tuple[LeadStatus, int, str]]:
    """Return each state with its number and its tone, in the order of the way."""
    tones = {
        **dict.fromkeys((LeadStatus.DELIVERED, LeadStatus.CONFIRMED), "good"),
        **dict.fromkeys((LeadStatus.REJECTED, LeadStatus.PARKED), "bad"),
        **dict.fromkeys(
            (LeadStatus.UNCONFIRMED, LeadStatus.HELD, LeadStatus.WAITING), "warn"
        ),
    }
    for status in LeadStatus:
        number = standing.counts.get(status, 0)
        yield status, number, tones.get(status, "") if number else ""
