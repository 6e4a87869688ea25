"""Where a relay listens, for visitors and for operators, and the certificate it shows.

A certificate is read again when its files change, as certbot and cert-manager write
them; connections that are open keep the old one, new ones get the new.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Protocol

from aiohttp import web

from relay.config.settings import Listen, Settings
from relay.http.callers import Trusted
from relay.http.fast_path import FAST_PATHS
from relay.http.limits import ListenerLimits
from relay.http.listener import ListenerRunner
from relay.observability.logging import get_logger

log = get_logger()

REQUEST_GRACE_S: Final = 10.0
"""How long open requests may take at a stop; Kubernetes kills after 30 s, and
delivery's own grace and the last commits must fit in too."""

LAST_WORDS_S: Final = 0.25
"""How long a client that came last may take to send a request: a connection without
one is closed after that."""

LOOK_S: Final = 2.0
"""How often the files are looked at: two calls of stat."""


class WebSide(Protocol):
    """What a listener needs to know of a relay."""

    settings: Settings

    def application(self) -> web.Application:
        """Return what answers visitors."""

    def dashboard_application(self) -> web.Application:
        """Return what answers at the dashboard's own address."""


class Listeners:
    """The sockets of a relay. ``given`` is one that listens already."""

    def __init__(
        self, relay: WebSide, *, share_port: bool, given: socket.socket | None
    ) -> None:
        self._relay = relay
        self._share_port = share_port
        self._given = given
        self._runner: ListenerRunner | None = None
        self._site: web.BaseSite | None = None

    async def start(self, stack: AsyncExitStack) -> bool:
        """Listen until the stack unwinds; False, with a line on stderr, if it fails."""
        return await self._start_dashboard(stack) and await self._start_front(stack)

    async def _start_front(self, stack: AsyncExitStack) -> bool:
        settings = self._relay.settings
        try:
            certificate = _certificate(settings)
        except TlsError as error:
            sys.stderr.write(f"dub-relay: RELAY_TLS_CERT: {error}\n")
            return False
        application = self._relay.application()
        fast_paths = application[FAST_PATHS]
        self._runner = runner = ListenerRunner(
            application,
            fast_paths,
            limits=listener_limits(settings),
            exempt=Trusted(settings.trusted_proxies).includes,
            access_log=None,
            shutdown_timeout=REQUEST_GRACE_S,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        context = None
        if certificate is not None:
            context = certificate.context
            watching = asyncio.create_task(certificate.watch())
            stack.callback(watching.cancel)
        if self._given is not None:
            self._site = web.SockSite(runner, self._given, ssl_context=context)
        else:
            self._site = self._site_at(runner, settings.listen, context)
        if not await _listening(self._site, "RELAY_LISTEN"):
            return False
        log.info("relay.listening", url=_url(runner, self._site, context))
        return True

    async def _start_dashboard(self, stack: AsyncExitStack) -> bool:
        """Serve the dashboard at an address of its own, if it has one."""
        settings = self._relay.settings
        if settings.dashboard_listen is None:
            return True
        runner = web.AppRunner(
            self._relay.dashboard_application(),
            access_log=None,
            shutdown_timeout=REQUEST_GRACE_S,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = self._site_at(runner, settings.dashboard_listen, None)
        if not await _listening(site, "RELAY_ADMIN_LISTEN"):
            return False
        url = f"{_url(runner, site, None)}{settings.prefix}/dashboard/"
        log.info("dashboard.listening", url=url)
        return True

    def _site_at(
        self, runner: web.AppRunner, listen: Listen, context: ssl.SSLContext | None
    ) -> web.BaseSite:
        if listen.unix is not None:
            return web.UnixSite(runner, listen.unix, ssl_context=context)
        return web.TCPSite(
            runner,
            listen.host,
            listen.port,
            ssl_context=context,
            reuse_port=self._share_port or None,
        )

    async def drain(self) -> None:
        """Release visitors to other relays, or to the one that comes after this.

        A socket of our own is still listened on, for it refuses once it is closed; one
        that was given keeps those who come for the next process.
        """
        if self._runner is None or self._site is None:
            return
        self._runner.drain()
        span = self._relay.settings.drain
        if self._given is not None:
            await self._site.stop()
            await asyncio.sleep(span)
            return
        await asyncio.sleep(span)
        await self._site.stop()
        await asyncio.sleep(min(span, LAST_WORDS_S))


async def _listening(site: web.BaseSite, setting: str) -> bool:
    """Start to listen; say which setting is wrong if that cannot be."""
    try:
        await site.start()
    except OSError as error:
        sys.stderr.write(f"dub-relay: {setting}: {error.strerror or error}\n")
        return False
    return True


def listener_limits(settings: Settings) -> ListenerLimits:
    """Return what visitors may use, as it is set."""
    return ListenerLimits(
        line=settings.limits_line,
        field=settings.limits_header,
        fields=settings.limits_headers,
        whole_head=settings.limits_head,
        head=settings.limits_header_timeout,
        idle=settings.limits_idle,
        body_rate=settings.limits_body_rate,
        body_span=settings.limits_body_span,
        stall=settings.limits_visitor_stall,
        connections=settings.limits_connections,
    )


def _certificate(settings: Settings) -> Certificate | None:
    if settings.tls_cert is None:
        return None
    return Certificate(settings.tls_cert, settings.tls_key)


def _url(
    runner: web.AppRunner, site: web.BaseSite, context: ssl.SSLContext | None
) -> str:
    address = runner.addresses[0]
    if isinstance(address, tuple):
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        return f"http{'s' if context else ''}://{host}:{address[1]}"
    return site.name


class TlsError(Exception):
    """A certificate or its key cannot be used; one line that says why."""


class Certificate:
    """A certificate and its key in files, and the context that serves them."""

    def __init__(self, cert: str, key: str | None = None) -> None:
        """Read the files; raise :class:`TlsError` if they are of no use."""
        self._paths = (cert, key or cert)
        self._seen = self._stamp()
        self.context = self._context()

    async def watch(self) -> None:
        """Read the files again whenever they change, until cancelled.

        A pair that is wrong, or only half written, is not used.
        """
        while True:
            await asyncio.sleep(LOOK_S)
            self.refresh()

    def refresh(self) -> None:
        """Use the files' new content if there is any."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._context()  # tried on its own: the one in use must stay whole
            self.context.load_cert_chain(*self._paths)
        except (TlsError, OSError) as error:
            log.error("tls.not_reloaded", error=type(error).__name__)
            return
        log.info("tls.reloaded")

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(*self._paths)
        except ssl.SSLError as error:
            raise TlsError(f"no certificate with its key ({error.reason})") from error
        except OSError as error:
            raise TlsError(f"cannot be read: {error.strerror}") from error
        return context

    def _stamp(self) -> tuple[int, ...]:
        stamps: list[int] = []
        for path in self._paths:
            try:
                found = Path(path).stat()
            except OSError:
                stamps.append(0)
            else:
                stamps += (found.st_mtime_ns, found.st_ino, found.st_size)
        return tuple(stamps)
