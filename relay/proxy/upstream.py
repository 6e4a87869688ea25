"""The client of the site behind the proxy, and the connections it keeps."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from relay.core.http.headers import Headers
from relay.http.aiohttp_internals import SiteProtocol
from relay.proxy.exchange import (
    Body,
    UpstreamError,
)
from relay.proxy.upstream_connection import (
    Connection,
    GoneError,
    UpstreamAnswer,
    UpstreamLimits,
)

REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Safe methods (RFC 9110, 9.2.1): the only ones ever sent a second time.

A kept connection may be closed by the site at the moment a request is written
to it. A safe request without a body is then sent once more; a POST never is.
"""

HOT_S: Final = 0.5
"""How old a kept connection may be for a request that cannot be sent again.

It must stay below every server's keep-alive time (gunicorn's 2 s is the
shortest of the common ones), or the site's close would race with a sign-up.
"""

IDLE_S: Final = 15.0
"""How long a connection to the site is kept for the next request."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where the site listens: host and port, or a unix socket's path."""

    host: str
    port: int
    tls: bool = False
    path: str | None = None

    @property
    def authority(self) -> str:
        """The Host to name where a visitor named none (HTTP/1.0)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = self.port == (443 if self.tls else 80)
        return host if usual else f"{host}:{self.port}"


def parse_site(url: str) -> Site:
    """Read ``http://``, ``https://`` or ``unix:/path``; else raise ValueError."""
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        if not path.startswith("/"):
            raise ValueError("a unix upstream is written unix:/absolute/path")
        return Site("localhost", 80, path=path)
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("an upstream is http://host, https://host or unix:/path")
    if parts.path not in {"", "/"} or parts.query or parts.fragment or parts.username:
        raise ValueError("an upstream is a host and a port, without a path")
    return Site(parts.hostname, parts.port or (443 if tls else 80), tls)


class Upstream:
    """The site, and the connections kept open to it."""

    def __init__(
        self,
        url: str,
        *,
        limits: UpstreamLimits | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.site = parse_site(url)
        self._limits = limits or UpstreamLimits()
        self._tls = (tls or ssl.create_default_context()) if self.site.tls else None
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def busy(self) -> int:
        """How many requests are under way to this site."""
        return len(self._busy)

    async def send(
        self,
        method: str,
        head: bytes,
        body: Body | None = None,
        *,
        begun: Connection | None = None,
    ) -> UpstreamAnswer:
        """Pass one request on and give the answer as soon as its head is there.

        The head (:func:`write_head`) goes out byte for byte; its framing must
        already agree with the body. ``begun`` is a kept connection on which the
        same was sent before. Raises :class:`UpstreamError`, or
        :class:`RequestBodyError` when the visitor's body broke off.
        """
        repeatable = body is None and method in REPEATABLE
        connection = begun or self._kept(IDLE_S if repeatable else HOT_S)
        if connection is not None:
            try:
                if begun is not None:
                    return await begun.answer(method)
                return await connection.exchange(method, head, body)
            except GoneError:
                if not repeatable:
                    raise
        connection = await self._open()
        return await connection.exchange(method, head, body)

    def kept_for(self, method: str) -> Connection | None:
        """Give a kept connection for a request, or None.

        Without a body, if its method is a safe one: it may have to go again.
        """
        return self._kept(IDLE_S if method in REPEATABLE else HOT_S)

    async def reachable(self) -> bool:
        """Whether the site takes a connection."""
        try:
            connection = await self._open()
        except UpstreamError:
            return False
        connection.abort()
        return True

    async def close(self) -> None:
        """Close the kept connections; those under way close when they end."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        while self._idle:
            self._idle.pop().abort()

    def keep(self, connection: Connection) -> None:
        """Take a connection back whose exchange ended cleanly."""
        if self._closed:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.since = loop.time()
        self._busy.discard(connection)
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(IDLE_S, self._sweep)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = loop.time() - IDLE_S
        while self._idle and self._idle[0].since <= oldest:
            self._idle.pop(0).abort()
        self._sweeper = loop.call_later(IDLE_S, self._sweep) if self._idle else None

    def _kept(self, max_age: float) -> Connection | None:
        now = asyncio.get_running_loop().time()
        # The newest is at the end: if that one is too old, all are.
        while self._idle and now - self._idle[-1].since < max_age:
            connection = self._idle.pop()
            if connection.usable:
                self._busy.add(connection)
                return connection
            connection.abort()
        return None

    async def _open(self) -> Connection:
        try:
            async with asyncio.timeout(self._limits.connect):
                protocol = await self._dial()
        except TimeoutError as error:
            raise UpstreamError(
                "the site did not take the connection in time", status=504, sent=False
            ) from error
        except OSError as error:
            raise UpstreamError(
                f"the site cannot be reached ({type(error).__name__})", sent=False
            ) from error
        connection = Connection(protocol, self._limits, self.keep, self._busy.discard)
        self._busy.add(connection)
        return connection

    async def _dial(self) -> SiteProtocol:
        loop = asyncio.get_running_loop()
        site = self.site
        if site.path is not None:
            _, protocol = await loop.create_unix_connection(
                lambda: SiteProtocol(loop), site.path
            )
            return protocol
        _, protocol = await loop.create_connection(
            lambda: SiteProtocol(loop), site.host, site.port, ssl=self._tls
        )
        return protocol


def write_head(method: str, target: bytes, headers: Headers) -> bytes:
    """Write a request's head. A line break inside a part is a defect of ours."""
    lines = [b"%s %s HTTP/1.1\r\n" % (method.encode("ascii"), target)]
    lines += [b"%s: %s\r\n" % field for field in headers]
    lines.append(b"\r\n")
    head = b"".join(lines)
    if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
        raise ValueError("a line break inside a request's head")
    return head
