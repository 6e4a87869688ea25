"""Acme, the demo's sample SaaS site: a landing page and three ways to sign up.

``POST /signup`` is an HTML form and ``POST /api/signup`` takes JSON; neither
knows of Dub, and a relay in front of the site sees the sign-up by its rules.
``POST /register`` shows what a site writes that calls the relay's hook itself.
A site with a script tag has no relay in front of it, so there its JSON sign-up
calls the hook too.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from multidict import MultiMapping

from relay.core.clock import now_ms
from relay.core.resources import (
    static_dir,
    templates_dir,
)
from relay.core.signing import sign_webhook

EVENT: Final = "Sign Up"

SESSION: Final = "acme_session"

HOOK_TIMEOUT_S: Final = 5.0
"""A sign-up must not wait longer than this for anything that is not its own."""

_HTML: Final = "text/html"


class EmailTakenError(Exception):
    """Somebody has signed up with this address before: no user is made."""


class MissingFieldError(Exception):
    """A name or an address is missing: no user is made."""


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who signed up."""

    id: str
    name: str
    email: str


@dataclass(slots=True)
class Users:
    """The site's users and sessions, in memory."""

    by_email: dict[str, User] = field(default_factory=dict)
    by_session: dict[str, User] = field(default_factory=dict)

    def create(self, name: str, email: str) -> User:
        """Make a user; raise EmailTakenError or MissingFieldError."""
        name, email = name.strip(), email.strip().lower()
        if not name or not email:
            raise MissingFieldError
        if email in self.by_email:
            raise EmailTakenError
        user = User(f"u_{secrets.token_hex(6)}", name, email)
        self.by_email[email] = user
        return user

    def log_in(self, user: User) -> str:
        """Start a session; return its cookie's value."""
        session = secrets.token_urlsafe(16)
        self.by_session[session] = user
        return session


@dataclass(frozen=True, slots=True)
class Hook:
    """Where the site's own code calls the relay, and the keys it signs with."""

    url: str
    keys: Sequence[bytes] = field(repr=False)


USERS: Final = web.AppKey("users", Users)
"""Where an application keeps its users, for tests that look inside."""


class Site:
    """Acme's pages and its two or three sign-ups."""

    def __init__(self, script_src: str | None, hook: Hook | None) -> None:
        self._script_src = script_src
        self._hook = hook
        self._pages = Environment(
            loader=FileSystemLoader(templates_dir() / "site"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.users = Users()

    def routes(self) -> list[web.RouteDef]:
        """List the pages and endpoints."""
        routes = [
            web.get("/", self._page("landing")),
            web.get("/signup", self._page("signup")),
            web.post("/signup", self._sign_up_by_form),
            web.get("/signup-json", self._page("signup_json")),
            web.post("/api/signup", self._sign_up_by_json),
            web.get("/welcome", self._welcome),
            web.get("/assets/site.css", _asset("sandbox-site.css")),
            web.get("/assets/site.js", _asset("sandbox-site.js")),
        ]
        if self._hook is not None:
            routes.append(web.get("/register", self._page("register")))
            routes.append(web.post("/register", self._register))
        return routes

    # Pages

    def _render(self, page: str, status: int = 200, **values: Any) -> web.Response:
        text = self._pages.get_template(f"{page}.html").render(
            script_src=self._script_src,
            has_hook=self._hook is not None,
            **({"error": None, "name": "", "email": ""} | values),
        )
        return web.Response(status=status, text=text, content_type=_HTML)

    def _page(self, name: str) -> Any:
        async def show(_: web.Request) -> web.StreamResponse:
            return self._render(name)

        return show

    async def _welcome(self, request: web.Request) -> web.StreamResponse:
        user = self.users.by_session.get(request.cookies.get(SESSION, ""))
        if user is None:
            return web.Response(status=303, headers={"Location": "/signup"})
        return self._render("welcome", name=user.name)

    # Sign-ups

    async def _sign_up_by_form(self, request: web.Request) -> web.StreamResponse:
        """Take the HTML form; nothing in here knows of Dub."""
        form = await _form(request)
        try:
            user = self.users.create(_field(form, "name"), _field(form, "email"))
        except (EmailTakenError, MissingFieldError) as error:
            return self._refuse("signup", form, error)
        return self._welcomed(user)

    async def _sign_up_by_json(self, request: web.Request) -> web.StreamResponse:
        """Take JSON; with a script tag, no relay is in front: call the hook."""
        try:
            body = json.loads(await request.read())
            user = self.users.create(str(body["name"]), str(body["email"]))
        except (EmailTakenError, MissingFieldError) as error:
            return web.json_response({"error": _why(error)}, status=422)
        except (ValueError, KeyError, TypeError, RecursionError):
            return web.json_response({"error": "name and email, please"}, status=400)
        if self._script_src is not None:
            await self._call_hook(request, user)
        answer = {"user": {"id": user.id, "name": user.name}}
        response = web.json_response(answer, status=201)
        self._set_session(response, user)
        return response

    async def _register(self, request: web.Request) -> web.StreamResponse:
        """Take the form, then call the relay: the whole of a hook integration."""
        form = await _form(request)
        try:
            user = self.users.create(_field(form, "name"), _field(form, "email"))
        except (EmailTakenError, MissingFieldError) as error:
            return self._refuse("register", form, error)
        await self._call_hook(request, user)
        return self._welcomed(user)

    async def _call_hook(self, request: web.Request, user: User) -> None:
        """Post the sign-up to the relay, with the visitor's cookies as they came."""
        if self._hook is None:
            return
        payload = {
            "cookie": "; ".join(request.headers.getall("Cookie", [])),
            "eventName": EVENT,
            "customerExternalId": user.id,
            "customerName": user.name,
            "customerEmail": user.email,
        }
        body = json.dumps(payload).encode()
        # The user's id makes the message's: a call that is repeated counts once.
        signed = sign_webhook(
            self._hook.keys, f"signup_{user.id}", now_ms() // 1000, body
        )
        headers = {**signed, "Content-Type": "application/json"}
        await _post(self._hook.url, body, headers)

    # Answers

    def _welcomed(self, user: User) -> web.Response:
        response = web.Response(status=303, headers={"Location": "/welcome"})
        self._set_session(response, user)
        return response

    def _set_session(self, response: web.Response, user: User) -> None:
        response.set_cookie(
            SESSION, self.users.log_in(user), httponly=True, samesite="Lax"
        )

    def _refuse(
        self, page: str, form: MultiMapping[Any], error: Exception
    ) -> web.Response:
        return self._render(
            page,
            422,
            error=_why(error),
            name=_field(form, "name"),
            email=_field(form, "email"),
        )


async def _post(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Call the relay; a sign-up succeeds whatever comes of it."""
    timeout = aiohttp.ClientTimeout(total=HOOK_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url, data=body, headers=headers) as answer,
        ):
            if answer.status >= 400:
                _tell(f"the relay's hook answered {answer.status}")
    except (aiohttp.ClientError, TimeoutError) as error:
        _tell(f"the relay's hook did not answer ({type(error).__name__})")


def _tell(line: str) -> None:
    """Write where the demo writes: its terminal is the site's log."""
    sys.stderr.write(f"site: {line}\n")


async def _form(request: web.Request) -> MultiMapping[Any]:
    try:
        return await request.post()
    except (ValueError, LookupError):
        raise web.HTTPBadRequest(text="This is no form.\n") from None


def _field(form: MultiMapping[Any], name: str) -> str:
    value = form.get(name, "")
    return value if isinstance(value, str) else ""


def _why(error: Exception) -> str:
    if isinstance(error, EmailTakenError):
        return "Somebody has already signed up with this e-mail address."
    return "Please give a name and an e-mail address."


def _asset(name: str) -> Any:
    async def serve(_: web.Request) -> web.StreamResponse:
        return web.FileResponse(static_dir() / name)

    return serve


def make_site(
    *, script_src: str | None = None, hook: Hook | None = None
) -> web.Application:
    """Make the sample site.

    ``script_src`` puts the relay's script tag on every page; ``hook`` adds
    ``/register``, whose code calls the relay.
    """
    site = Site(script_src, hook)
    app = web.Application()
    app[USERS] = site.users
    app.add_routes(site.routes())
    return app
