"""Who may see the dashboard: a password, a signed session, a token in each form.

A session is a signed cookie that all relays with the same secret accept. Another
password ends every session, since each names the password that it was opened with;
signing out ends one, by an entry in the audit log that all relays of a database read.
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
from relay.core.http import cookies
from relay.core.http.headers import Network
from relay.core.signing import BadSignatureError, sign_json, verify_json
from relay.http.callers import Trusted, VisitorRate
from relay.http.request_guard import every
from relay.http.responses import RefusedError
from relay.observability.logging import get_logger
from relay.outbox.contract import AuditEntry, Outbox, OutboxUnavailableError

log = get_logger()

COOKIE: Final = "dub_relay_session"
SESSION_S: Final = 12 * 3600
"""A working day: an operator who is signed in longer has forgotten the tab."""

TRIES_A_MINUTE: Final = 10
"""Passwords that one address may try: a person mistypes three times, and a list of
the ten thousand commonest takes sixteen hours."""

TRIES_OF_ALL: Final = 60
"""Passwords that all addresses together may try in a minute: argon2 takes 0.15 s of a
core and 64 MiB for each, one at a time."""

MAX_SIGN_IN: Final = 4096
"""Bytes of the form to sign in: a password, and the address of a page."""

ENDED_READ: Final = 500
"""Entries of the audit log that are searched for sign-outs of other relays."""

ENDED_EVERY_S: Final = 2.0
"""How often at most; so long a copied cookie may still be accepted elsewhere."""

SIGN_OUT: Final = "sign-out"
"""The name of a sign-out in the audit log; the subject is the session's hash."""

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
        outbox: Outbox,
        identity: Identity | None = None,
    ) -> None:
        self._password = password
        self._secrets = tuple(secrets)
        self._path = path
        self._trusted = trusted
        self._clock = clock
        self._identity = identity
        self._ended = EndedSessions(outbox, clock)
        self._rate = VisitorRate(TRIES_A_MINUTE)
        self._rate_of_all = VisitorRate(TRIES_OF_ALL)
        self._one_at_a_time = asyncio.Lock()
        # Names the password in a session, and reveals nothing of it.
        self._mark = hmac.new(
            self._secrets[0].encode(), (password or "").encode(), sha256
        ).hexdigest()[:16]

    @property
    def by_password(self) -> bool:
        """Whether there is a password to sign in with."""
        return self._password is not None

    async def session(self, request: web.Request) -> AdminSession | None:
        """Return the session of a request, None if nobody is signed in."""
        session = self._signed(request)
        if session is None or await self._ended.includes(session):
            return None
        return session

    def _signed(self, request: web.Request) -> AdminSession | None:
        if self._identity is not None and (who := self._identity.actor(request)):
            return AdminSession(who, who)
        if self._password is None:
            return None
        try:
            said = verify_json(
                _session_cookie(request),
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

    def admit(self, request: web.Request) -> None:
        """Count a try to sign in, before its body is read; raise RefusedError(429)."""
        now = time.monotonic()
        wait = self._rate.take(self._trusted.address(request), now)
        wait = wait or self._rate_of_all.take("", now)
        if wait:
            raise RefusedError(
                429,
                "Too many passwords were tried. Wait a little.",
                {"Retry-After": str(int(wait) + 1)},
            )

    async def sign_in(self, given: str) -> bool:
        """Say whether the password is right."""
        # A hash takes long on purpose; nobody else should wait for it, nor for many.
        async with self._one_at_a_time:
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

    async def close(self, request: web.Request, response: web.StreamResponse) -> None:
        """End the session, so that no copy of its cookie is accepted, and remove it."""
        response.del_cookie(COOKIE, path=self._path)
        session = await self.session(request)
        if session is not None and session.actor == ADMIN:
            await self._ended.add(session)

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


class EndedSessions:
    """The sessions that were ended by signing out, on any relay of the database."""

    def __init__(self, outbox: Outbox, clock: Clock) -> None:
        self._outbox = outbox
        self._clock = clock
        self._hashes: set[str] = set()
        self._read_at = -ENDED_EVERY_S

    async def includes(self, session: AdminSession) -> bool:
        """Whether this session was ended."""
        now = time.monotonic()
        if now - self._read_at >= ENDED_EVERY_S:
            self._read_at = now
            await self._read()
        return _hashed(session) in self._hashes

    async def add(self, session: AdminSession) -> None:
        """End a session; while the database is down, on this relay alone."""
        ended = _hashed(session)
        self._hashes.add(ended)
        act = AuditEntry(self._clock(), session.actor, SIGN_OUT, ended)
        try:
            await self._outbox.record(act)
        except OutboxUnavailableError:
            log.warning("dashboard.sign_out_not_recorded")

    async def _read(self) -> None:
        oldest = self._clock() - SESSION_S * 1000
        try:
            acts = await self._outbox.audit_log(ENDED_READ)
        except OutboxUnavailableError:
            return  # the page itself answers for that
        self._hashes.update(
            act.subject for act in acts if act.name == SIGN_OUT and act.at > oldest
        )


def _session_cookie(request: web.Request) -> str:
    """Return the first cookie of this name: a browser sends one, and each costs."""
    lines = [line.decode("latin-1") for line in every(request.raw_headers, b"cookie")]
    return next(iter(cookies.values(lines, COOKIE)), "")


def _hashed(session: AdminSession) -> str:
    return sha256(session.key.encode()).hexdigest()[:16]


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
