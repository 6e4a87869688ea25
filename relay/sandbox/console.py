"""The live page, and the endpoints under ``/sandbox`` that it and the tests use.

The page is complete without JavaScript. With it, server-sent events replace
the live part whenever something changed; the same template renders both.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields, replace
from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from relay.core.dub import errors
from relay.core.resources import (
    static_dir,
    templates_dir,
)
from relay.sandbox.api import Api
from relay.sandbox.dub import Dub
from relay.sandbox.faults import KNOBS, Faults, KnobError, is_web_address
from relay.sandbox.model import Click, Link
from relay.sandbox.state import click_json, shown_link_json, state_json

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
        pages = _pages()
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
            api_key=self._api.circuit.api_key,
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


@cache
def _pages() -> Environment:
    """Compile the templates once for all sandboxes of this process."""
    pages = Environment(
        loader=FileSystemLoader(templates_dir() / "sandbox"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters["clock"] = _clock
    return pages


def _clock(iso: str) -> str:
    """Shorten a time to what changes: 12:34:56."""
    return iso[11:19]


def _fault_text(fault: dict[str, Any]) -> str:
    shown = {key: value for key, value in fault.items() if key not in ("id", "count")}
    return ", ".join(f"{key}: {value}" for key, value in shown.items())


# --- JSON in and out; the page's forms are accepted too and lead back to it. ---

PREFIX: Final = "/sandbox"

FROM_PAGE: Final = "from-page"
"""The query by which the page's forms are separated from programs. The content type
would not do: curl calls JSON a form by default."""

_LINK_FIELDS: Final = frozenset(field.name for field in fields(Link)) - {"id", "path"}


class Control:
    """Reads and changes one sandbox from outside."""

    def __init__(self, api: Api, faults: Faults) -> None:
        self._api = api
        self._faults = faults

    def routes(self) -> list[web.RouteDef]:
        """List the endpoints."""
        return [
            web.get(f"{PREFIX}/state", self._state),
            web.post(f"{PREFIX}/reset", self._reset),
            web.get(f"{PREFIX}/faults", self._show_faults),
            web.post(f"{PREFIX}/faults", self._add_fault),
            web.delete(f"{PREFIX}/faults", self._clear_faults),
            web.post(f"{PREFIX}/faults/clear", self._clear_faults),
            web.get(f"{PREFIX}/options", self._show_options),
            web.post(f"{PREFIX}/options", self._change_options),
            web.post(f"{PREFIX}/clicks", self._mint),
            web.post(f"{PREFIX}/links", self._change_link),
        ]

    async def _state(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(state_json(self._api.dub))

    async def _reset(self, request: web.Request) -> web.StreamResponse:
        self._faults.clear()
        self._api.circuit.reset()
        self._api.dub.reset()
        return _done(request, {"reset": True})

    async def _show_faults(self, _: web.Request) -> web.StreamResponse:
        standing = [fault.json() for fault in self._faults.standing]
        return web.json_response({"faults": standing})

    async def _add_fault(self, request: web.Request) -> web.StreamResponse:
        fault = self._faults.add(await _posted(request, "fault"))
        self._api.dub.changed()
        return _done(request, fault.json(), 201)

    async def _clear_faults(self, request: web.Request) -> web.StreamResponse:
        self._faults.clear()
        self._api.dub.changed()
        return _done(request, {"faults": []})

    async def _show_options(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(self._api.options.json())

    async def _change_options(self, request: web.Request) -> web.StreamResponse:
        self._api.options.change(await _posted(request, "options"))
        self._api.dub.changed()
        return _done(request, self._api.options.json())

    async def _mint(self, request: web.Request) -> web.StreamResponse:
        posted = await _posted(request, "click") if request.can_read_body else {}
        if not isinstance(posted, dict):
            raise KnobError('a click is a JSON object, as in {"link": "ada"}')
        click = mint(self._api.dub, posted)
        return _done(request, click_json(self._api.dub, click), 201)

    async def _change_link(self, request: web.Request) -> web.StreamResponse:
        link = change_link(self._api.dub, await _posted(request, "link"))
        return _done(request, shown_link_json(self._api.dub, link))


def mint(dub: Dub, posted: Mapping[str, Any]) -> Click:
    """Record a click without a visit: ``{"link": key, "id": …}``, both optional."""
    key = posted.get("link", next(iter(dub.links)))
    link = dub.link_at(key) if isinstance(key, str) else None
    if link is None:
        raise KnobError(f"there is no link {key!r}; there are: {', '.join(dub.links)}")
    click_id = posted.get("id")
    if click_id is not None and not isinstance(click_id, str):
        raise KnobError("id takes a text")
    return dub.click(link, click_id=click_id)


def change_link(dub: Dub, posted: object) -> Link:
    """Change a link, or make one: ``{"key": …, "url": …, "disabled": true}``."""
    if not isinstance(posted, dict) or not isinstance(posted.get("key"), str):
        raise KnobError('a link is a JSON object with a key, as in {"key": "ada"}')
    key = posted["key"]
    old = dub.links.get(key, Link(f"link_{key}", key, key, "http://localhost:8080/"))
    for name, value in posted.items():
        _check_link_field(name, value)
    dub.links[key] = replace(old, **posted)
    dub.changed()
    return dub.links[key]


def _check_link_field(name: str, value: object) -> None:
    if name not in _LINK_FIELDS:
        there_are = ", ".join(sorted(_LINK_FIELDS))
        raise KnobError(f"a link has no {name!r}; there are: {there_are}")
    if name == "url":
        good = isinstance(value, str) and is_web_address(value)
    elif name in ("key", "partner"):
        good = isinstance(value, str) or (name == "partner" and value is None)
    else:
        good = isinstance(value, bool)
    if not good:
        raise KnobError(f"{name} does not take this value")


async def _posted(request: web.Request, form_field: str) -> object:
    """Parse what was posted: a JSON body, or JSON in one field of a form."""
    try:
        if FROM_PAGE in request.query:
            return json.loads(str((await request.post()).get(form_field, "")))
        return json.loads(await request.read())
    except (ValueError, LookupError, RecursionError):
        raise KnobError("what was posted is not JSON") from None


def _done(
    request: web.Request, answer: Mapping[str, Any], status: int = 200
) -> web.StreamResponse:
    """Answer a program with JSON, a form with the way back to the page."""
    if FROM_PAGE in request.query:
        return web.Response(status=303, headers={"Location": "/"})
    return web.json_response(answer, status=status)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Keep other sites' pages from turning the knobs; say what a knob takes.

    A page anywhere can post to an address on this machine. Browsers say where
    a request comes from; programs say nothing and may pass.
    """
    if not request.path.startswith(f"{PREFIX}/"):
        return await handler(request)
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        body = errors.error_body(
            "forbidden", "Only the sandbox's own page may do this."
        )
        return web.json_response(body, status=403)
    try:
        return await handler(request)
    except KnobError as error:
        body = errors.error_body(errors.UNPROCESSABLE, str(error))
        return web.json_response(body, status=422)
