"""Who may see the dashboard: a password, a signed session, a token in each form.

A session is a signed cookie: nothing is kept on the server, and all relays that
share a secret take it. Another password ends every session, since each names the
password that it was opened with.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address
from secrets import token_urlsafe
from typing import Final

from aiohttp import web

from relay.core.clock import Clock
from relay.core.http.headers import Network
from relay.core.signing import BadSignatureError, sign_json, verify_json
from relay.http.callers import Trusted, VisitorRate
from relay.http.request_guard import every
from relay.http.responses import RefusedError
from relay.observability.logging import get_logger

log = get_logger()

COOKIE: Final = "dub_relay_session"
SESSION_S: Final = 12 * 3600
"""A working day: an operator who is signed in longer has forgotten the tab."""

TRIES_A_MINUTE: Final = 10
"""Passwords that one address may try: a person mistypes three times, and a list of
the ten thousand commonest takes sixteen hours."""

ADMIN: Final = "admin"
"""The actor that the one password signs in."""

_SESSION: Final = "dashboard session"
_FORM: Final = "dashboard form"


@dataclass(frozen=True, slots=True)
class AdminSession:
    """Somebody who is signed in; ``key`` ties the forms to this session."""

    actor: str
    key: str


@dataclass(frozen=True, slots=True)
class Identity:
    """A proxy in front that has signed people in already, and says who they are.

    Only ``networks`` are believed to set ``header``.
    """

    header: str
    networks: Sequence[Network]

    def actor(self, request: web.Request) -> str | None:
        """Return the person's name, None if this is not the proxy or it gave none."""
        try:
            peer = ip_address(request.remote or "")
        except ValueError:
            return None
        if not any(peer in network for network in self.networks):
            return None
        names = every(request.raw_headers, self.header.lower().encode())
        return names[0].decode("utf-8", "replace") or None if len(names) == 1 else None


class Access:
    """Signs in and out, and knows who is signed in."""

    def __init__(
        self,
        password: str | None,
        secrets: Sequence[str],
        *,
        path: str,
        trusted: Trusted,
        clock: Clock,
        identity: Identity | None = None,
    ) -> None:
        self._password = password
        self._secrets = tuple(secrets)
        self._path = path
        self._trusted = trusted
        self._clock = clock
        self._identity = identity
        self._rate = VisitorRate(TRIES_A_MINUTE)
        # Names the password in a session, and reveals nothing of it.
        self._mark = hmac.new(
            self._secrets[0].encode(), (password or "").encode(), sha256
        ).hexdigest()[:16]

    @property
    def by_password(self) -> bool:
        """Whether there is a password to sign in with."""
        return self._password is not None

    def session(self, request: web.Request) -> AdminSession | None:
        """Return the session of a request, None if nobody is signed in."""
        if self._identity is not None and (who := self._identity.actor(request)):
            return AdminSession(who, who)
        if self._password is None:
            return None
        try:
            said = verify_json(
                request.cookies.get(COOKIE, ""),
                self._secrets,
                _SESSION,
                self._clock(),
                max_age_s=SESSION_S,
            )
        except BadSignatureError:
            return None
        match said:
            case {"m": self._mark, "k": str(key)}:
                return AdminSession(ADMIN, key)
            case _:
                return None

    async def sign_in(self, request: web.Request, given: str) -> bool:
        """Say whether the password is right. Raises RefusedError(429) for too many."""
        address = self._trusted.address(request)
        wait = self._rate.take(address, time.monotonic())
        if wait:
            raise RefusedError(
                429,
                "Too many passwords were tried. Wait a little.",
                {"Retry-After": str(int(wait) + 1)},
            )
        # A hash takes long on purpose; nobody else should wait for it.
        right = await asyncio.to_thread(_fits, self._password, given)
        log.info("dashboard.sign_in", result="ok" if right else "wrong_password")
        return right

    def open(self, request: web.Request, response: web.StreamResponse) -> None:
        """Set the cookie of a new session."""
        said = {"m": self._mark, "k": token_urlsafe(12)}
        response.set_cookie(
            COOKIE,
            sign_json(said, self._secrets, _SESSION, self._clock()),
            path=self._path,
            max_age=SESSION_S,
            httponly=True,
            samesite="Lax",
            secure=self._trusted.scheme_host(request)[0] == "https",
        )

    def close(self, response: web.StreamResponse) -> None:
        """Remove the cookie."""
        response.del_cookie(COOKIE, path=self._path)

    def token(self, session: AdminSession) -> str:
        """Return the token that a form of this session must carry."""
        return sign_json(session.key, self._secrets, _FORM, self._clock())

    def require_token(self, session: AdminSession, given: str) -> None:
        """Raise RefusedError(403) unless the form was one of this session's."""
        try:
            key = verify_json(
                given, self._secrets, _FORM, self._clock(), max_age_s=SESSION_S
            )
        except BadSignatureError:
            key = None
        if key != session.key:
            raise RefusedError(403, "This form is too old. Load the page again.")

    def require_own_page(self, request: web.Request) -> None:
        """Raise RefusedError(403) for a form of another site (Sec-Fetch-Site)."""
        sites = every(request.raw_headers, b"sec-fetch-site")
        if any(site.lower() not in (b"same-origin", b"none") for site in sites):
            raise RefusedError(403, "This form is not one of the dashboard's own.")


def _fits(password: str | None, given: str) -> bool:
    if password is None:
        return False
    if password.startswith("$argon2"):
        # Here: a plain password needs none of it.
        from argon2 import PasswordHasher  # noqa: PLC0415
        from argon2.exceptions import (  # noqa: PLC0415
            InvalidHashError,
            VerificationError,
        )

        try:
            return PasswordHasher().verify(password, given)
        except (VerificationError, InvalidHashError):
            return False
    return hmac.compare_digest(password.encode(), given.encode())
