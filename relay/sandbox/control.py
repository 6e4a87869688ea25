"""The sandbox's own endpoints, for tests and the page: state, faults, options.

JSON in and out. The same endpoints take the page's forms and lead back to it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields, replace
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from relay.core.dub import errors
from relay.sandbox.api import Api
from relay.sandbox.dub import Dub
from relay.sandbox.faults import Faults, KnobError
from relay.sandbox.model import Click, Link
from relay.sandbox.options import is_web_address
from relay.sandbox.state import click_json, shown_link_json, state_json

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
        self._api.gate.reset()
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
