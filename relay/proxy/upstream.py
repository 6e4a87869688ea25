"""The client of the site behind the proxy: its instances, and the connections to each.

A request goes to the instance with the fewest under way, among those that accept
connections. It moves on to another only while the first cannot have seen any of it;
once a byte may have arrived, nothing but a safe request without a body is ever sent
again.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from relay.core.http.headers import Headers
from relay.core.http.site_host import SiteHost
from relay.http.aiohttp_internals import SiteProtocol
from relay.observability.logging import get_logger
from relay.proxy.exchange import Body, GoneError, UpstreamError, UpstreamLimits
from relay.proxy.upstream_connection import Connection, UpstreamAnswer

log = get_logger()

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


CHECK_S: Final = 1.0
"""How often every instance is asked for a connection. That is how long one that
came back may wait for work; one that went away is noticed by the next request."""


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
        host: SiteHost | None = None,
    ) -> None:
        self.site = parse_site(url)
        self._limits = limits or UpstreamLimits()
        self._tls = (tls or ssl.create_default_context()) if self.site.tls else None
        # A server that chooses its site by the name has a certificate for that name.
        named = host is not None and self.site.tls
        self._server_name = host.server_name if host and named else None
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._closer: asyncio.TimerHandle | None = None
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
        """Forward one request and return the answer as soon as its head is there.

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
        """Return a kept connection for a request, or None.

        Without a body, if its method is a safe one: it may have to go again.
        """
        return self._kept(IDLE_S if method in REPEATABLE else HOT_S)

    async def reachable(self) -> bool:
        """Whether the site accepts a connection."""
        try:
            connection = await self._open()
        except UpstreamError:
            return False
        connection.abort()
        return True

    async def close(self) -> None:
        """Close the kept connections; those under way close when they end."""
        self._closed = True
        if self._closer is not None:
            self._closer.cancel()
        while self._idle:
            self._idle.pop().abort()

    def keep(self, connection: Connection) -> None:
        """Keep a connection whose exchange ended cleanly."""
        if self._closed:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.since = loop.time()
        self._busy.discard(connection)
        self._idle.append(connection)
        if self._closer is None:
            self._closer = loop.call_later(IDLE_S, self._close_old)

    def _close_old(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = loop.time() - IDLE_S
        while self._idle and self._idle[0].since <= oldest:
            self._idle.pop(0).abort()
        self._closer = loop.call_later(IDLE_S, self._close_old) if self._idle else None

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
            lambda: SiteProtocol(loop),
            site.host,
            site.port,
            ssl=self._tls,
            server_hostname=self._server_name,
        )
        return protocol


class Sites:
    """The instances of the site, and which of them are up."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        limits: UpstreamLimits | None = None,
        host: str | None = None,
    ) -> None:
        """Forward to ``urls``; ``host`` is the Host they get, None: the visitor's."""
        if not urls:
            raise ValueError("an upstream is needed")
        self.host = host
        self.limits = limits or UpstreamLimits()
        self._name = SiteHost(host) if host else None
        self._all = [Upstream(url, limits=self.limits, host=self._name) for url in urls]
        self._down: set[Upstream] = set()
        self.authority = host or self._all[0].site.authority
        """The Host to name where a visitor named none (HTTP/1.0)."""

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Check the instances as long as this lasts; close all in the end."""
        checks = asyncio.ensure_future(self._check()) if len(self._all) > 1 else None
        try:
            yield
        finally:
            if checks is not None:
                checks.cancel()
            for upstream in self._all:
                await upstream.close()

    async def send(
        self,
        method: str,
        head: bytes,
        body: Body | None = None,
        *,
        begun: tuple[Upstream, Connection] | None = None,
    ) -> UpstreamAnswer:
        """Forward one request, as :meth:`Upstream.send` does."""
        tried: list[Upstream] = []
        upstream, connection = begun or (self._next(tried), None)
        while True:
            try:
                answer = await upstream.send(method, head, body, begun=connection)
            except UpstreamError as error:
                if error.sent:
                    raise
                self._note(upstream, up=False)
                tried.append(upstream)
                if len(tried) >= len(self._all):
                    raise
            else:
                answer.headers = self.returned(answer.headers)
                return answer
            upstream, connection = self._next(tried), None

    def returned(self, headers: Headers) -> Headers:
        """Return an answer's headers as they are right for the visitor's host."""
        return self._name.returned(headers) if self._name else headers

    def kept_for(self, method: str) -> tuple[Upstream, Connection] | None:
        """Return a kept connection, as :meth:`Upstream.kept_for` does."""
        upstream = self._least_busy(())
        connection = upstream.kept_for(method)
        if connection is None:
            return None
        self._rotate(upstream)
        return upstream, connection

    def _next(self, tried: Sequence[Upstream]) -> Upstream:
        chosen = self._least_busy(tried)
        self._rotate(chosen)
        return chosen

    def _least_busy(self, tried: Sequence[Upstream]) -> Upstream:
        """Choose the least busy that is up; where all are down, the least busy."""
        if len(self._all) == 1:
            return self._all[0]
        left = [each for each in self._all if each not in tried] or self._all
        up = [each for each in left if each not in self._down]
        return min(up or left, key=lambda each: each.busy)

    def _rotate(self, upstream: Upstream) -> None:
        """Let equals take turns."""
        if len(self._all) > 1:
            self._all.remove(upstream)
            self._all.append(upstream)

    def _note(self, upstream: Upstream, *, up: bool) -> None:
        if len(self._all) == 1:
            return  # there is nobody to take its place
        if up and upstream in self._down:
            self._down.discard(upstream)
            log.info("proxy.site_up", site=upstream.site.authority)
        elif not up and upstream not in self._down:
            self._down.add(upstream)
            log.warning("proxy.site_down", site=upstream.site.authority)

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            every = list(self._all)
            found = await asyncio.gather(*(each.reachable() for each in every))
            for upstream, up in zip(every, found, strict=True):
                self._note(upstream, up=up)


def write_head(method: str, target: bytes, headers: Headers) -> bytes:
    """Write a request's head. A line break inside a part is a defect of ours."""
    lines = [b"%s %s HTTP/1.1\r\n" % (method.encode("ascii"), target)]
    lines += [b"%s: %s\r\n" % field for field in headers]
    lines.append(b"\r\n")
    head = b"".join(lines)
    if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
        raise ValueError("a line break inside a request's head")
    return head
