"""The live page: what the sandbox holds, its links, and buttons for faults.

The page is complete without JavaScript. With it, server-sent events replace
the live part whenever something changed; the same template renders both.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from relay.core.resources import (
    static_dir,
    templates_dir,
)
from relay.sandbox.api import Api
from relay.sandbox.faults import KNOBS, Faults
from relay.sandbox.state import state_json

SHOWN: Final = 12
"""Rows of each kind on the page; the state endpoint has all."""

PACE_S: Final = 0.2
"""At most five pictures a second: more cannot be seen, and a load test must
not be spent on drawing."""

KEEPALIVE_S: Final = 15.0
"""A comment that often lets a dead connection be noticed."""

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

BUTTONS: Final[tuple[tuple[str, str, dict[str, Any]], ...]] = (
    ("503, three times", "Nothing is done.", {"status": 503, "count": 3}),
    (
        "429, wait 2 s",
        "Once, with Retry-After: 2.",
        {"status": 429, "retry_after": "2", "count": 1},
    ),
    ("Hang for 30 s", "The next call gets no answer.", {"hang": 30, "count": 1}),
    ("Slow by 3 s", "The next five calls.", {"slow": 3, "count": 5}),
    (
        "Cut before the work",
        "The next call is lost on its way in.",
        {"cut": "before", "count": 1},
    ),
    (
        "Cut after the work",
        "The lead counts, the answer is lost.",
        {"cut": "after", "step": "record", "count": 1},
    ),
    (
        "Cut inside the answer",
        "Half of the answer arrives.",
        {"cut": "mid-body", "count": 1},
    ),
    (
        "Crash on the key",
        "500 once the dedupe key is claimed: the real trap.",
        {"crash": True, "step": "record", "count": 1},
    ),
    ("A page of HTML", "502 from a server in front.", {"html": True, "count": 1}),
    ("Late clicks", "Clicks are found after 10 s only.", {"click_delay": 10}),
    ("Key revoked", "401 until cleared.", {"key": "revoked"}),
    ("Free plan", "403 until cleared.", {"plan": "free"}),
)
"""The faults one click away: label, what it does, the fault."""


class Feed:
    """Reports to every open page that something changed."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Event] = set()
        self.closed = False

    def changed(self) -> None:
        """Wake every page."""
        for event in self._waiting:
            event.set()

    def close(self) -> None:
        """Wake every page for the last time."""
        self.closed = True
        self.changed()

    def join(self) -> asyncio.Event:
        """Add a page; its event is set at every change."""
        event = asyncio.Event()
        self._waiting.add(event)
        return event

    def leave(self, event: asyncio.Event) -> None:
        """Remove a page."""
        self._waiting.discard(event)


class Console:
    """Renders the page and its live part."""

    def __init__(self, api: Api, faults: Faults, feed: Feed) -> None:
        self._api = api
        self._faults = faults
        self._feed = feed
        pages = Environment(
            loader=FileSystemLoader(templates_dir() / "sandbox"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        pages.filters["clock"] = _clock
        self._page = pages.get_template("console.html")
        self._live = pages.get_template("_live.html")

    def routes(self) -> list[web.RouteDef]:
        """List the page, its two files and its stream."""
        return [
            web.get("/", self._show),
            web.get("/sandbox/events", self._events),
            web.get("/sandbox/static/sandbox.css", _file("sandbox.css")),
            web.get("/sandbox/static/sandbox.js", _file("sandbox.js")),
        ]

    def _holds(self) -> dict[str, Any]:
        state = state_json(self._api.dub, SHOWN)
        dub = self._api.dub
        totals = {
            "clicks": len(dub.clicks),
            "customers": len(dub.customers),
            "leads": len(dub.leads),
            "calls": len(dub.calls),
        }
        faults = [
            {"text": _fault_text(fault.json()), "left": fault.left}
            for fault in self._faults.standing
        ]
        return {**state, "totals": totals, "faults": faults, "shown": SHOWN}

    async def _show(self, request: web.Request) -> web.StreamResponse:
        text = self._page.render(
            **self._holds(),
            host=request.host,
            api_key=self._api.gate.api_key,
            buttons=[(label, does, json.dumps(f)) for label, does, f in BUTTONS],
            knobs=KNOBS,
        )
        headers = {
            "Content-Security-Policy": POLICY,
            "Cache-Control": "no-store",
            "Referrer-Policy": "same-origin",
        }
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        event = self._feed.join()
        event.set()
        try:
            while not self._feed.closed:
                await response.write(await self._next(event))
                await asyncio.sleep(PACE_S)
        except ConnectionError:
            # The page was closed: nobody is there to be sent anything.
            return response
        finally:
            self._feed.leave(event)
        return response

    async def _next(self, event: asyncio.Event) -> bytes:
        """Wait for a change and draw it; a comment when nothing happened."""
        try:
            await asyncio.wait_for(event.wait(), KEEPALIVE_S)
        except TimeoutError:
            return b": still here\n\n"
        event.clear()
        lines = self._live.render(**self._holds()).splitlines()
        return "".join([*(f"data: {line}\n" for line in lines), "\n"]).encode()


def _file(name: str) -> Any:
    async def serve(_: web.Request) -> web.StreamResponse:
        return web.FileResponse(
            static_dir() / name, headers={"Cache-Control": "no-cache"}
        )

    return serve


def _clock(iso: str) -> str:
    """Shorten a time to what changes: 12:34:56."""
    return iso[11:19]


def _fault_text(fault: dict[str, Any]) -> str:
    shown = {key: value for key, value in fault.items() if key not in ("id", "count")}
    return ", ".join(f"{key}: {value}" for key, value in shown.items())
